"""A folder that appears whole under its name or not at all, whatever happens meanwhile (an error, Ctrl-C, kill -9).

The work goes on in a hidden sibling, which is renamed at the end. Whoever works there holds a lock on it, so that the
next run can tell a leftover from work in progress. It does not know what the folder holds.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_WORK = ".mlxclap-unfinished-"
_OLD = ".mlxclap-replaced-"


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target`; on leaving, put it in `target`'s place, written through to the disk.

    Whatever stood at `target` is replaced. On an exception the unfinished folder is deleted and `target` is as it was.

    Raises:
        OSError: the disk is full, or the parent folder may not be written to.
    """
    parent = target.parent
    parent.mkdir(parents=True, exist_ok=True)
    clean_leftovers(parent)
    with _locked(parent):
        work = Path(tempfile.mkdtemp(prefix=_WORK, dir=parent))
        lock = _lock(work)
    try:
        yield work
        _sync(work)
        with _locked(parent):
            _put_in_place(work, target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def remove_folder(target: Path) -> None:
    """Delete the folder `target`: its name is free at once, never half of it is left under it."""
    with _locked(target.parent):
        doomed = Path(tempfile.mkdtemp(prefix=_WORK, dir=target.parent))
        target.rename(doomed)
    shutil.rmtree(doomed)


def clean_leftovers(parent: Path) -> None:
    """Delete what killed runs left in `parent`; bring back a folder that was moved aside but never replaced."""
    with _locked(parent):
        for work in parent.glob(f"{_WORK}*"):
            try:
                os.close(_lock(work))
            except BlockingIOError:
                continue  # another process is at work in it
            shutil.rmtree(work)
        for old in parent.glob(f"{_OLD}*"):
            name = old.name.removeprefix(_OLD).rpartition("-")[0]
            if (parent / name).exists():
                shutil.rmtree(old)
            else:
                old.rename(parent / name)


def _put_in_place(work: Path, target: Path) -> None:
    work.chmod(0o755)  # mkdtemp's 0700 would keep other users of a shared folder out
    if not target.exists():
        work.rename(target)
        _sync_folder(target.parent)
        return
    # A kill between the two renames leaves only the old folder, aside: clean_leftovers brings it back.
    old = Path(tempfile.mkdtemp(prefix=f"{_OLD}{target.name}-", dir=target.parent))
    target.rename(old)
    try:
        work.rename(target)
    except OSError:
        old.rename(target)
        raise
    _sync_folder(target.parent)
    shutil.rmtree(old)


def _lock(folder: Path) -> int:
    """Take the lock on `folder`, which the system drops when this process ends. BlockingIOError: another has it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


@contextmanager
def _locked(parent: Path) -> Iterator[None]:
    """Hold `parent` for the moment that names in it change."""
    handle = os.open(parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
