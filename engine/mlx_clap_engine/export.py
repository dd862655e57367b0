"""A library's embeddings -> files for other programs: JSON, JSON Lines, Parquet, NumPy. Streamed; pushes to no service.

Every target is written under another name and put in place when it is complete, so it is there whole or not at all.
"""

import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .answers import labels_by_recording
from .errors import EngineError
from .filters import Filter
from .models import space_for_query
from .output_files import new_file, new_folder
from .store.library import Kind, Store
from .store.schema import SpaceInfo

Matrix = NDArray[np.float32]
Row = dict[str, Any]
Batches = Iterator[tuple[list[Row], Matrix]]
#: Called with the number of rows written so far.
Progress = Callable[[int], None]

_TAGS = ("title", "artist", "album", "albumartist", "genre", "year", "track", "bpm", "key", "comment")
_PROPERTIES = ("duration_s", "sample_rate", "channels", "codec")
#: Longest stem, in bytes of UTF-8, of a file named after a recording: every file system takes 255 with the rest.
_STEM_BYTES = 160
_ID_DIGITS = 12


@dataclass(frozen=True)
class Selection:
    """What to export: the means or the windows of one space, of the recordings `ids` (None: of all).

    As in answers, what holds no sound is left out (its embedding means nothing), and so are recordings whose files are
    gone.
    """

    store: Store
    space: SpaceInfo
    kind: Kind
    ids: frozenset[str] | None

    @property
    def at_most(self) -> int:
        """An upper bound of the rows, for a progress display."""
        counts = self.store.counts()
        total = (counts.windows if self.kind == "windows" else counts.means)[self.space.space]
        return total if self.ids is None or self.kind == "windows" else min(total, len(self.ids))

    def batches(self) -> Batches:
        """Rows with what is known of their recordings, and their vectors [n, D]; memory stays flat."""
        store, space = self.store, self.space.space
        stream = (
            store.stream_windows(space, self.ids)
            if self.kind == "windows"
            else store.stream_means(space, ("recording_id", "n_windows", "hop_s"), self.ids)
        )
        for batch, vectors in stream:
            # A thousand at a time, which the tables look up without being read whole.
            for start in range(0, len(batch), 1000):
                rows = batch.slice(start, 1000).to_pylist()
                known = self._describe({row["recording_id"] for row in rows})
                present = np.array([row["recording_id"] in known for row in rows])
                described = [known[row["recording_id"]] | row for row in rows if row["recording_id"] in known]
                yield described, vectors[start : start + 1000][present]

    def _describe(self, ids: set[str]) -> Mapping[str, Row]:
        columns = ["recording_id", *_PROPERTIES, *_TAGS]
        recordings = {row["recording_id"]: row for row in self.store.recordings(ids, columns).to_pylist()}
        paths = self.store.paths_by_recording(ids)
        labels = labels_by_recording(self.store, ids)
        return {
            recording: {
                "recording_id": recording,
                "path": paths[recording][0],
                "paths": paths[recording],
                **{name: row[name] for name in (*_TAGS, *_PROPERTIES)},
                "labels": labels.get(recording, {}),
                "space": self.space.space,
                "model": self.space.model,
            }
            for recording, row in recordings.items()
            if recording in paths
        }


def select(
    store: Store, *, windows: bool = False, filters: Sequence[Filter] = (), model: str | None = None
) -> Selection:
    """Choose what to export; `model` names the space, None is the library's default.

    Raises:
        SpaceError: an empty library, or a model of another space.
        FilterError: a label set nobody has used.
    """
    ids = store.matching(filters)
    kind: Kind = "windows" if windows else "means"
    return Selection(store, space_for_query(store, model), kind, None if ids is None else frozenset(ids))


def to_json_dir(selection: Selection, folder: Path, overwrite: bool = False, progress: Progress | None = None) -> int:
    """Write one JSON file a row, named after the recording's file and its id, into `folder`. Returns how many.

    With `overwrite` a folder that is not empty is written into: files of the same names are replaced, others stay.

    Raises:
        AskedWronglyError: `folder` is there, is not empty, and `overwrite` is false.
        EngineError: the disk is full or may not be written to.
    """
    with new_folder(folder, overwrite) as work:
        done = 0
        for rows, vectors in selection.batches():
            for row, vector in zip(rows, vectors, strict=True):
                (work / file_name(row)).write_text(json_line(row, vector) + "\n", encoding="utf-8")
            done = _count(done, rows, progress)
    return done


def to_jsonl(
    selection: Selection, target: Path | IO[str], overwrite: bool = False, progress: Progress | None = None
) -> int:
    """Write JSON Lines, one object a row, to a file or an open text stream.

    Raises:
        AskedWronglyError: the file exists and `overwrite` is false.
        EngineError: the disk is full or may not be written to.
    """
    if not isinstance(target, Path):
        return _write_lines(selection, target, progress)
    with new_file(target, overwrite) as work, work.open("w", encoding="utf-8") as file:
        return _write_lines(selection, file, progress)


