"""A question -> answers: what `mlxclap query` calls.

understand -> combine -> rank -> answers. One question keeps its own vector; several become one direction (`combine`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mlx_clap.errors import AskedWronglyError

from .answers import Answer, to_answers
from .combine import Matrix, combine
from .filters import Filter
from .questions import Asked, Question, understand
from .ranking import SAMPLE, Candidate, Ranking, rank
from .store.index import index_state
from .store.library import Kind, Store
from .store.lookup import sample_ids
from .store.schema import SpaceInfo

RankBy = Literal["best", "mean"]


@dataclass(frozen=True)
class Answers:
    """Answers, most similar first, and how they came about.

    Attributes:
        exact: whether the whole library was measured; else an index was asked and a sample measured.
        population: how many recordings percentile and z are over.
        notes: what the person should know: a text that was cut, why there are no answers.
    """

    rows: list[Answer]
    space: SpaceInfo
    exact: bool
    population: int
    notes: list[str]


def search(
    store: Store,
    question: Question,
    *,
    k: int = 10,
    rank_by: RankBy | None = None,
    windows: bool = False,
    filters: Sequence[Filter] = (),
    min_percentile: float = 0.0,
    model: str | None = None,
) -> Answers:
    """The `k` recordings of the library most similar to `question`.

    Args:
        rank_by: compare the question with each recording's best window, or with its mean. By default `best` where
            there is a text (a moment may be meant), `mean` for sounds and recordings alone.
        windows: answer with the best windows instead, several of a recording if need be.
        filters: all must hold. Percentiles stay those of the whole library.
        min_percentile: leave out what is less similar than this percentage of the library.
        model: name or path; None is the model the library was made with.

    Raises:
        AskedWronglyError: options that make no sense, or a `like` that is not in the library.
        FilterError: a label set nobody has used.
        SpaceError: an empty library, or a model of another space.
        DecodeError: a sound file that cannot be read.
    """
    if k < 1:
        raise AskedWronglyError(f"-k is how many answers are wanted, at least 1; got {k}")
    if windows and rank_by is not None:
        raise AskedWronglyError("--windows compares windows, so it cannot be combined with --rank")
    if not 0.0 <= min_percentile <= 100.0:
        raise AskedWronglyError(f"--min-percentile lies between 0 and 100; got {min_percentile:g}")
    among = store.matching(filters)
    asked = understand(store, question, model)
    space = asked.space.space
    rank_by = rank_by or ("best" if question.texts else "mean")
    kind: Kind = "windows" if windows or rank_by == "best" else "means"
    ranking = rank(
        store,
        space,
        kind,
        _direction(store, asked, kind),
        by_recording=not windows,
        among=among,
        without=asked.references,
    )
    found, paths = _with_paths(store, ranking, k)
    rows = [row for row in to_answers(store, found, paths, ranking.population) if row.percentile >= min_percentile]
    notes = list(asked.notes)
    state = index_state(store, space, kind)
    if ranking.exact and state.needed:
        notes.append(f"all {state.rows:,} {kind} were compared; `mlxclap index` makes such questions faster")
    if not rows:
        notes.append(_why_nothing(store, among, bool(found), min_percentile))
    return Answers(rows, asked.space, ranking.exact, len(ranking.population), notes)


def _direction(store: Store, asked: Asked, kind: Kind) -> Matrix:
    if len(asked.vectors) == 1:
        direction: Matrix = asked.vectors[0] * np.float32(asked.signs[0])
        return direction
    return combine(asked.vectors, asked.signs, _sample(store, asked.space.space, kind))


def _sample(store: Store, space: str, kind: Kind) -> Iterator[Matrix]:
    ids = sample_ids(store, space, SAMPLE)
    stream = store.stream_windows(space, ids, ()) if kind == "windows" else store.stream_means(space, (), ids)
    for _, vectors in stream:
        yield vectors


def _with_paths(store: Store, ranking: Ranking, k: int) -> tuple[list[Candidate], dict[str, list[str]]]:
    """The top `k` of which a file is known, with their paths; a recording whose files are gone is passed over."""
    wanted = k
    while True:
        candidates = ranking.top(wanted)
        paths = store.paths_by_recording({candidate.recording_id for candidate in candidates})
        found = [candidate for candidate in candidates if candidate.recording_id in paths]
        if len(found) >= k or len(candidates) < wanted:
            return found[:k], paths
        wanted *= 4


def _why_nothing(store: Store, among: set[str] | None, found: bool, min_percentile: float) -> str:
    if found:
        return f"no answer reaches percentile {min_percentile:g}: lower --min-percentile"
    if among is not None:
        return "no recording matches the filters: loosen --tag, --label or --filter"
    return f"the library at {store.path} holds no recording to answer with: `mlxclap ingest PATH` takes more in"
