"""What a library's tables hold: names, Arrow schemas, and the plain rows that go in and come out.

Nothing here opens a table. Paths are kept as text that survives any bytes a file name may hold; see `encode_path`.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlx_clap_engine.errors import LibraryError, SpaceError

SCHEMA_VERSION = 1
VERSION_KEY = b"mlxclap.schema_version"

FILES, RECORDINGS, LABELS, FAILURES, SPACES = "files", "recordings", "labels", "failures", "spaces"

#: The column by which a row is replaced.
KEYS = {FILES: "path", RECORDINGS: "recording_id", LABELS: "label_id", FAILURES: "path", SPACES: "space"}

#: How far a stored vector's length may be from 1.
UNIT_TOLERANCE = 1e-3

_SPACE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def windows_table(space: str) -> str:
    """The table of a space's windows."""
    return f"windows_{space}"


def means_table(space: str) -> str:
    """The table of a space's mean embeddings, one a recording."""
    return f"means_{space}"


@dataclass(frozen=True)
class SpaceInfo:
    """One space of a library. `space` also names tables: letters, digits, `_`, `-` and `.` only.

    Raises:
        SpaceError: the name cannot name a table.
    """

    space: str
    model: str
    dim: int
    window_s: float
    hop_s: float
    default: bool
    created_at: datetime

    def __post_init__(self) -> None:
        if not _SPACE_NAME.fullmatch(self.space):
            raise SpaceError(
                f"{self.space!r} cannot name a space: use up to 100 letters, digits, '_', '-' and '.', "
                "starting with a letter or digit"
            )


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file whose recording is in the library. `path` is as `os.fsdecode` gives it."""

    path: str
    recording_id: str
    size: int
    mtime_ns: int
    file_hash: str | None
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class RecordingRow:
    """A recording: its sound's properties and the tags of the file it was last read from."""

    recording_id: str
    duration_s: float
    sample_rate: int
    channels: int
    codec: str
    silent: bool
    title: str | None
    artist: str | None
    album: str | None
    albumartist: str | None
    genre: str | None
    year: int | None
    track: str | None
    bpm: float | None
    key: str | None
    comment: str | None
    ingested_at: datetime


