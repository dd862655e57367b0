"""The library's folder as a file system sees it: can it live here, is it safely on the disk, what did a crash leave.

No table is opened here. LanceDB commits by hard-linking a manifest and never calls fsync, so a process may die at any
moment without harm, but a power cut can leave new files empty; `Sweeper` closes that gap after every commit.
"""

import fcntl
import os
import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from mlx_clap_engine.errors import LibraryError

#: LanceDB holds many files open; macOS allows 256 by default.
OPEN_FILES = 8192

#: Lance ends data files, indexes and manifests with this.
_LANCE_FOOTER = b"LANC"

#: Order in which a table's folders reach the disk: what a manifest points at comes before the manifest.
_SWEEP_ORDER = ("data", "_deletions", "_indices", "_transactions", "_versions")


def raise_open_file_limit() -> None:
    """Let this process hold `OPEN_FILES` files open, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def require_hard_links(folder: Path) -> None:
    """Check that `folder` lies on a file system with hard links.

    Raises:
        LibraryError: it does not (exFAT, some network shares), or nothing can be written there.
    """
    first, second = folder / f".link-probe-{os.getpid()}", folder / f".link-probe-{os.getpid()}-2"
    try:
        first.write_bytes(b"")
    except OSError as error:
        raise LibraryError(
            f"A library cannot be made in {folder}: {error.strerror}. Choose a folder you may write to with --library"
        ) from error
    try:
        os.link(first, second)
        second.unlink()
    except OSError as error:
        raise LibraryError(
            f"A library cannot live in {folder}: its disk has no hard links ({error.strerror}), as is usual for exFAT "
            "and some network drives. Choose a folder on an internal disk with --library; the audio itself may stay "
            "where it is"
        ) from error
    finally:
        first.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """fsync one file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Sweeper:
    """Brings the files that commits have added to the disk. It remembers what it has seen, so a sweep is short."""

    def __init__(self, library: Path) -> None:
        """What is in the folder now counts as safely on the disk."""
        self._library = library
        self._known: dict[str, set[str]] = {}
        for table in library.glob("*.lance"):
            self._known |= dict(_folders(table))

    def sweep(self, tables: Iterable[str]) -> None:
        """Flush what is new in `tables` (their names), data before manifests.

        Raises:
            OSError: the disk is full or failing.
        """
        last = None
        for table in tables:
            for folder, names in _folders(self._library / f"{table}.lance"):
                fresh = names - self._known.get(folder, set())
                if folder not in self._known:
                    sync(Path(folder).parent)
                for name in sorted(fresh):
                    sync(Path(folder, name))
                if fresh:
                    last = Path(folder)
                    sync(last)
                self._known[folder] = names
        if last is not None and sys.platform == "darwin":
            # fsync leaves data in the drive's own cache on macOS; one full flush empties it for all files before.
            handle = os.open(last, os.O_RDONLY)
            try:
                fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
            finally:
                os.close(handle)


def _folders(table: Path) -> list[tuple[str, set[str]]]:
    """Every folder of a table with the names of its files, in `_SWEEP_ORDER`."""
    found = []
    for part in _SWEEP_ORDER:
        for folder, _, names in os.walk(table / part):
            found.append((folder, set(names)))
    return found


def folder_size(folder: Path) -> int:
    """The bytes of all files under `folder`."""
    return sum(os.stat(os.path.join(at, name)).st_size for at, _, names in os.walk(folder) for name in names)


def oldest_state(table: Path) -> float:
    """When the oldest state that a table's folder still holds was written (seconds since the epoch)."""
    return min((path.stat().st_mtime for path in (table / "_versions").glob("*.manifest")), default=time.time())


def remove_crash_litter(table: Path) -> None:
    """Delete what a dead writer left in a table's folder: temporary files, and manifests that a power cut emptied.

    A manifest without its footer holds nothing that could be read; without it, the table is at the version before.
    Only for the holder of the writer lock.
    """
    for folder, _, names in os.walk(table):
        for name in names:
            path = Path(folder, name)
            temporary = name.startswith(".tmp") or "#" in name
            if temporary or (name.endswith(".manifest") and not _has_footer(path)):
                path.unlink()


def indexes_are_whole(table: Path) -> bool:
    """Whether no file of a table's indexes was emptied or cut off by a power cut."""
    return all(_has_footer(path) for path in (table / "_indices").rglob("*") if path.is_file())


def _has_footer(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell() < len(_LANCE_FOOTER):
            return False
        file.seek(-len(_LANCE_FOOTER), os.SEEK_END)
        return file.read() == _LANCE_FOOTER
