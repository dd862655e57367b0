"""Opening tables, and turning what LanceDB raises into errors a person can act on.

Every read opens its table afresh (0.5 ms): it sees all that is committed and a consistent state for as long as it runs.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.query import LanceVectorQueryBuilder
from lancedb.table import Table
from numpy.typing import NDArray

from mlx_clap_engine.errors import LibraryError

from .disk import raise_open_file_limit
from .schema import SCHEMA_VERSION, SPACES, VERSION_KEY

#: LanceDB's own defaults are 6 GiB and 1 GiB.
INDEX_CACHE_BYTES = 512 << 20
METADATA_CACHE_BYTES = 128 << 20

#: Candidates fetched an answer, whose distances are then computed from the full vectors.
REFINE_FACTOR = 3

#: In words, and ENOSPC, EFBIG, and EDQUOT of Linux and macOS by number.
_DISK_FULL = re.compile(
    r"no space left|disk quota|file too large|os error (28|27|122|69)\b|errno (28|27|122|69)\b", re.I
)


class Connection:
    """The tables of one library folder."""

    def __init__(self, path: Path) -> None:
        raise_open_file_limit()
        self.path = path
        session = lancedb.Session(
            index_cache_size_bytes=INDEX_CACHE_BYTES, metadata_cache_size_bytes=METADATA_CACHE_BYTES
        )
        self._database = lancedb.connect(str(path), session=session)

    def table(self, name: str) -> Table:
        """The newest state of a table; the object stays at that state when others write.

        Raises:
            LibraryError: it is missing or damaged.
        """
        with readable(self.path):
            try:
                return self._database.open_table(name)
            except ValueError as error:  # how LanceDB says that a table is not there
                raise LibraryError(f"The library at {self.path} lacks its table {name!r}. {_REMEDY}") from error

    def exists(self, name: str) -> bool:
        """Whether a table of that name has been made."""
        # Its folder may be there without a first manifest after a power cut.
        return bool(list((self.path / f"{name}.lance" / "_versions").glob("*.manifest")))

    def create_missing(self, schemas: dict[str, pa.Schema]) -> None:
        """Make those of `schemas` (by table name, in order) that are not there."""
        for name, schema in schemas.items():
            if not self.exists(name):
                started = (self.path / f"{name}.lance").exists()
                self._database.create_table(name, schema=schema, mode="overwrite" if started else "create")

    def check_version(self) -> None:
        """Raises:
        LibraryError: the library was made by a newer mlxclap.
        """
        metadata = self.table(SPACES).schema.metadata or {}
        found = int(metadata.get(VERSION_KEY, b"0"))
        if found > SCHEMA_VERSION:
            raise LibraryError(
                f"The library at {self.path} has schema version {found}; this mlxclap knows version {SCHEMA_VERSION}. "
                "Upgrade mlxclap to use it, or choose another folder with --library"
            )


def is_library(path: Path) -> bool:
    """Whether `path` is a library's folder."""
    return (path / f"{SPACES}.lance").is_dir()


def vector_query(table: Table, vector: NDArray[np.float32]) -> LanceVectorQueryBuilder:
    """A nearest-neighbour query; its `_distance` is 2 - 2 * similarity, exact for the rows returned."""
    query = table.search(vector, vector_column_name="embedding", query_type="vector")
    # Any other metric than the index's would silently search without it.
    assert isinstance(query, LanceVectorQueryBuilder)
    return query.distance_type("l2").refine_factor(REFINE_FACTOR)


_REMEDY = (
    "Bring the folder back from a backup, or move it away and run `mlxclap ingest` again; "
    "your audio files are never changed"
)


@contextmanager
def readable(library: Path) -> Iterator[None]:
    """Turn what LanceDB raises while reading into a `LibraryError`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise LibraryError(f"The library at {library} could not be read: {_first_line(error)}. {_REMEDY}") from error


@contextmanager
def writable(library: Path) -> Iterator[None]:
    """Turn what LanceDB or the system raises while writing into a `LibraryError`; a full disk is named as such."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        kept = "All that was committed before is safe; what was being written is not in the library"
        if _DISK_FULL.search(str(error)):
            raise LibraryError(
                f"The disk that holds the library at {library} is full. {kept}. Free some space and run the same "
                "command again: it goes on where it stopped"
            ) from error
        raise LibraryError(
            f"Writing to the library at {library} failed: {_first_line(error)}. {kept}. Run the same command again"
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0].split(", /", 1)[0].rstrip(".")


def chunks(items: Iterable[str], size: int = 1000) -> Iterator[list[str]]:
    """`items` in lists of at most `size`: the longest `isin` that stays cheap on an uncompacted table."""
    chunk: list[str] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
