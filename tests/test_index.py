"""The vector index: when it is built, that it finds what exact search finds, and that new rows are not lost."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mlx_clap_engine.errors import LibraryError, SpaceError
from mlx_clap_engine.store import index
from mlx_clap_engine.store.index import IndexState, build_index, index_state, needs_index, recall
from mlx_clap_engine.store.library import Store
from mlx_clap_engine.store.schema import EmbeddedRecording
from mlx_clap_engine.store.writer import Writer
from store_samples import DIM, SPACE, recording, space_info, unit_vectors

PER_RECORDING = 100


def fill(writer: Writer, recordings: range) -> None:
    starts = np.arange(PER_RECORDING) * 10.0
    quiet = np.zeros(PER_RECORDING, bool)
    batch = [
        EmbeddedRecording(f"r{i}", 10.0, starts, starts + 10, quiet, unit_vectors(PER_RECORDING, seed=i))
        for i in recordings
    ]
    writer.commit(space=SPACE, embedded=batch, recordings=[recording(f"r{i}") for i in recordings])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """20,000 windows with an index on them. Tests add rows and never remove any."""
    store = Store.open(tmp_path_factory.mktemp("index") / "library", create=True)
    with store.writer() as writer:
        writer.add_space(space_info())
        for first in range(0, 200, 50):
            fill(writer, range(first, first + 50))
    assert needs_index(store, SPACE)
    assert build_index(store, SPACE, "windows") == IndexState(20_000, 20_000)
    return store


def test_a_small_table_gets_no_index(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "library", create=True)
    with store.writer() as writer:
        writer.add_space(space_info())
        with_nothing = index_state(store, SPACE, "windows")
        fill(writer, range(2))
    assert with_nothing == IndexState(0, 0)
    assert not needs_index(store, SPACE)
    assert build_index(store, SPACE, "windows") == IndexState(200, 0)
    assert recall(store, SPACE, "windows", n_queries=5) == 1.0


def test_the_index_finds_nearly_all_of_the_exact_top(store: Store) -> None:
    assert recall(store, SPACE, "windows", n_queries=40, k=10) >= 0.98
    assert recall(store, SPACE, "windows", k=10, queries=unit_vectors(20, seed=999)) >= 0.95


def test_recall_is_lost_when_the_index_looks_in_one_partition_only(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(store, SPACE, "windows")
    query = index.vector_query
    monkeypatch.setattr(index, "vector_query", lambda *args: query(*args).nprobes(1))
    assert recall(store, SPACE, "windows", n_queries=40, k=100) < 0.98


def test_similarities_through_the_index_are_exact(store: Store) -> None:
    vector = unit_vectors(1, seed=77)[0]
    by_place = {}
    for rows, vectors in store.stream_windows(SPACE):
        for row, similarity in zip(rows.to_pylist(), vectors @ vector, strict=True):
            by_place[row["recording_id"], row["index"]] = float(similarity)
    found = store.nearest(SPACE, "windows", vector, 20)
    for row in found:
        assert row["similarity"] == pytest.approx(by_place[row["recording_id"], row["index"]], abs=1e-6)
    assert found[0]["similarity"] == pytest.approx(max(by_place.values()), abs=1e-6)


def test_rows_after_the_index_are_found_and_a_long_tail_is_taken_in(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector = unit_vectors(PER_RECORDING, seed=500)[3]
    with store.writer() as writer:
        fill(writer, range(500, 505))
    [nearest] = store.nearest(SPACE, "windows", vector, 1)
    assert (nearest["recording_id"], nearest["index"]) == ("r500", 3)
    state = index_state(store, SPACE, "windows")
    assert state.rows - state.indexed == 500
    assert not state.needed
    monkeypatch.setattr(index, "TAIL_LIMIT", 500)
    assert needs_index(store, SPACE)
    assert build_index(store, SPACE, "windows") == IndexState(state.rows, state.rows)
    assert store.nearest(SPACE, "windows", vector, 1) == [nearest]
    assert build_index(store, SPACE, "windows", rebuild=True) == IndexState(state.rows, state.rows)


@pytest.mark.parametrize("left", [0, 1000])
def test_an_index_that_a_power_cut_damaged_is_dropped_and_built_again(store: Store, tmp_path: Path, left: int) -> None:
    build_index(store, SPACE, "windows", rebuild=True)
    copy = shutil.copytree(store.path, tmp_path / "library")
    files = [path for path in (copy / "windows_small-0a1b2c3d.lance" / "_indices").rglob("*") if path.is_file()]
    for file in files:
        os.truncate(file, left)
    (copy / "writer.lock").write_text("a writer that did not end")
    damaged = Store.open(copy)
    vector = unit_vectors(1, seed=77)[0]
    assert damaged.nearest(SPACE, "windows", vector, 5) == store.nearest(SPACE, "windows", vector, 5)
    assert index_state(damaged, SPACE, "windows").indexed == 0
    state = build_index(damaged, SPACE, "windows")
    (copy / "writer.lock").write_text("another that did not end")
    assert index_state(Store.open(copy), SPACE, "windows") == state == IndexState(state.rows, state.rows)


def test_recall_of_nothing_is_an_error(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "library", create=True)
    with store.writer() as writer:
        writer.add_space(space_info())
    with pytest.raises(LibraryError, match="has no means in space"):
        recall(store, SPACE, "means")
    with pytest.raises(SpaceError, match="no embeddings in space other"):
        recall(store, "other", "means")
    assert DIM == store.space(SPACE).dim
