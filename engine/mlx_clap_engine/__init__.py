"""mlx_clap_engine: files -> windows -> embeddings -> tables -> answers. `Library` is its face in Python."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .library import Library

__all__ = ["Library"]


def __getattr__(name: str) -> object:
    """Import `Library`, and with it LanceDB and MLX, only when it is asked for."""
    if name == "Library":
        from .library import Library

        return Library
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
