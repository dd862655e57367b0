"""Search in a temporary library of made embeddings: exact, then through an index, its recall beside it."""

import hashlib
import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_clap_engine.questions import Question
from mlx_clap_engine.search import RankBy, search
from mlx_clap_engine.store.index import INDEX_FROM, build_index, recall
from mlx_clap_engine.store.library import Store
from mlx_clap_engine.store.schema import EmbeddedRecording, FileRow, RecordingRow, SpaceInfo
from mlx_clap_engine.tags import Tags

from .measure import Plan, Row, once, row, timed
from .subject import Subject

#: A track of a little over three minutes.
_WINDOWS_A_RECORDING = 20
_RECORDINGS_A_COMMIT = 100
_SPACE = "bench"
_NOW = datetime.now(UTC)


def searching(subject: Subject, plan: Plan) -> Iterator[Row]:
    """Ask "what is like this recording", which needs no model: a whole query but for embedding its words."""
    recordings = max(1, plan.windows // _WINDOWS_A_RECORDING)
    rows = recordings * _WINDOWS_A_RECORDING
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder, "library"), create=True)
        seconds = _fill(store, recordings, subject.clap.embedding_dim)
        a_commit = min(recordings, _RECORDINGS_A_COMMIT) * _WINDOWS_A_RECORDING
        yield row("search", f"commit {a_commit:,} windows", seconds, "commit")
        numbers = itertools.cycle(np.random.default_rng(1).permutation(recordings).tolist())
        ask = partial(_ask, store, numbers)
        yield from _queries(f"exact, {recordings:,} means", plan, ask, "mean", recall=1.0)
        yield from _queries(f"exact, best of {rows:,} windows", plan, ask, "best", recall=1.0)
        if rows < INDEX_FROM:
            return
        built = [once(build_index, store, _SPACE, "windows")]
        yield row("search", f"build the index of {rows:,} windows", built, "index", state="cold")
        found = round(recall(store, _SPACE, "windows", n_queries=50), 4)
        yield from _queries(f"indexed, best of {rows:,} windows", plan, ask, "best", recall=found)


def _queries(case: str, plan: Plan, ask: Callable[[RankBy], None], rank_by: RankBy, **about: Any) -> Iterator[Row]:
    yield row("search", case, [once(ask, rank_by)], "query", state="cold", **about)
    yield row("search", case, timed(plan.repeats, ask, rank_by), "query", **about)


def _ask(store: Store, numbers: Iterator[int], rank_by: RankBy) -> None:
    search(store, Question(like=[_id(next(numbers))]), k=10, rank_by=rank_by)


def _fill(store: Store, recordings: int, dim: int) -> list[float]:
    """Write a library of recordings whose embeddings lie around a few centres, as real ones do; seconds a commit."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((64, dim)).astype(np.float32)
    window_s = 10.0
    seconds = []
    with store.writer() as writer:
        writer.add_space(SpaceInfo(_SPACE, "bench", dim, window_s, window_s, True, _NOW))
        for start in range(0, recordings, _RECORDINGS_A_COMMIT):
            numbers = range(start, min(start + _RECORDINGS_A_COMMIT, recordings))
            embedded = [_embedded(n, centres[n % len(centres)], rng, window_s) for n in numbers]
            recordings_rows, file_rows = [_recording(n) for n in numbers], [_file(n) for n in numbers]
            commit = partial(writer.commit, recordings=recordings_rows, files=file_rows)
            seconds.append(once(commit, space=_SPACE, embedded=embedded))
    return seconds


def _embedded(number: int, centre: NDArray[np.float32], rng: np.random.Generator, window_s: float) -> EmbeddedRecording:
    vectors = centre + 0.8 * rng.standard_normal((_WINDOWS_A_RECORDING, len(centre)), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    starts = np.arange(_WINDOWS_A_RECORDING, dtype=np.float64) * window_s
    return EmbeddedRecording(_id(number), window_s, starts, starts + window_s, starts < 0, vectors)


def _recording(number: int) -> RecordingRow:
    seconds = 10.0 * _WINDOWS_A_RECORDING
    tags: dict[str, Any] = dict.fromkeys(field.name for field in fields(Tags))
    return RecordingRow(
        _id(number), seconds, 44_100, 2, "flac", False, **tags | {"title": f"Title {number}"}, ingested_at=_NOW
    )


def _file(number: int) -> FileRow:
    return FileRow(f"/music/{number:06}.flac", _id(number), 1000, 1, None, _NOW)


def _id(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]
