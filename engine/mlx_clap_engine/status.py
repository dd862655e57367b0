"""What a library holds, in figures. Reads everything but the embeddings; changes nothing."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from .store.index import KINDS, index_state
from .store.library import Store
from .store.schema import FailureRow

#: How many reasons of failures are told.
_REASONS = 5
_REASON_LENGTH = 160


@dataclass(frozen=True)
class SpaceStatus:
    """One space: `windows` and `means` are rows, `*_indexed` how many of them an index covers."""

    space: str
    model: str
    default: bool
    dim: int
    hop_s: float
    recordings: int
    windows: int
    means_indexed: int
    windows_indexed: int


@dataclass(frozen=True)
class Reason:
    """Why files could not be taken in, and how many."""

    reason: str
    files: int


@dataclass(frozen=True)
class Status:
    """A library's figures. `formats` counts recordings by codec; `next` are commands that make sense now."""

    library: str
    recordings: int
    files: int
    hours: float
    silent: int
    failures: int
    failure_reasons: list[Reason]
    formats: dict[str, int]
    labels: int
    spaces: list[SpaceStatus]
    size_bytes: int
    next: list[str]


def describe(store: Store) -> Status:
    """Count everything.

    Raises:
        LibraryError: the library cannot be read.
    """
    counts = store.counts()
    recordings = store.recordings(columns=["duration_s", "silent", "codec"])
    formats = Counter(recordings["codec"].to_pylist())
    spaces, due = [], False
    for info in store.spaces():
        states = {kind: index_state(store, info.space, kind) for kind in KINDS}
        due |= info.default and any(state.needed for state in states.values())
        spaces.append(
            SpaceStatus(
                space=info.space,
                model=info.model,
                default=info.default,
                dim=info.dim,
                hop_s=info.hop_s,
                recordings=counts.means[info.space],
                windows=counts.windows[info.space],
                means_indexed=states["means"].indexed,
                windows_indexed=states["windows"].indexed,
            )
        )
    return Status(
        library=str(store.path),
        recordings=counts.recordings,
        files=counts.files,
        hours=round((pc.sum(recordings["duration_s"]).as_py() or 0.0) / 3600, 3),
        silent=pc.sum(recordings["silent"]).as_py() or 0,
        failures=counts.failures,
        failure_reasons=reasons(store.failures()),
        formats=dict(sorted(formats.items(), key=lambda item: (-item[1], item[0]))),
        labels=counts.labels,
        spaces=spaces,
        size_bytes=folder_bytes(store.path),
        next=list(_next(counts.recordings, counts.failures, due)),
    )


def reasons(failures: Iterable[FailureRow]) -> list[Reason]:
    """The most frequent reasons, the name of the file taken out of each so that equal ones are counted together."""
    counted: Counter[str] = Counter()
    for failure in failures:
        # The message was stored with what is not text in a path replaced.
        path = failure.path.encode("utf-8", "replace").decode()
        text = failure.error.replace(path, "").strip(" :,-")
        counted[text if len(text) <= _REASON_LENGTH else text[: _REASON_LENGTH - 3] + "..."] += 1
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return [Reason(reason, files) for reason, files in ordered[:_REASONS]]


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under `folder`; files that vanish meanwhile count as nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _next(recordings: int, failures: int, index_due: bool) -> Iterable[str]:
    if failures:
        yield "mlxclap status --failures   (every file that could not be read, and why)"
    if index_due:
        yield "mlxclap index   (makes searches of a library this large faster)"
    if recordings:
        yield 'mlxclap query --text "a dog barking"'
    else:
        yield "mlxclap ingest FOLDER"
