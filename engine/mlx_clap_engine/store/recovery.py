"""After a writer that died, or a power cut: bring the tables back to whole commits.

LanceDB keeps each table consistent when a process is killed. What is left to do is between tables (windows whose mean
was never written), and on the disk (files that a power cut left empty). Only committed work that had not reached the
disk can be lost, and then the file it belongs to is not "done" and is ingested again.
"""

import os
import shutil
from collections.abc import Iterable

import pyarrow as pa
from lancedb.expr import col
from lancedb.table import Table

from mlx_clap_engine.errors import LibraryError

from .connection import Connection, chunks, writable
from .disk import indexes_are_whole, remove_crash_litter
from .lock import WriterLock
from .schema import FILES, KEYS, RECORDINGS, SCHEMAS, SPACES, SpaceInfo, means_table, space_schemas, windows_table

#: How many commits back a table may be taken to find one that can be read. One sweep's worth is at most three.
ROLLBACK = 10


def recover_if_writer_died(connection: Connection) -> None:
    """Repair, unless the writer is alive or the folder cannot be written to (readers never show half a recording)."""
    try:
        lock = WriterLock.acquire(connection.path, patience_s=0.0)
    except (LibraryError, OSError):
        return
    clean = False
    try:
        if lock.previous_died:
            recover(connection)
        clean = True
    finally:
        lock.release(clean)


def recover(connection: Connection) -> None:
    """Repair all tables. Only for the holder of the writer lock.

    Raises:
        LibraryError: a table cannot be read at any of its last commits, or the disk is full.
    """
    with writable(connection.path):
        for folder in connection.path.glob("*.lance"):
            remove_crash_litter(folder)
        connection.create_missing(SCHEMAS)
        for name in SCHEMAS:
            _roll_back_to_readable(connection, name)
        spaces = [SpaceInfo(**row) for row in connection.table(SPACES).search().limit(None).to_list()]
        for info in spaces:
            connection.create_missing(space_schemas(info))
            for name in space_schemas(info):
                _roll_back_to_readable(connection, name)
                _drop_broken_indexes(connection, name)
        _reconcile(connection, [info.space for info in spaces])
        # What the dead writer had not flushed yet may be any of its files: one flush of everything is the quickest.
        os.sync()


def _roll_back_to_readable(connection: Connection, name: str) -> None:
    table = connection.table(name)
    newest = table.version
    for version in range(newest, max(newest - ROLLBACK, 0), -1):
        try:
            table.checkout(version)
            _column(table, KEYS.get(name, "recording_id"))
        except (OSError, RuntimeError, ValueError):
            continue
        if version != newest:
            table.restore()
        return
    raise LibraryError(
        f"Table {name!r} of the library at {connection.path} cannot be read, nor could its last {ROLLBACK} states. "
        "Bring the folder back from a backup, or move it away and run `mlxclap ingest` again"
    )


def _drop_broken_indexes(connection: Connection, name: str) -> None:
    """An index holds nothing that cannot be built again; without it search is exact."""
    if not indexes_are_whole(connection.path / f"{name}.lance"):
        table = connection.table(name)
        for index in table.list_indices():
            table.drop_index(index.name)
        shutil.rmtree(connection.path / f"{name}.lance" / "_indices")


def _reconcile(connection: Connection, spaces: Iterable[str]) -> None:
    """Keep windows <= means <= recordings and files <= recordings, whole recordings only."""
    known = set(_column(connection.table(RECORDINGS), "recording_id").to_pylist())
    embedded: set[str] = set()
    for space in spaces:
        windows, means = connection.table(windows_table(space)), connection.table(means_table(space))
        counted = pa.table({"id": _column(windows, "recording_id")}).group_by("id").aggregate([("id", "count")])
        present = dict(zip(counted["id"].to_pylist(), counted["id_count"].to_pylist(), strict=True))
        rows = means.search().select(["recording_id", "n_windows"]).limit(None).to_arrow()
        expected = dict(zip(rows["recording_id"].to_pylist(), rows["n_windows"].to_pylist(), strict=True))
        whole = {i for i, n in expected.items() if present.get(i) == n and i in known}
        _delete(means, "recording_id", expected.keys() - whole)
        _delete(windows, "recording_id", present.keys() - whole)
        embedded |= whole
    _delete(connection.table(RECORDINGS), "recording_id", known - embedded)
    held = set(_column(connection.table(FILES), "recording_id").to_pylist())
    _delete(connection.table(FILES), "recording_id", held - embedded)


def _column(table: Table, name: str) -> pa.ChunkedArray:
    return table.search().select([name]).limit(None).to_arrow()[name]


def _delete(table: Table, column: str, values: Iterable[str]) -> None:
    for chunk in chunks(sorted(values)):
        table.delete(col(column).isin(chunk))
