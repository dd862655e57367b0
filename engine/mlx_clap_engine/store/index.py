"""The vector index of a large library: when one is worth it, building and refreshing it, and how much it finds.

Below `INDEX_FROM` rows exact search is as fast. `IvfSq` under l2 with refinement found all of the exact top 10 on
clustered vectors at a quarter of their size; a quantised *cosine* index would report distances on a changing scale.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from lancedb.index import IvfSq
from lancedb.table import Table
from numpy.typing import NDArray

from mlx_clap_engine.errors import LibraryError

from .connection import readable, vector_query
from .library import Kind, Store
from .schema import means_table, windows_table

#: Rows from which an index is worth building.
INDEX_FROM = 20_000
#: Rows that may be missing from an index (they are searched exactly) before it is refreshed.
TAIL_LIMIT = 20_000
#: Difference of similarities that counts as a tie; rounding alone makes some 1e-7.
TIE = 1e-6


@dataclass(frozen=True)
class IndexState:
    """`rows` of a table, and how many of them its index covers (0: there is no index)."""

    rows: int
    indexed: int

    @property
    def needed(self) -> bool:
        """Whether building or refreshing the index is due."""
        if self.indexed == 0:
            return self.rows >= INDEX_FROM
        return self.rows - self.indexed >= TAIL_LIMIT


def index_state(store: Store, space: str, kind: Kind) -> IndexState:
    """Raises:
    SpaceError: no such space.
    """
    table = _table(store, space, kind)
    with readable(store.path):
        rows = table.count_rows()
        for index in table.list_indices():
            if "embedding" in index.columns:
                stats = table.index_stats(index.name)
                return IndexState(rows, stats.num_indexed_rows if stats is not None else 0)
        return IndexState(rows, 0)


def needs_index(store: Store, space: str) -> bool:
    """Whether the windows or the means of a space are due for `build_index`."""
    return any(index_state(store, space, kind).needed for kind in KINDS)


def build_index(store: Store, space: str, kind: Kind, rebuild: bool = False) -> IndexState:
    """Build the index of a space's windows or means, or bring it up to date (`rebuild`: train it anew).

    Nothing is done to a table of fewer than `INDEX_FROM` rows, nor to an index that covers all rows.

    Raises:
        SpaceError: no such space.
        LibraryBusyError: another process is writing.
    """
    state = index_state(store, space, kind)
    if state.rows < INDEX_FROM or (state.indexed == state.rows and not rebuild):
        return state
    name = _table(store, space, kind).name
    with store.writer() as writer:
        if state.indexed == 0 or rebuild:
            writer.create_index(name, "embedding", IvfSq(distance_type="l2"))
        else:
            writer.optimize(name)
    return index_state(store, space, kind)


def recall(
    store: Store,
    space: str,
    kind: Kind,
    n_queries: int = 50,
    k: int = 10,
    queries: NDArray[np.float32] | None = None,
    seed: int = 0,
) -> float:
    """Share of the exact top `k` that the index finds, over `queries` [n, D] or `n_queries` rows drawn from the table.

    A found row counts when it is as near as the exact k-th, so ties are not misses. 1.0 without an index.

    Raises:
        SpaceError: no such space.
        LibraryError: nothing to ask with: the table is empty.
    """
    table = _table(store, space, kind)
    with readable(store.path):
        if queries is None:
            queries = _draw(table, n_queries, seed)
        if not len(queries):
            raise LibraryError(f"Recall cannot be measured: the library at {store.path} has no {kind} in space {space}")
        stream = store.stream_windows if kind == "windows" else store.stream_means
        exact = _exact_top((vectors for _, vectors in stream(space, include_silent=True)), queries, k)
        found = 0
        for vector, similarities in zip(queries, exact, strict=True):
            rows = vector_query(table, vector).select(["_distance"]).limit(k).to_arrow()
            found += int(np.sum(1.0 - rows["_distance"].to_numpy() / 2 >= similarities[-1] - TIE))
    return found / exact.size


KINDS: tuple[Kind, Kind] = ("windows", "means")


def _table(store: Store, space: str, kind: Kind) -> Table:
    name = store.space(space).space
    return store.connection.table(windows_table(name) if kind == "windows" else means_table(name))


def _draw(table: Table, n: int, seed: int) -> NDArray[np.float32]:
    rows = table.count_rows()
    if rows == 0:
        return np.empty((0, 0), np.float32)
    offsets = np.random.default_rng(seed).choice(rows, size=min(n, rows), replace=False)
    drawn = table.take_offsets(sorted(offsets.tolist())).select(["embedding"]).to_arrow()["embedding"]
    vectors: NDArray[np.float32] = drawn.combine_chunks().flatten().to_numpy().reshape(len(drawn), -1)
    return vectors


def _exact_top(stream: Iterable[NDArray[np.float32]], queries: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """The `k` highest similarities of each query [n, k], descending, over all vectors of a stream."""
    best = np.empty((len(queries), 0), np.float32)
    for vectors in stream:
        best = np.concatenate([best, queries @ vectors.T], axis=1)
        best = -np.sort(-best, axis=1)[:, :k]
    return best
