"""Errors of the engine: see `mlx_clap.errors` for the whole tree.

EngineError
 ├─ LibraryError       the library is missing, damaged, of a newer schema, or on a disk it cannot live on
 │   └─ LibraryBusyError   another process is writing to it
 ├─ SpaceError         embeddings of different models were about to be compared
 ├─ DecodeError        a file that holds no readable audio
 └─ FilterError        (asked wrongly) a filter that does not parse
"""

from mlx_clap.errors import AskedWronglyError, ClapError


class EngineError(ClapError):
    """A library, a file or a question that cannot be served."""


class LibraryError(EngineError):
    """The library is missing, damaged, of a newer schema, or on a disk it cannot live on."""


class LibraryBusyError(LibraryError):
    """Another process is writing to the library."""


class SpaceError(EngineError):
    """Embeddings of different models were about to be compared."""


class DecodeError(EngineError):
    """A file that holds no readable audio."""


class FilterError(AskedWronglyError, EngineError):
    """A filter that does not parse."""
