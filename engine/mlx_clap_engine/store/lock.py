"""One writer at a time: the lock file of a library.

The operating system holds the lock (flock), so a writer that dies frees it at once. The file's text is the marker of
an unfinished writer: it is written when writing begins and emptied when a writer ends well.
"""

import fcntl
import json
import os
import time
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path

from mlx_clap_engine.errors import LibraryBusyError

LOCK_FILE = "writer.lock"

#: A reader that tidies up after a dead writer holds the lock for a moment; wait that long before giving up.
PATIENCE_S = 1.0


class WriterLock:
    """A held lock. `previous_died` says that the writer before did not end well."""

    def __init__(self, file: TextIOWrapper, previous_died: bool) -> None:
        self._file = file
        self.previous_died = previous_died

    @classmethod
    def acquire(cls, library: Path, patience_s: float = PATIENCE_S) -> "WriterLock":
        """Take the lock, trying for `patience_s`, and leave this process's mark.

        Raises:
            LibraryBusyError: another writer holds it; the message names its process.
            OSError: the folder cannot be written to.
        """
        file = (library / LOCK_FILE).open("a+", encoding="utf-8")
        give_up_at = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    holder = _read(file)
                    file.close()
                    raise LibraryBusyError(_busy(library, holder)) from None
                time.sleep(0.05)
        lock = cls(file, previous_died=bool(_read(file)))
        lock._write(json.dumps({"pid": os.getpid(), "started": datetime.now(UTC).isoformat(timespec="seconds")}))
        return lock

    def release(self, clean: bool) -> None:
        """Let go. With `clean` false the mark stays, and whoever opens the library next repairs it."""
        if clean:
            self._write("")
        self._file.close()

    def _write(self, text: str) -> None:
        self._file.truncate(0)
        self._file.write(text)
        self._file.flush()
        os.fsync(self._file.fileno())


def unfinished(library: Path) -> bool:
    """Whether a writer is at work, or died at it."""
    try:
        return (library / LOCK_FILE).stat().st_size > 0
    except FileNotFoundError:
        return False


def _read(file: TextIOWrapper) -> str:
    file.seek(0)
    return file.read()


def _busy(library: Path, holder: str) -> str:
    try:
        mark = json.loads(holder)
        who = f"process {mark['pid']} (since {mark['started']})"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return (
        f"The library at {library} is being written to by {who}. Wait until it has finished, or stop it, and try again"
    )
