"""The library on disk: the only rooms that import lancedb."""
