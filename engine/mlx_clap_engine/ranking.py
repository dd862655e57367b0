"""Which recordings (or windows) are most similar to a direction, and how similar the library is on the whole.

Without an index everything is measured: one matrix product a batch. With one, the index is asked for the nearest, and
the library is judged by a fair sample. Both give the same rows in the same order. Nothing here knows a path or a tag.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .store.index import index_state
from .store.library import ISIN_LIMIT, Kind, Matrix, Store
from .store.lookup import sample_ids

#: Recordings that stand for the whole library where it is too large to be measured.
SAMPLE = 1000
#: Decimals of a similarity. Beyond them float32 differs with the order of adding up, and ties would come and go.
DECIMALS = 6
#: Windows asked of the index for each recording wanted, to begin with: several windows of one may be near.
_WINDOWS_EACH = 4

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """A recording, or one of its windows with its times in seconds (None for a mean)."""

    recording_id: str
    similarity: float
    start_s: float | None
    end_s: float | None


@dataclass(frozen=True)
class Ranking:
    """The order of a library under one direction.

    Attributes:
        top: the n most similar candidates, most similar first, ties by id and time; fewer when there are no more.
        population: [R] the similarity of each recording (with windows: of its best), or of a sample of recordings.
        exact: whether everything was measured.
    """

    top: Callable[[int], list[Candidate]]
    population: Numbers
    exact: bool


def rank(
    store: Store,
    space: str,
    kind: Kind,
    direction: Matrix,
    *,
    by_recording: bool,
    among: Collection[str] | None = None,
    without: Collection[str] = (),
) -> Ranking:
    """Order the recordings of a space by `direction` [D], a unit vector. Silent windows and recordings never appear.

    Args:
        kind: compare windows, or the recordings' means.
        by_recording: each recording once, with its best window.
        among: only these recordings are candidates. The population is the whole library all the same.
        without: these are neither candidates nor part of the population.

    Raises:
        SpaceError: no such space, or a direction of another length.
    """
    indexed = index_state(store, space, kind).indexed > 0
    if not indexed or (among is not None and len(among) > ISIN_LIMIT):
        everything = _measure(store, space, kind, direction)
        return Ranking(_chooser(everything, by_recording, among, without), _population(everything, without), True)
    population = _population(_measure(store, space, kind, direction, sample_ids(store, space, SAMPLE)), without)
    if among is not None:
        chosen = _measure(store, space, kind, direction, among)
        return Ranking(_chooser(chosen, by_recording, among, without), population, False)
    return Ranking(lambda n: _nearest(store, space, kind, direction, n, by_recording, without), population, False)


@dataclass(frozen=True)
class _Measured:
    """Rows of a space: whose they are (`ids[code]`), how similar, and their times (empty for means)."""

    ids: list[str]
    codes: NDArray[np.int32]
    similarity: Numbers
    start_s: Numbers
    end_s: Numbers

    def best(self) -> NDArray[np.intp]:
        """The row [R] of each recording's highest similarity, the first of equals; in the order of `ids`."""
        highest = np.full(len(self.ids), -np.inf)
        np.maximum.at(highest, self.codes, self.similarity)
        rows = np.flatnonzero(self.similarity == highest[self.codes])
        return rows[np.unique(self.codes[rows], return_index=True)[1]]

    def candidate(self, row: int) -> Candidate:
        times = (float(self.start_s[row]), float(self.end_s[row])) if len(self.start_s) else (None, None)
        return Candidate(self.ids[self.codes[row]], float(self.similarity[row]), *times)


def _measure(store: Store, space: str, kind: Kind, direction: Matrix, ids: Collection[str] | None = None) -> _Measured:
    if kind == "windows":
        stream = store.stream_windows(space, ids, ("recording_id", "start_s", "end_s"))
    else:
        stream = store.stream_means(space, ("recording_id",), ids)
    names, similarity, times = [pa.array([], pa.string())], [np.zeros(0)], [np.zeros((2, 0))]
    for batch, vectors in stream:
        names.append(batch["recording_id"])
        similarity.append(np.asarray(vectors @ direction, np.float64).round(DECIMALS))
        if kind == "windows":
            times.append(np.stack([batch["start_s"].to_numpy(), batch["end_s"].to_numpy()]))
    encoded = pa.chunked_array(names).combine_chunks().dictionary_encode()
    start_s, end_s = np.concatenate(times, axis=1)
    return _Measured(
        encoded.dictionary.to_pylist(), encoded.indices.to_numpy(), np.concatenate(similarity), start_s, end_s
    )


def _population(measured: _Measured, without: Collection[str]) -> Numbers:
    counted = np.array([recording not in without for recording in measured.ids], dtype=np.bool_)
    return measured.similarity[measured.best()[counted]]


def _chooser(
    measured: _Measured, by_recording: bool, among: Collection[str] | None, without: Collection[str]
) -> Callable[[int], list[Candidate]]:
    allowed = np.array([(among is None or i in among) and i not in without for i in measured.ids], dtype=np.bool_)
    rows = measured.best()[allowed] if by_recording else np.flatnonzero(allowed[measured.codes])
    similarity = measured.similarity[rows]

    def top(n: int) -> list[Candidate]:
        if n >= len(rows):
            near = rows
        else:
            # All rows as similar as the n-th: which of equals are cut off must not depend on the order of storage.
            near = rows[similarity >= np.partition(similarity, -n)[-n]]
        return sorted(map(measured.candidate, near.tolist()), key=_order)[:n]

    return top


def _nearest(
    store: Store, space: str, kind: Kind, direction: Matrix, n: int, by_recording: bool, without: Collection[str]
) -> list[Candidate]:
    """The top n by the index, asking for more until n of them are distinct recordings (where that is wanted)."""
    distinct = by_recording and kind == "windows"
    wanted = n * (_WINDOWS_EACH if distinct else 1) + len(without)
    while True:
        rows = store.nearest(space, kind, direction, wanted)
        kept: dict[object, Candidate] = {}
        for row in rows:
            found = Candidate(
                row["recording_id"], round(row["similarity"], DECIMALS), row.get("start_s"), row.get("end_s")
            )
            key = found.recording_id if by_recording else (found.recording_id, found.start_s)
            if found.recording_id not in without and (key not in kept or _order(found) < _order(kept[key])):
                kept[key] = found
        if len(kept) >= n or len(rows) < wanted:
            return sorted(kept.values(), key=_order)[:n]
        wanted *= 4


def _order(candidate: Candidate) -> tuple[float, str, float]:
    return (-candidate.similarity, candidate.recording_id, candidate.start_s or 0.0)