def to_parquet(selection: Selection, target: Path, overwrite: bool = False, progress: Progress | None = None) -> int:
    """Write a Parquet file; `embedding` is a list of D float32, `labels` are JSON text.

    Bytes of a path that are not UTF-8 are written as \\xNN.

    Raises: as `to_jsonl`.
    """
    schema = _parquet_schema(selection)
    text = [field.name for field in schema if pa.types.is_string(field.type)]
    done = 0
    with (
        new_file(target, overwrite) as work,
        pq.ParquetWriter(work, schema, compression="zstd", use_dictionary=text) as writer,
    ):
        for rows, vectors in selection.batches():
            flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
            columns = [
                pa.array([_plain(row[name]) for row in rows], schema.field(name).type) for name in schema.names[:-1]
            ]
            columns.append(pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
            writer.write_table(pa.table(columns, schema=schema))
            done = _count(done, rows, progress)
    return done


def to_numpy(selection: Selection, folder: Path, overwrite: bool = False, progress: Progress | None = None) -> int:
    """Write `embeddings.npy`, float32 [N, D], and `rows.jsonl`, whose line n describes row n, into `folder`.

    Raises: as `to_json_dir`.
    """
    done = 0
    with (
        new_folder(folder, overwrite) as work,
        (work / "embeddings.npy").open("wb") as matrix,
        (work / "rows.jsonl").open("w", encoding="utf-8") as lines,
    ):
        start = _npy_header(matrix, 0, selection.space.dim)
        for rows, vectors in selection.batches():
            matrix.write(np.ascontiguousarray(vectors, "<f4").data)
            lines.writelines(json.dumps(row) + "\n" for row in rows)
            done = _count(done, rows, progress)
        # NumPy leaves room in a header for the first axis to grow, so the true one is of the same length.
        matrix.seek(0)
        if _npy_header(matrix, done, selection.space.dim) != start:
            raise EngineError(f"{folder}: the header of embeddings.npy outgrew its place; use --parquet")
    return done


def file_name(row: Row) -> str:
    """A safe name for a row: the stem of its file, part of its id, a window's index; no separator, no leading dot.

    The id keeps names apart, also where a file system takes upper and lower case, or NFC and NFD, for the same.
    """
    stem = os.path.splitext(os.path.basename(row["path"]))[0]
    safe = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", stem)).strip("._")
    safe = safe.encode("utf-8", "replace")[:_STEM_BYTES].decode("utf-8", "ignore") or "recording"
    window = f"-{row['index']:05d}" if "index" in row else ""
    return f"{safe}-{row['recording_id'][:_ID_DIGITS]}{window}.json"


def json_line(row: Row, vector: Matrix) -> str:
    """A row and its embedding as one line of JSON. Nine digits give back every float32 exactly."""
    numbers = ", ".join(["%.9g"] * len(vector)) % tuple(vector.tolist())
    return f'{json.dumps(row)[:-1]}, "embedding": [{numbers}]}}'


def _write_lines(selection: Selection, file: IO[str], progress: Progress | None) -> int:
    done = 0
    for rows, vectors in selection.batches():
        file.writelines(json_line(row, vector) + "\n" for row, vector in zip(rows, vectors, strict=True))
        done = _count(done, rows, progress)
    return done


def _count(done: int, rows: Sequence[Row], progress: Progress | None) -> int:
    done += len(rows)
    if progress is not None:
        progress(done)
    return done


def _npy_header(file: IO[bytes], n: int, dim: int) -> int:
    """Write the header of a float32 [n, dim] array and return where its data begin."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (n, dim)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def _parquet_schema(selection: Selection) -> pa.Schema:
    kinds: dict[str, pa.DataType] = {"recording_id": pa.string(), "path": pa.string(), "paths": pa.list_(pa.string())}
    kinds |= dict.fromkeys(_TAGS, pa.string()) | {"year": pa.int32(), "bpm": pa.float64()}
    kinds |= {"duration_s": pa.float64(), "sample_rate": pa.int32(), "channels": pa.int32(), "codec": pa.string()}
    kinds |= dict.fromkeys(("labels", "space", "model"), pa.string())
    if selection.kind == "windows":
        kinds |= {"index": pa.int32(), "start_s": pa.float64(), "end_s": pa.float64()}
    else:
        kinds |= {"n_windows": pa.int32(), "hop_s": pa.float64()}
    return pa.schema([*kinds.items(), ("embedding", pa.list_(pa.float32(), selection.space.dim))])


def _plain(value: Any) -> Any:
    """A value as Arrow takes it."""
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return os.fsencode(value).decode("utf-8", "backslashreplace") if isinstance(value, str) else value
