"""Plain rows -> Arrow tables, as they are written. Nothing is read or written here."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlx_clap_engine.errors import LibraryError

from .schema import KEYS, SCHEMAS, EmbeddedRecording, encode_path


def keyed_rows(name: str, rows: Sequence[Any]) -> pa.Table:
    """Rows as an Arrow table, the last one of each key: LanceDB would insert them all."""
    return _rows_to_arrow(list({getattr(row, KEYS[name]): row for row in rows}.values()), SCHEMAS[name])


def _rows_to_arrow(rows: Sequence[Any], schema: pa.Schema) -> pa.Table:
    """Rows (dataclasses of `schema.py`) as an Arrow table of `schema`; paths are encoded.

    Raises:
        LibraryError: a value that its column cannot hold.
    """
    columns = []
    for field in schema:
        values = [getattr(row, field.name) for row in rows]
        if field.name == "path":
            values = [encode_path(path) for path in values]
        elif pa.types.is_string(field.type):
            # Messages and tags may carry bytes of a path that are not text.
            values = [None if text is None else text.encode("utf-8", "replace").decode() for text in values]
        try:
            column = pa.array(values, field.type)
        except (ValueError, TypeError, OverflowError) as error:
            raise LibraryError(f"column {field.name!r} cannot hold a value: {error}; nothing was written") from error
        if column.null_count and not field.nullable:
            raise LibraryError(f"column {field.name!r} needs a value in every row; nothing was written")
        columns.append(column)
    return pa.table(columns, schema=schema)


def windows_to_arrow(embedded: Sequence[EmbeddedRecording], schema: pa.Schema) -> pa.Table:
    """All windows of `embedded` as rows of a windows table."""
    counts = [len(recording.start_s) for recording in embedded]
    ids = np.repeat(np.arange(len(embedded)), counts)
    names = pa.array([recording.recording_id for recording in embedded])
    return pa.table(
        [
            names.take(pa.array(ids)),
            pa.array(np.concatenate([np.arange(n, dtype=np.int32) for n in counts])),
            pa.array(np.concatenate([np.asarray(r.start_s, np.float64) for r in embedded])),
            pa.array(np.concatenate([np.asarray(r.end_s, np.float64) for r in embedded])),
            pa.array(np.concatenate([np.asarray(r.silent, np.bool_) for r in embedded])),
            _vectors(np.concatenate([r.embeddings for r in embedded])),
        ],
        schema=schema,
    )


def means_to_arrow(embedded: Sequence[EmbeddedRecording], schema: pa.Schema) -> pa.Table:
    """One row of a means table for each of `embedded`."""
    return pa.table(
        [
            pa.array([recording.recording_id for recording in embedded]),
            pa.array([len(recording.start_s) for recording in embedded], pa.int32()),
            pa.array([recording.hop_s for recording in embedded], pa.float64()),
            pa.array([recording.wholly_silent for recording in embedded], pa.bool_()),
            _vectors(np.stack([recording.mean() for recording in embedded])),
        ],
        schema=schema,
    )


def _vectors(matrix: NDArray[np.float32]) -> pa.Array:
    flat = np.ascontiguousarray(matrix, dtype=np.float32)  # [n, D]
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
