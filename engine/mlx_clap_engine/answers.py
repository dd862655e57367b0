"""Candidates -> answers a person can use: paths, tags, labels, and where the similarity stands in the library."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ranking import Candidate
from .store.library import Store
from .store.writer import HUMAN

_TAGS = ("title", "artist", "album", "genre")


@dataclass(frozen=True)
class Answer:
    """One row of a query, its fields as `query --json` writes them.

    Attributes:
        path: the first of `paths`, under which this recording is known.
        similarity: cosine similarity with the question.
        percentile: share, in percent, of the library's recordings that are at most this similar.
        z: standard deviations above the library's mean similarity; 0 where all are equally similar.
        labels: by label set. Where a person has decided, what machines said is left out.
        start_s, end_s: the best window; None when means were compared.
    """

    rank: int
    path: str
    paths: list[str]
    recording_id: str
    similarity: float
    percentile: float
    z: float
    title: str | None
    artist: str | None
    album: str | None
    genre: str | None
    labels: dict[str, list[str]]
    duration_s: float
    start_s: float | None = None
    end_s: float | None = None

    def row(self) -> dict[str, Any]:
        """As a dict, without times where there are none."""
        row = asdict(self)
        if self.start_s is None:
            del row["start_s"], row["end_s"]
        return row


def to_answers(
    store: Store, candidates: Sequence[Candidate], paths: dict[str, list[str]], population: NDArray[np.float64]
) -> list[Answer]:
    """Answers in the order of `candidates`, each of which has `paths`.

    `population` [R] holds the similarities of the library's recordings, or of a fair sample.
    """
    ids = {candidate.recording_id for candidate in candidates}
    columns = ["recording_id", "duration_s", *_TAGS]
    recordings = {row.pop("recording_id"): row for row in store.recordings(ids, columns).to_pylist()}
    labels = labels_by_recording(store, ids)
    ordered = np.sort(population)
    mean, deviation = (float(population.mean()), float(population.std())) if len(population) else (0.0, 0.0)
    return [
        Answer(
            rank=rank,
            path=paths[found.recording_id][0],
            paths=paths[found.recording_id],
            recording_id=found.recording_id,
            similarity=found.similarity,
            percentile=round(100.0 * np.searchsorted(ordered, found.similarity, "right") / max(len(ordered), 1), 2),
            z=round((found.similarity - mean) / deviation, 3) if deviation > 0 else 0.0,
            labels=labels.get(found.recording_id, {}),
            start_s=found.start_s,
            end_s=found.end_s,
            **recordings[found.recording_id],
        )
        for rank, found in enumerate(candidates, 1)
    ]


def labels_by_recording(store: Store, ids: Collection[str]) -> dict[str, dict[str, list[str]]]:
    """The labels on each recording as a whole, by set, most probable first; a person's replace those of machines."""
    rows = [row for row in store.labels(ids=ids).to_pylist() if row["start_s"] is None]
    decided = {(row["recording_id"], row["label_set"]) for row in rows if row["source"] == HUMAN}
    rows.sort(key=lambda row: (row["label_set"], -(row["probability"] or 0.0), row["label"]))
    labels: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        if row["source"] == HUMAN or (row["recording_id"], row["label_set"]) not in decided:
            kept = labels.setdefault(row["recording_id"], {}).setdefault(row["label_set"], [])
            if row["label"] not in kept:
                kept.append(row["label"])
    return labels
