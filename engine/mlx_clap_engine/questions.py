"""What a person asks (words, sounds, recordings of the library) -> unit vectors in one space. Searches nothing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlx_clap.audio import SAMPLE_RATE, Windower
from mlx_clap.clap import Clap
from mlx_clap.errors import AskedWronglyError

from .decode import open_audio
from .errors import DecodeError, SpaceError
from .models import load_for_query, space_for_query
from .store.library import Store
from .store.lookup import ids_starting, recording_at
from .store.schema import SpaceInfo

Matrix = NDArray[np.float32]

_ID = re.compile(r"[0-9a-f]{4,32}")
#: Windows of a sound file embedded at once.
_BATCH = 8


@dataclass(frozen=True)
class Question:
    """What is sought, in any mixture: `texts`, `sounds` (files anywhere), `like` (paths or ids of recordings in the
    library, or beginnings of ids); `unlike` are texts of what is not wanted."""

    texts: Sequence[str] = ()
    sounds: Sequence[str | Path] = ()
    like: Sequence[str] = ()
    unlike: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not (self.texts or self.sounds or self.like or self.unlike):
            raise AskedWronglyError(
                'nothing was asked: give --text "a dog barking", --audio FILE or --like PATH (they may be combined)'
            )
        if not all(text.strip() for text in (*self.texts, *self.unlike)):
            raise AskedWronglyError("a text to ask with is empty: describe what should be heard")


@dataclass(frozen=True)
class Asked:
    """A question in the library's terms.

    Attributes:
        vectors: float32 [Q, D], unit length; `signs` [Q] are +1 for what is sought, -1 for what is not.
        references: the recordings that stand behind `like`.
        notes: what the person should know about the question.
    """

    space: SpaceInfo
    vectors: Matrix
    signs: NDArray[np.float64]
    references: frozenset[str]
    notes: list[str]


def understand(store: Store, question: Question, model: str | None = None) -> Asked:
    """Find or embed everything that is asked with. A model is loaded only for texts and sounds.

    Raises:
        AskedWronglyError: a `like` that is not in the library, is ambiguous, or is silent.
        SpaceError: the model is not of a space of this library, or a `like` was not embedded with it.
        DecodeError: a sound file that cannot be read, or holds only silence.
    """
    notes: list[str] = []
    vectors: list[Matrix] = []
    if question.texts or question.unlike or question.sounds:
        clap, space = load_for_query(store, model)
        texts = [*question.texts, *question.unlike]
        if texts:
            vectors += list(clap.embed_text(texts))
            notes += _cut(clap, texts)
        vectors += [embed_sound(clap, path, space.hop_s) for path in question.sounds]
    else:
        space = space_for_query(store, model)
    references = [find_recording(store, name) for name in question.like]
    means = _means(store, space, set(references))
    for name, reference in zip(question.like, references, strict=True):
        if reference not in means:
            raise SpaceError(
                f"{name} is in the library, but not embedded in space {space.space}: "
                f"`mlxclap ingest --model {space.model} PATH` adds it"
            )
        vector, silent = means[reference]
        if silent:
            raise AskedWronglyError(f"{name} is silent throughout, so nothing is like it. Ask with another recording")
        vectors.append(vector)
    signs = np.ones(len(vectors))
    signs[len(question.texts) : len(question.texts) + len(question.unlike)] = -1.0
    return Asked(space, np.stack(vectors), signs, frozenset(references), notes)


def find_recording(store: Store, name: str) -> str:
    """The id of the recording that `name` means: the path of one of its files, its id, or the beginning of its id.

    Raises:
        AskedWronglyError: no such recording in the library, or several.
    """
    if found := recording_at(store, name):
        return found
    ids = ids_starting(store, name.lower()) if _ID.fullmatch(name.lower()) else []
    if len(ids) == 1:
        return ids[0]
    if ids:
        raise AskedWronglyError(
            f"{len(ids)} recordings have an id that begins with {name} ({', '.join(ids[:3])} ...): give more digits"
        )
    raise AskedWronglyError(
        f"{name} is not in the library at {store.path}: `mlxclap ingest PATH` takes it in, and --audio asks with a "
        "file that is in no library"
    )


def embed_sound(clap: Clap, path: str | Path, hop_s: float) -> Matrix:
    """The mean embedding [D] of a sound file, made as a library's are: windows every `hop_s`, silent ones left out.

    Raises:
        DecodeError: no readable audio, or only silence.
    """
    windower = Windower(round(hop_s * SAMPLE_RATE))
    total = np.zeros(clap.embedding_dim)
    batch: list[Matrix] = []

    def embed() -> None:
        nonlocal total
        total = total + clap.embed_audio(np.stack(batch)).sum(axis=0, dtype=np.float64)
        batch.clear()

    with open_audio(path) as stream:
        for block in stream.blocks():
            batch += [window.samples for window in windower.push(block) if not window.silent]
            if len(batch) >= _BATCH:
                embed()
    batch += [window.samples for window in windower.finish() if not window.silent]
    if batch:
        embed()
    length = float(np.linalg.norm(total))
    if length == 0.0:
        raise DecodeError(f"{path} holds only silence, so there is nothing to ask with. Give another file")
    return np.asarray(total / length, dtype=np.float32)


def _means(store: Store, space: SpaceInfo, ids: set[str]) -> dict[str, tuple[Matrix, bool]]:
    """The stored mean of each of `ids` in the space, and whether it is silent."""
    found: dict[str, tuple[Matrix, bool]] = {}
    if ids:
        for batch, vectors in store.stream_means(space.space, ("recording_id", "silent"), ids, include_silent=True):
            rows = zip(batch["recording_id"].to_pylist(), vectors, batch["silent"].to_pylist(), strict=True)
            found |= {recording: (vector.copy(), silent) for recording, vector, silent in rows}
    return found


def _cut(clap: Clap, texts: list[str]) -> list[str]:
    limit = clap.config.text.max_tokens
    if clap.tokenizer is None:
        return []
    return [
        f"the text {text[:40]!r}... is longer than the model's {limit} tokens; the rest of it was not heeded"
        for text in texts
        if np.count_nonzero(clap.tokenizer([text])[0] != clap.config.text.pad_id) >= limit
    ]
