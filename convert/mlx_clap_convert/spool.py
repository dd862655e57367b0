"""Keeps on disk what was read of a remote file, so that an interrupted conversion does not fetch it again.

The spool is one file, appended to: for each piece its place, length and CRC-32, then its bytes. A piece that was cut
short or damaged is fetched anew. It does not know what the bytes mean.
"""

import fcntl
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .byte_source import ByteSource
from .errors import CheckpointError, SourceError

_ENTRY = struct.Struct("<QQL")  # offset, length, CRC-32
#: A larger read is fetched and kept in pieces of this size: so much is lost at most when the run is interrupted.
PIECE = 16 << 20


class SpooledSource:
    """A `ByteSource` before `remote`; made by `spooled`."""

    def __init__(self, remote: ByteSource, spool: BinaryIO, progress: Callable[[int], object]) -> None:
        self.name = remote.name
        self.size = remote.size
        self._remote, self._spool, self._progress = remote, spool, progress
        self._kept = _kept_pieces(spool)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`; see `ByteSource.read`.

        Raises:
            SourceError: the remote cannot be reached, or the disk is full.
        """
        places = range(offset, offset + length, PIECE)
        return b"".join([self._piece(at, min(PIECE, offset + length - at)) for at in places])

    def _piece(self, offset: int, length: int) -> bytes:
        data = self._recall(offset, length)
        if data is None:
            data = self._remote.read(offset, length)
            self._keep(offset, data)
        self._progress(length)
        return data

    def _recall(self, offset: int, length: int) -> bytes | None:
        if (offset, length) not in self._kept:
            return None
        position, crc = self._kept[offset, length]
        self._spool.seek(position)
        data = self._spool.read(length)
        return data if len(data) == length and zlib.crc32(data) == crc else None

    def _keep(self, offset: int, data: bytes) -> None:
        crc = zlib.crc32(data)
        try:
            self._spool.seek(0, os.SEEK_END)
            self._spool.write(_ENTRY.pack(offset, len(data), crc))
            self._kept[offset, len(data)] = self._spool.tell(), crc
            self._spool.write(data)
            self._spool.flush()
        except OSError as error:
            raise SourceError(
                f"What was read of {self.name} could not be kept: {error.strerror}. Free some space, or point HF_HOME "
                "to another disk."
            ) from error


@contextmanager
def spooled(remote: ByteSource, path: Path, progress: Callable[[int], object]) -> Iterator[ByteSource]:
    """Read `remote` through a spool at `path`; `progress` is told the bytes of each read.

    The spool stays for the next run unless this one comes to its end, or finds the checkpoint damaged (then what was
    kept may be at fault). While another process has it open, `remote` is read without one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as spool:
        try:
            fcntl.flock(spool, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield remote
            return
        try:
            yield SpooledSource(remote, spool, progress)
        except CheckpointError:
            path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)


def _kept_pieces(spool: BinaryIO) -> dict[tuple[int, int], tuple[int, int]]:
    """(offset, length) -> (position in the spool, CRC-32); what a killed run left unfinished at the end is cut off."""
    kept: dict[tuple[int, int], tuple[int, int]] = {}
    size, position = spool.seek(0, os.SEEK_END), 0
    while position + _ENTRY.size <= size:
        spool.seek(position)
        offset, length, crc = _ENTRY.unpack(spool.read(_ENTRY.size))
        start = position + _ENTRY.size
        if start + length > size:
            break
        kept[offset, length] = start, crc
        position = start + length
    spool.truncate(position)
    return kept
