"""Where a checkpoint's bytes come from: a file here, or (see `remote`) one behind HTTP ranges.

Says nothing of what the bytes mean. Also holds the ways of turning a checkpoint down, so that every message
names the file and says what to do next.
"""

import os
import stat
from pathlib import Path
from typing import Protocol

from .errors import CheckpointError


class ByteSource(Protocol):
    """A named, unchanging run of bytes that can be read from any place."""

    @property
    def name(self) -> str:
        """What to call it in a message."""

    @property
    def size(self) -> int:
        """Its length in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`.

        Raises:
            CheckpointError: the range is not within the source, or its bytes are no longer there.
            SourceError: a network source could not be reached.
        """


class FileSource:
    """A local file. It is opened anew for each read, so nothing has to be closed and nothing stays open.

    Raises:
        CheckpointError: there is no regular, readable file at `path`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self.name = str(path)
        try:
            status = self._path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{self.name} is not a file. Name the checkpoint file itself.")
            with self._path.open("rb"):
                self.size = status.st_size
        except (OSError, ValueError) as error:
            raise unreadable(self.name, error) from error

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`; see `ByteSource.read`."""
        check_range(self, offset, length)
        try:
            with self._path.open("rb", buffering=0) as file:
                file.seek(offset, os.SEEK_SET)
                data = file.read(length)
                while len(data) < length and (more := file.read(length - len(data))):
                    data += more  # one read(2) moves at most 2 GiB
        except OSError as error:
            raise unreadable(self.name, error) from error
        if len(data) != length:
            raise damaged(self.name, "it became shorter while it was read")
        return data


def check_range(source: ByteSource, offset: int, length: int) -> None:
    """Raise `CheckpointError` unless the range lies within the source."""
    if offset < 0 or length < 0 or offset + length > source.size:
        raise damaged(source.name, f"it ends at byte {source.size:,}, before the {length:,} bytes at {offset:,}")


def damaged(name: str, what: str) -> CheckpointError:
    """The error for a file that is cut short or inconsistent."""
    return CheckpointError(f"{name} is damaged: {what}. Fetch the file again.")


def refused(name: str, what: str) -> CheckpointError:
    """The error for a file that asks for more than plain tensors, numbers and text."""
    return CheckpointError(
        f"{name} was refused: {what}. Only plain tensors, numbers and text are read; nothing in a checkpoint is "
        "ever executed. If you trust the file, load it with PyTorch and save its state_dict() anew."
    )


def unreadable(name: str, error: Exception) -> CheckpointError:
    """The error for a file the system does not hand over."""
    reason = getattr(error, "strerror", None) or error
    return CheckpointError(f"{name} cannot be read: {reason}. Check the path and its permissions.")
