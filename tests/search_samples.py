"""Small libraries whose recordings point where a test wants them, for the tests of searching."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlx_clap_engine.store.library import Store
from mlx_clap_engine.store.schema import EmbeddedRecording
from store_samples import DIM, SPACE, file, recording, space_info

Matrix = NDArray[np.float32]


def ident(name: str) -> str:
    """An id as real ones are: 32 hexadecimal digits of a hash."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def direction(*weights: float) -> Matrix:
    """A unit vector with these first components."""
    vector = np.zeros(DIM, np.float32)
    vector[: len(weights)] = weights
    return vector / np.linalg.norm(vector)


def sound(name: str, vectors: Iterable[Matrix], silent: tuple[int, ...] = ()) -> EmbeddedRecording:
    """A recording with one window of 10 s for each vector."""
    stacked = np.stack(list(vectors))
    starts = np.arange(len(stacked)) * 10.0
    return EmbeddedRecording(
        ident(name), 10.0, starts, starts + 10.0, np.isin(np.arange(len(stacked)), silent), stacked
    )


def make_library(
    path: Path, sounds: Iterable[EmbeddedRecording], tags: dict[str, dict[str, object]] | None = None
) -> Store:
    """A library of `sounds`, each at /m/<id>.wav; `tags` by recording id."""
    store, sounds = Store.open(path, create=True), list(sounds)
    with store.writer() as writer:
        writer.add_space(space_info())
        writer.commit(
            space=SPACE,
            embedded=sounds,
            recordings=[
                recording(s.recording_id, silent=s.wholly_silent, **(tags or {}).get(s.recording_id, {}))
                for s in sounds
            ],
            files=[file(f"/m/{s.recording_id}.wav", s.recording_id) for s in sounds],
        )
    return store