@dataclass(frozen=True, slots=True)
class FailureRow:
    """A file that could not be taken in, as it was when that happened."""

    path: str
    size: int
    mtime_ns: int
    stage: str
    error: str
    failed_at: datetime


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One label on a recording, or on a stretch of it when `start_s` and `end_s` are given."""

    recording_id: str
    label_set: str
    set_version: str
    label: str
    source: str
    run_id: str
    probability: float | None
    margin: float | None
    decided_at: datetime
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True, eq=False)
class EmbeddedRecording:
    """A recording's windows in one space.

    `start_s`, `end_s` and `silent` are [n]; `embeddings` are float32 [n, D], of unit length.

    Raises:
        LibraryError: the arrays disagree in length, or a vector is not finite or not of unit length.
    """

    recording_id: str
    hop_s: float
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    silent: NDArray[np.bool_]
    embeddings: NDArray[np.float32]

    def __post_init__(self) -> None:
        n = len(self.start_s)
        if n == 0 or self.embeddings.ndim != 2 or {len(self.end_s), len(self.silent), len(self.embeddings)} != {n}:
            raise LibraryError(
                f"recording {self.recording_id}: {n} window starts, {len(self.end_s)} ends, {len(self.silent)} "
                f"flags and embeddings of shape {self.embeddings.shape} do not make windows; nothing was written"
            )
        lengths = np.linalg.norm(self.embeddings.astype(np.float64), axis=1)
        # A NaN or an infinity makes its row's length fail this comparison too.
        bad = np.flatnonzero(~(np.abs(lengths - 1.0) <= UNIT_TOLERANCE))
        if len(bad):
            raise LibraryError(
                f"recording {self.recording_id}: the embedding of window {bad[0]} has length {lengths[bad[0]]:.6g} "
                "instead of 1; nothing was written. Run `mlxclap doctor` to check the model on this machine"
            )
        self.mean()

    @property
    def wholly_silent(self) -> bool:
        """Whether no window holds sound; such a recording is kept but left out of answers."""
        return bool(np.all(self.silent))

    def mean(self) -> NDArray[np.float32]:
        """The normalised mean [D] of the windows that hold sound; of all windows if none does.

        Raises:
            LibraryError: the windows cancel out.
        """
        heard = self.embeddings if self.wholly_silent else self.embeddings[~self.silent]
        mean = heard.mean(axis=0, dtype=np.float64)
        length = float(np.linalg.norm(mean))
        if length < 1e-6:
            raise LibraryError(f"recording {self.recording_id}: its windows cancel out, so it has no mean embedding")
        return np.asarray(mean / length, dtype=np.float32)


_UNDECODABLE = re.compile("[\udc80-\udcff]")
_ESCAPED = re.compile("\x00([0-9a-f]{2})")


def encode_path(path: str) -> str:
    """A path as text Arrow can hold: a byte that is not UTF-8 becomes NUL and two hex digits.

    No path contains a NUL, so this is reversible. NFC and NFD are kept as they are.
    """
    text = os.fsencode(path).decode("utf-8", "surrogateescape")
    return _UNDECODABLE.sub(lambda found: f"\x00{ord(found[0]) - 0xDC00:02x}", text)


def decode_path(text: str) -> str:
    """The path that `encode_path` was given."""
    escaped = _ESCAPED.sub(lambda found: chr(0xDC00 + int(found[1], 16)), text)
    return os.fsdecode(escaped.encode("utf-8", "surrogateescape"))


def _versioned(columns: Sequence[pa.Field], **about: str) -> pa.Schema:
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode()}
    metadata |= {f"mlxclap.{key}".encode(): value.encode() for key, value in about.items()}
    return pa.schema(columns, metadata=metadata)


def _must(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


_TIME = pa.timestamp("us", tz="UTC")

SCHEMAS: dict[str, pa.Schema] = {
    FILES: _versioned(
        [
            _must("path", pa.string()),
            _must("recording_id", pa.string()),
            _must("size", pa.int64()),
            _must("mtime_ns", pa.int64()),
            pa.field("file_hash", pa.string()),
            _must("seen_at", _TIME),
        ]
    ),
    RECORDINGS: _versioned(
        [
            _must("recording_id", pa.string()),
            _must("duration_s", pa.float64()),
            _must("sample_rate", pa.int32()),
            _must("channels", pa.int32()),
            _must("codec", pa.string()),
            _must("silent", pa.bool_()),
            pa.field("title", pa.string()),
            pa.field("artist", pa.string()),
            pa.field("album", pa.string()),
            pa.field("albumartist", pa.string()),
            pa.field("genre", pa.string()),
            pa.field("year", pa.int32()),
            pa.field("track", pa.string()),
            pa.field("bpm", pa.float64()),
            pa.field("key", pa.string()),
            pa.field("comment", pa.string()),
            _must("ingested_at", _TIME),
        ]
    ),
    LABELS: _versioned(
        [
            _must("label_id", pa.string()),
            _must("recording_id", pa.string()),
            pa.field("start_s", pa.float64()),
            pa.field("end_s", pa.float64()),
            _must("label_set", pa.string()),
            _must("set_version", pa.string()),
            _must("label", pa.string()),
            _must("source", pa.string()),
            _must("run_id", pa.string()),
            pa.field("probability", pa.float64()),
            pa.field("margin", pa.float64()),
            _must("decided_at", _TIME),
        ]
    ),
    FAILURES: _versioned(
        [
            _must("path", pa.string()),
            _must("size", pa.int64()),
            _must("mtime_ns", pa.int64()),
            _must("stage", pa.string()),
            _must("error", pa.string()),
            _must("failed_at", _TIME),
        ]
    ),
    # Made last: a folder with this table is a library.
    SPACES: _versioned(
        [
            _must("space", pa.string()),
            _must("model", pa.string()),
            _must("dim", pa.int32()),
            _must("window_s", pa.float64()),
            _must("hop_s", pa.float64()),
            _must("default", pa.bool_()),
            _must("created_at", _TIME),
        ]
    ),
}


def space_schemas(info: SpaceInfo) -> dict[str, pa.Schema]:
    """The two tables of a space: windows and means, by name."""
    vector = _must("embedding", pa.list_(pa.float32(), info.dim))
    about = {"space": info.space, "model": info.model, "window_s": str(info.window_s)}
    return {
        windows_table(info.space): _versioned(
            [
                _must("recording_id", pa.string()),
                _must("index", pa.int32()),
                _must("start_s", pa.float64()),
                _must("end_s", pa.float64()),
                _must("silent", pa.bool_()),
                vector,
            ],
            **about,
        ),
        means_table(info.space): _versioned(
            [
                _must("recording_id", pa.string()),
                _must("n_windows", pa.int32()),
                _must("hop_s", pa.float64()),
                _must("silent", pa.bool_()),
                vector,
            ],
            **about,
        ),
    }
