"""Making a new, empty library in a folder."""

import os
from pathlib import Path

from mlx_clap_engine.errors import LibraryError

from .connection import Connection, writable
from .disk import Sweeper, require_hard_links
from .lock import LOCK_FILE, WriterLock
from .schema import SCHEMAS


def create_library(folder: Path) -> None:
    """Make the tables in `folder`, which must be new, empty, or what an interrupted call has left.

    Raises:
        LibraryError: the folder holds something else, cannot be written to, or is on a disk a library cannot live on.
        LibraryBusyError: another process is at it.
    """
    if not str(folder).isprintable():  # LanceDB takes no control characters, nor bytes that are not text
        raise LibraryError(
            f"A library cannot be made at {str(folder)!r}: a name on the way there holds characters that are not text. "
            "Choose another folder with --library"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = set(os.listdir(folder)) - {LOCK_FILE, ".DS_Store"} - {f"{name}.lance" for name in SCHEMAS}
    except OSError as error:
        raise LibraryError(
            f"A library cannot be made at {folder}: {error.strerror}. Choose another folder with --library"
        ) from error
    if present:
        raise LibraryError(
            f"{folder} is not a library and is not empty (it holds {min(present)!r}). "
            "Choose a new or an empty folder with --library"
        )
    require_hard_links(folder)
    lock = WriterLock.acquire(folder)
    try:
        with writable(folder):
            sweeper = Sweeper(folder)
            Connection(folder).create_missing(SCHEMAS)
            sweeper.sweep(SCHEMAS)
    except BaseException:
        lock.release(clean=False)
        raise
    lock.release(clean=True)
