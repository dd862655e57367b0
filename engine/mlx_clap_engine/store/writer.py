"""The one writer of a library: commits of whole recordings, labels, spaces, and upkeep of the tables.

A commit writes several tables in an order that makes it safe to die at any point: windows, recordings, means, failures,
files. The row in means makes a recording visible, the row in files makes a file "done". Index building is `index.py`'s.
"""

import dataclasses
import hashlib
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pyarrow as pa
from lancedb.expr import col, lit

from mlx_clap_engine.errors import LibraryError, SpaceError

from .arrow import keyed_rows, means_to_arrow, windows_to_arrow
from .connection import Connection, chunks, writable
from .disk import Sweeper, folder_size, oldest_state
from .lock import WriterLock
from .recovery import recover
from .schema import (
    FAILURES,
    FILES,
    KEYS,
    LABELS,
    RECORDINGS,
    SCHEMAS,
    SPACES,
    EmbeddedRecording,
    FailureRow,
    FileRow,
    LabelRow,
    RecordingRow,
    SpaceInfo,
    encode_path,
    means_table,
    space_schemas,
    windows_table,
)

#: Old states of a table are kept this long for readers that are still at them.
KEEP_STATES = timedelta(hours=1)
#: A table is looked at for compaction every so many commits.
COMPACT_EVERY = 50
#: Fragments a table may have before it is compacted, if that is cheap or has become worth it.
MANY_FRAGMENTS = 50
#: Rewriting a table of this many rows takes under a second.
CHEAP_ROWS = 100_000

#: Bytes of old states worth freeing once they outweigh the table.
WORTH_FREEING = 64 << 20

#: The `source` of a decision made by a person.
HUMAN = "human"


@contextmanager
def open_writer(connection: Connection) -> Iterator["Writer"]:
    """Hold the writer lock, repair what a dead writer left, and hand out the writer."""
    with writable(connection.path):
        lock = WriterLock.acquire(connection.path)
    writer = None
    try:
        if lock.previous_died:
            recover(connection)
        writer = Writer(connection)
        yield writer
    finally:
        lock.release(clean=writer is not None and not writer.broken)


