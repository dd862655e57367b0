"""Rows and embeddings for the tests of the store."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_clap_engine.store.schema import EmbeddedRecording, FailureRow, FileRow, LabelRow, RecordingRow, SpaceInfo

DIM = 16
SPACE = "small-0a1b2c3d"
WHEN = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)


def space_info(space: str = SPACE, dim: int = DIM, **changes: Any) -> SpaceInfo:
    values = {"model": "small", "window_s": 10.0, "hop_s": 10.0, "default": False, "created_at": WHEN} | changes
    return SpaceInfo(space=space, dim=dim, **values)


def unit_vectors(n: int, dim: int = DIM, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors [n, dim] around a few centres, as embeddings are."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((32, dim))
    vectors = centres[rng.integers(0, 32, n)] + 0.7 * rng.standard_normal((n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def embedded(name: str, windows: int = 3, silent: tuple[int, ...] = (), dim: int = DIM) -> EmbeddedRecording:
    """A recording whose vectors follow from its name."""
    starts = np.arange(windows) * 10.0
    flags = np.isin(np.arange(windows), silent)
    vectors = unit_vectors(windows, dim, seed=int.from_bytes(name.encode(), "little") % 2**32)
    return EmbeddedRecording(name, 10.0, starts, starts + 10.0, flags, vectors)


def recording(name: str, **changes: Any) -> RecordingRow:
    values: dict[str, Any] = dict.fromkeys(
        ("title", "artist", "album", "albumartist", "genre", "year", "track", "bpm", "key", "comment")
    )
    values |= {"duration_s": 30.0, "sample_rate": 44_100, "channels": 2, "codec": "flac", "silent": False}
    return RecordingRow(recording_id=name, ingested_at=WHEN, **(values | changes))


def file(path: str, name: str) -> FileRow:
    return FileRow(path, name, size=1000, mtime_ns=1_700_000_000_123_456_789, file_hash=None, seen_at=WHEN)


def failure(path: str, error: str = "not audio") -> FailureRow:
    return FailureRow(path, size=10, mtime_ns=5, stage="decode", error=error, failed_at=WHEN)


def label(name: str, text: str, source: str = "zero-shot", label_set: str = "genre", **changes: Any) -> LabelRow:
    values = {"set_version": "1", "run_id": "run", "probability": 0.5, "margin": 0.1, "decided_at": WHEN} | changes
    return LabelRow(recording_id=name, label_set=label_set, label=text, source=source, **values)
