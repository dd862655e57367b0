"""Files and folders of results that appear whole or not at all: written under another name, then put in place."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_clap.errors import AskedWronglyError

from .errors import EngineError


@contextmanager
def new_file(target: Path, overwrite: bool) -> Iterator[Path]:
    """Give a name to write under, beside `target`, which the file becomes on leaving.

    Raises:
        AskedWronglyError: `target` is a folder, or is there and `overwrite` is false.
        EngineError: the disk is full or may not be written to.
    """
    if target.is_dir():
        raise AskedWronglyError(f"{target} is a folder: name a file in it")
    if target.exists() and not overwrite:
        raise AskedWronglyError(f"{target} exists already: pass --overwrite to replace it, or choose another name")
    work = target.with_name(f"{target.name}.partial-{os.getpid()}")
    with _writable(target):
        try:
            yield work
            work.replace(target)
        finally:
            work.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path, overwrite: bool) -> Iterator[Path]:
    """Give an empty folder beside `target`, whose place it takes on leaving.

    With `overwrite` a `target` that is not empty is kept: files of the same names are replaced, others stay.

    Raises:
        AskedWronglyError: `target` is a file, or is not empty and `overwrite` is false.
        EngineError: the disk is full or may not be written to.
    """
    if target.exists() and not target.is_dir():
        raise AskedWronglyError(f"{target} is a file: name a folder")
    if target.exists() and any(target.iterdir()) and not overwrite:
        raise AskedWronglyError(
            f"{target} exists and is not empty: pass --overwrite to replace files in it, or choose another folder"
        )
    with _writable(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f"{target.name}.partial-", dir=target.parent))
        try:
            work.chmod(0o755)  # mkdtemp's 0700 would keep other users of a shared folder out
            yield work
            if target.exists():
                for file in work.iterdir():
                    file.replace(target / file.name)
            else:
                work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _writable(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Arrow puts its own words into `strerror`.
        reason = os.strerror(error.errno) if error.errno else error
        raise EngineError(
            f"{target} could not be written: {reason}. Free some space, or choose another place"
        ) from error