class Writer:
    """Writes to a library whose lock is held; made by `Store.writer`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sweeper = Sweeper(connection.path)
        self._commits = 0
        #: Set while something is half written, and left so when that fails: the next writer repairs it.
        self.broken = False

    def add_space(self, info: SpaceInfo) -> None:
        """Make the tables of a space; nothing happens if it is there. The first space becomes the default.

        Raises:
            SpaceError: it is there with another model's dimensions or window length.
        """
        known = {row["space"]: SpaceInfo(**row) for row in self._space_rows()}
        if info.space in known:
            there = known[info.space]
            if (there.dim, there.window_s) != (info.dim, info.window_s):
                raise SpaceError(
                    f"space {info.space} is in this library with {there.dim} numbers a window of {there.window_s:g} s; "
                    f"the model has {info.dim} and {info.window_s:g} s. Use the model the library was made with, "
                    "or another library"
                )
            return
        with self._writing(*space_schemas(info), SPACES):
            self._connection.create_missing(space_schemas(info))
            self._upsert(SPACES, keyed_rows(SPACES, [dataclasses.replace(info, default=not known)]))
        if info.default and known:
            self.set_default_space(info.space)

    def set_default_space(self, space: str) -> None:
        """Make `space` the one that commands use unless told otherwise.

        Raises:
            SpaceError: there is no such space.
        """
        infos = [SpaceInfo(**row) for row in self._space_rows()]
        if space not in {info.space for info in infos}:
            raise SpaceError(f"this library has no space {space}; ingest with its model first")
        with self._writing(SPACES):
            rows = [dataclasses.replace(info, default=info.space == space) for info in infos]
            self._upsert(SPACES, keyed_rows(SPACES, rows))

    def commit(
        self,
        *,
        space: str | None = None,
        embedded: Sequence[EmbeddedRecording] = (),
        recordings: Sequence[RecordingRow] = (),
        files: Sequence[FileRow] = (),
        failures: Sequence[FailureRow] = (),
        retried: Collection[str] = (),
    ) -> int:
        """Write a batch; when this returns it is on the disk. 1,000 to 5,000 windows a commit is a good size.

        Args:
            space: of `embedded`. A recording that already is in the space is not written again.
            recordings: written over rows of the same id. Each of `embedded` and `files` needs its recording, here
                or from before.
            retried: paths whose failure is forgotten.

        Returns:
            How many of `embedded` were new.

        Raises:
            SpaceError: no such space, or embeddings of another length.
            LibraryError: the disk is full or failing; nothing that was committed before is lost.
        """
        new = self._not_yet_in(space, embedded)
        # All rows are made before any is written: a value that cannot be stored stops the commit as a whole.
        recording_rows = keyed_rows(RECORDINGS, recordings)
        failure_rows, file_rows = keyed_rows(FAILURES, failures), keyed_rows(FILES, files)
        touched = [RECORDINGS, FAILURES, FILES]
        if space is not None and new:
            touched = [windows_table(space), means_table(space), *touched]
        with self._writing(*touched):
            if space is not None and new:
                windows = self._connection.table(windows_table(space))
                windows.add(windows_to_arrow(new, windows.schema))
            self._upsert(RECORDINGS, recording_rows)
            if space is not None and new:
                means = self._connection.table(means_table(space))
                means.add(means_to_arrow(new, means.schema))
            self._upsert(FAILURES, failure_rows)
            self._delete_paths(FAILURES, retried)
            self._upsert(FILES, file_rows)
        self._commits += 1
        if self._commits % COMPACT_EVERY == 0:
            self.compact()
        return len(new)

    def forget(self, paths: Collection[str]) -> None:
        """Drop files (and failures) by path. Their recordings stay: a file that comes back costs only a decode."""
        with self._writing(FILES, FAILURES):
            self._delete_paths(FILES, paths)
            self._delete_paths(FAILURES, paths)

    def write_labels(self, label_set: str, source: str, rows: Sequence[LabelRow], about: Collection[str] = ()) -> None:
        """Replace what `source` said in `label_set` about the recordings of `rows`, and about those of `about`.

        Only its own rows are replaced, so no machine's labels ever touch a person's (`HUMAN`).

        Raises:
            LibraryError: a row of another set or source.
        """
        strange = next((row for row in rows if (row.label_set, row.source) != (label_set, source)), None)
        if strange is not None:
            raise LibraryError(
                f"a label of set {strange.label_set!r} from {strange.source!r} was given with those of "
                f"set {label_set!r} from {source!r}; nothing was written"
            )
        by_recording: dict[str, dict[str, LabelRow]] = {recording: {} for recording in about}
        for row in rows:
            by_recording.setdefault(row.recording_id, {})[_label_id(row)] = row
        own = (col("label_set") == lit(label_set)) & (col("source") == lit(source))
        with self._writing(LABELS):
            for chunk in chunks(by_recording):
                labels = {key: row for recording in chunk for key, row in by_recording[recording].items()}
                stale = own & col("recording_id").isin(chunk)
                table = self._connection.table(LABELS)
                if not labels:
                    table.delete(stale)
                    continue
                # One atomic step: a reader sees the old labels or the new ones.
                merge = table.merge_insert("label_id").when_matched_update_all().when_not_matched_insert_all()
                merge = merge.when_not_matched_by_source_delete(stale)
                merge.use_index(False).execute(_labels_to_arrow(labels))

    def compact(self) -> list[str]:
        """Merge small fragments and drop old states of those tables that need it; returns their names.

        LanceDB rewrites a whole table that has no vector index, so a large one is left alone until it has doubled.
        """
        spaces = [row["space"] for row in self._space_rows()]
        names = [*SCHEMAS, *(table for s in spaces for table in (windows_table(s), means_table(s)))]
        due = [name for name in names if self._due(name)]
        for name in due:
            self.optimize(name)
        return due

    def optimize(self, name: str) -> None:
        """Compact one table, bring its index up to date, and delete states older than `KEEP_STATES`."""
        with self._writing(name):
            self._connection.table(name).optimize(cleanup_older_than=KEEP_STATES, delete_unverified=True)

    def create_index(self, table: str, column: str, config: Any) -> None:
        """Build or rebuild the index of a table's column; `config` is one of `lancedb.index`."""
        with self._writing(table):
            self._connection.table(table).create_index(column, config=config, name=f"{column}_index", replace=True)

    def _due(self, name: str) -> bool:
        stats: Any = self._connection.table(name).stats()  # a dict, whatever its annotation says
        fragments, rows = stats["fragment_stats"], stats["num_rows"]
        if fragments["num_fragments"] >= MANY_FRAGMENTS:
            doubled = rows >= 2 * fragments["lengths"]["max"]
            return bool(rows <= CHEAP_ROWS or stats["num_indices"] > 0 or doubled)
        folder = self._connection.path / f"{name}.lance"
        outdated = time.time() - oldest_state(folder) > KEEP_STATES.total_seconds()
        return bool(outdated and folder_size(folder) > 2 * stats["total_bytes"] + WORTH_FREEING)

    @contextmanager
    def _writing(self, *tables: str) -> Iterator[None]:
        """Mark the library as half written until the block has ended and `tables` are on the disk."""
        if self.broken:
            raise LibraryError(
                f"an earlier write to the library at {self._connection.path} failed; run the same command again, "
                "which repairs it first"
            )
        self.broken = True
        with writable(self._connection.path):
            yield
            self._sweeper.sweep(tables)
        self.broken = False

    def _not_yet_in(self, space: str | None, embedded: Sequence[EmbeddedRecording]) -> list[EmbeddedRecording]:
        """Each recording of `embedded` once, without those that the space has already."""
        if not embedded:
            return []
        dims = {row["space"]: row["dim"] for row in self._space_rows()}
        if space is None or space not in dims:
            raise SpaceError(f"this library has no space {space}; add it before writing embeddings to it")
        for recording in embedded:
            if recording.embeddings.shape[1] != dims[space]:
                raise SpaceError(
                    f"recording {recording.recording_id} has embeddings of {recording.embeddings.shape[1]} numbers; "
                    f"space {space} has {dims[space]}. Nothing was written"
                )
        by_id = {recording.recording_id: recording for recording in embedded}
        means = self._connection.table(means_table(space))
        for chunk in chunks(list(by_id)):
            query = means.search().where(col("recording_id").isin(chunk)).select(["recording_id"]).limit(None)
            for known in query.to_arrow()["recording_id"].to_pylist():
                del by_id[known]
        return list(by_id.values())

    def _space_rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._connection.table(SPACES).search().limit(None).to_list()
        return rows

    def _upsert(self, name: str, rows: pa.Table) -> None:
        if rows.num_rows:
            # Without `use_index(False)` an index on the key would let duplicates in.
            merge = self._connection.table(name).merge_insert(KEYS[name])
            merge.when_matched_update_all().when_not_matched_insert_all().use_index(False).execute(rows)

    def _delete_paths(self, name: str, paths: Collection[str]) -> None:
        for chunk in chunks(encode_path(path) for path in paths):
            self._connection.table(name).delete(col("path").isin(chunk))


def _label_id(row: LabelRow) -> str:
    identity = (row.recording_id, row.start_s, row.end_s, row.label_set, row.source, row.label)
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:32]


def _labels_to_arrow(labels: dict[str, LabelRow]) -> pa.Table:
    schema = SCHEMAS[LABELS]
    rows = [dataclasses.asdict(row) | {"label_id": key} for key, row in labels.items()]
    return pa.Table.from_pylist(rows, schema=schema)
