"""A library on disk: open it and read it. Writing is `writer.py`'s; questions are asked elsewhere.

A recording is visible in a space from the moment its row in `means_<space>` is there: the writer adds that row after
its windows and its recording, so nobody ever sees half a recording.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lancedb.expr import Expr, col, lit
from lancedb.table import Table
from numpy.typing import NDArray

from mlx_clap_engine.errors import LibraryError, SpaceError
from mlx_clap_engine.filters import Filter

from . import creation, matching, recovery
from .connection import Connection, is_library, readable, vector_query
from .lock import unfinished
from .schema import (
    FAILURES,
    FILES,
    LABELS,
    RECORDINGS,
    SPACES,
    FailureRow,
    FileRow,
    SpaceInfo,
    decode_path,
    means_table,
    windows_table,
)
from .writer import Writer, open_writer

Matrix = NDArray[np.float32]
Kind = Literal["windows", "means"]

#: Rows in a batch of a stream: 8 MiB of 512-d vectors; twice that gains nothing.
BATCH_ROWS = 4096
#: Beyond this many recordings a restricted search reads all vectors instead of handing the index a list.
ISIN_LIMIT = 1000


@dataclass(frozen=True)
class Counts:
    """How many rows a library has; `windows` and `means` by space."""

    files: int
    recordings: int
    failures: int
    labels: int
    windows: dict[str, int]
    means: dict[str, int]


class Store:
    """A library. Every read sees what was committed when it began; `Store.open` makes one."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.path = connection.path

    @classmethod
    def open(cls, path: str | Path, create: bool = False) -> "Store":
        """Open the library in folder `path`, or make one there if `create` and there is none.

        What a writer that died has left is tidied up first.

        Raises:
            LibraryError: no library there, of a newer schema, damaged, or on a disk it cannot live on.
            LibraryBusyError: it does not exist yet, and another process is making it.
        """
        folder = Path(path).expanduser().absolute()
        if not is_library(folder):
            if not create:
                raise LibraryError(
                    f"There is no library at {folder}. `mlxclap ingest PATH` makes one from your audio files; "
                    "--library names another folder"
                )
            creation.create_library(folder)
        connection = Connection(folder)
        if unfinished(folder):
            recovery.recover_if_writer_died(connection)
        connection.check_version()
        return cls(connection)

    def writer(self) -> AbstractContextManager[Writer]:
        """The one writer of this library, as a context manager.

        Raises:
            LibraryBusyError: another process is writing.
        """
        return open_writer(self.connection)

    def spaces(self) -> list[SpaceInfo]:
        """All spaces, oldest first."""
        rows = [SpaceInfo(**row) for row in self._read(SPACES).to_pylist()]
        return sorted(rows, key=lambda info: (info.created_at, info.space))

    def default_space(self) -> SpaceInfo | None:
        """The space that commands use unless told otherwise; None in a library nothing was ingested into."""
        return next((info for info in self.spaces() if info.default), None)

    def space(self, name: str) -> SpaceInfo:
        """Raises:
        SpaceError: the library has no such space; the message lists those it has.
        """
        known = {info.space: info for info in self.spaces()}
        if name not in known:
            listed = ", ".join(sorted(known)) or "none yet"
            raise SpaceError(
                f"The library at {self.path} has no embeddings in space {name} (it has: {listed}). "
                "Ingest with that model first, or ask with the model of a space that is there"
            )
        return known[name]

    def counts(self) -> Counts:
        """Row counts of all tables."""
        with readable(self.path):
            spaces = [info.space for info in self.spaces()]
            return Counts(
                files=self._table(FILES).count_rows(),
                recordings=self._table(RECORDINGS).count_rows(),
                failures=self._table(FAILURES).count_rows(),
                labels=self._table(LABELS).count_rows(),
                windows={space: self._table(windows_table(space)).count_rows() for space in spaces},
                means={space: self._table(means_table(space)).count_rows() for space in spaces},
            )

    def files(self) -> Iterator[FileRow]:
        """Every file in the library, in no particular order."""
        for row in self._rows(FILES):
            yield FileRow(**(row | {"path": decode_path(row["path"])}))

    def failures(self) -> Iterator[FailureRow]:
        """Every file that could not be taken in."""
        for row in self._rows(FAILURES):
            yield FailureRow(**(row | {"path": decode_path(row["path"])}))

    def recordings(self, ids: Collection[str] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """The recordings (all, or those of `ids` that exist), in no particular order."""
        return self._read(RECORDINGS, columns, ids)

    def labels(self, label_set: str | None = None, ids: Collection[str] | None = None) -> pa.Table:
        """Labels, of one set or all, on all recordings or on `ids`."""
        where = None if label_set is None else col("label_set") == lit(label_set)
        return self._read(LABELS, None, ids, where)

    def paths_by_recording(self, ids: Collection[str] | None = None) -> dict[str, list[str]]:
        """The paths, sorted, under which each recording was found."""
        found: dict[str, list[str]] = {}
        table = self._read(FILES, ["path", "recording_id"], ids)
        for path, recording in zip(table["path"].to_pylist(), table["recording_id"].to_pylist(), strict=True):
            found.setdefault(recording, []).append(decode_path(path))
        return {recording: sorted(paths) for recording, paths in found.items()}

    def embedded_ids(self, space: str) -> set[str]:
        """The recordings that are done in a space, the wholly silent ones included."""
        return set(self._read(means_table(self.space(space).space), ["recording_id"])["recording_id"].to_pylist())

    def matching(self, filters: Sequence[Filter]) -> set[str] | None:
        """The recordings that satisfy all of `filters`; None, meaning all, when there are none.

        Raises:
            FilterError: a label set that nothing was ever labelled with.
        """
        with readable(self.path):
            return matching.recordings_matching(self.connection, filters)

    def stream_means(
        self,
        space: str,
        columns: Sequence[str] = ("recording_id",),
        ids: Collection[str] | None = None,
        include_silent: bool = False,
    ) -> Iterator[tuple[pa.RecordBatch, Matrix]]:
        """The means of a space, batch by batch, with their vectors [n, D] (views, read-only). Memory stays flat.

        Wholly silent recordings are left out unless `include_silent`. `columns` are those of the means table.
        """
        table = self._table(means_table(self.space(space).space))
        yield from self._stream(table, columns, ids, include_silent)

    def stream_windows(
        self,
        space: str,
        ids: Collection[str] | None = None,
        columns: Sequence[str] = ("recording_id", "index", "start_s", "end_s"),
        include_silent: bool = False,
    ) -> Iterator[tuple[pa.RecordBatch, Matrix]]:
        """The windows of a space's recordings, as `stream_means`; silent windows are left out likewise."""
        info = self.space(space)
        with readable(self.path):
            # The means are read first: a window that is there without its mean belongs to a commit under way.
            means = self._read(means_table(info.space), ["recording_id", "n_windows"])
            table = self._table(windows_table(info.space))
            if table.count_rows() != (pc.sum(means["n_windows"]).as_py() or 0):
                done = set(means["recording_id"].to_pylist())
                ids = done if ids is None else done.intersection(ids)
        yield from self._stream(table, columns, ids, include_silent)

    def nearest(
        self, space: str, kind: Kind, vector: Matrix, limit: int, ids: Collection[str] | None = None
    ) -> list[dict[str, Any]]:
        """The `limit` most similar windows or means, most similar first, through the index where there is one.

        Args:
            vector: float32 [D], unit length.
            ids: only these recordings.

        Returns:
            Rows with `recording_id`, `similarity` (cosine), and for windows `index`, `start_s`, `end_s`.

        Raises:
            SpaceError: no such space, or `vector` has another length than its embeddings.
        """
        info = self.space(space)
        if vector.shape != (info.dim,):
            raise SpaceError(f"space {space} has embeddings of {info.dim} numbers, asked with {vector.shape}")
        extra = ["index", "start_s", "end_s"] if kind == "windows" else []
        columns = ["recording_id", *extra]
        if ids is not None and len(ids) > ISIN_LIMIT:
            stream = (
                self.stream_windows(space, ids, columns)
                if kind == "windows"
                else self.stream_means(space, columns, ids)
            )
            return _exact_top(stream, vector, limit)
        table = self._table(windows_table(space) if kind == "windows" else means_table(space))
        with readable(self.path):
            wanted = limit
            while True:
                query = vector_query(table, vector).select([*columns, "silent", "_distance"]).limit(wanted)
                if ids is not None:
                    query = query.where(col("recording_id").isin(sorted(ids)))
                found = query.to_list()
                rows = self._answers(space, kind, found)
                if len(rows) >= limit or len(found) < wanted:
                    break
                wanted *= 2
        return [
            {name: row[name] for name in columns} | {"similarity": 1.0 - row["_distance"] / 2} for row in rows[:limit]
        ]

    def _answers(self, space: str, kind: Kind, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those rows that hold sound and whose recording was committed whole (nearly all)."""
        rows = [row for row in rows if not row["silent"]]
        if kind == "means":
            return rows
        ids = {row["recording_id"] for row in rows}
        done = set(self._read(means_table(space), ["recording_id"], ids)["recording_id"].to_pylist())
        return [row for row in rows if row["recording_id"] in done]

    def _table(self, name: str) -> Table:
        return self.connection.table(name)

    def _read(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        ids: Collection[str] | None = None,
        where: Expr | None = None,
    ) -> pa.Table:
        """A whole table, or some columns of it, or the rows of some recordings."""
        table = self._table(name)
        with readable(self.path):
            names = table.schema.names if columns is None else list(columns)
            query = table.search().limit(None)
            if ids is not None and len(ids) <= ISIN_LIMIT:
                among = col("recording_id").isin(sorted(ids))
                where = among if where is None else among & where
            if where is not None:
                query = query.where(where)
            if ids is None or len(ids) <= ISIN_LIMIT:
                return query.select(names).to_arrow()
            found = query.select(list(dict.fromkeys([*names, "recording_id"]))).to_arrow()
            return found.filter(pc.is_in(found["recording_id"], pa.array(sorted(ids)))).select(names)

    def _rows(self, name: str) -> Iterator[dict[str, Any]]:
        with readable(self.path):
            for batch in self._table(name).search().limit(None).to_batches(BATCH_ROWS):
                yield from batch.to_pylist()

    def _stream(
        self, table: Table, columns: Sequence[str], ids: Collection[str] | None, include_silent: bool
    ) -> Iterator[tuple[pa.RecordBatch, Matrix]]:
        wanted = None if ids is None else set(ids)
        selected = list(dict.fromkeys(["recording_id", "silent", *columns, "embedding"]))
        query = table.search().select(selected).limit(None)
        if wanted is not None and len(wanted) <= ISIN_LIMIT:
            query = query.where(col("recording_id").isin(sorted(wanted)))
            wanted = None
        with readable(self.path):
            for batch in query.to_batches(BATCH_ROWS):
                keep = np.ones(len(batch), dtype=np.bool_)
                if not include_silent:
                    keep &= ~batch["silent"].to_numpy(zero_copy_only=False)
                if wanted is not None:
                    keep &= np.fromiter((i in wanted for i in batch["recording_id"].to_pylist()), np.bool_, len(batch))
                if not keep.all():
                    batch = batch.filter(pa.array(keep))
                if len(batch):
                    vectors = batch["embedding"].flatten().to_numpy(zero_copy_only=True)
                    yield batch.select(list(columns)), vectors.reshape(len(batch), -1)  # [n, D]


def _exact_top(stream: Iterator[tuple[pa.RecordBatch, Matrix]], vector: Matrix, limit: int) -> list[dict[str, Any]]:
    """The `limit` rows of a stream most similar to `vector`, most similar first."""
    best: list[dict[str, Any]] = []
    for batch, vectors in stream:
        similarity = vectors @ vector  # [n]
        top = np.argsort(-similarity, kind="stable")[:limit]
        rows = batch.take(pa.array(top)).to_pylist()
        best += [row | {"similarity": float(similarity[at])} for row, at in zip(rows, top, strict=True)]
        best = sorted(best, key=lambda row: -row["similarity"])[:limit]
    return best
