"""mlx_clap: the CLAP audio-text model in Apple MLX.

>>> from mlx_clap import Clap
>>> clap = Clap.load("path/to/model")
>>> clap.embed_text(["a dog barking"]).shape
(1, 512)

It knows no database, command line, torch, or network.
"""

from typing import TYPE_CHECKING

from .errors import AskedWronglyError, ClapError, InputError, ModelFormatError, ModelNotFoundError

if TYPE_CHECKING:
    from .clap import Clap

__version__ = "0.1.0"

__all__ = [
    "AskedWronglyError",
    "Clap",
    "ClapError",
    "InputError",
    "ModelFormatError",
    "ModelNotFoundError",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Import `Clap`, and with it MLX, only when it is asked for."""
    if name == "Clap":
        from .clap import Clap

        return Clap
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
