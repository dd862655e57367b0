"""Audio files -> tables: scan, decode (worker threads), windows, embed (one MLX thread), write. `run.Ingest` drives it.

Queues between the stages are bounded, so memory is flat in the length of a file and in the size of a library.
"""

from .run import Ingest, Progress, Summary

__all__ = ["Ingest", "Progress", "Summary"]
