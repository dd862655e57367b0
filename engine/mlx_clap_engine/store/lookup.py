"""Finding recordings by what a person types, and a fair sample of them. Reads only; similarity is no matter here."""

import os
import unicodedata

from lancedb.expr import Expr, col, lit

from .connection import readable
from .library import Store
from .schema import FILES, RECORDINGS, encode_path, means_table

#: More than asked for by this factor, so that a sample of hash values hardly ever comes short.
_MARGIN = 1.3


def recording_at(store: Store, path: str) -> str | None:
    """The recording of the file at `path` (as `os.fsdecode` gives it, absolute or not); None if none is known there.

    Links are followed, and a name matches in either Unicode form: file systems do not tell them apart as people type.
    """
    plain = os.path.abspath(os.path.expanduser(path))
    names = {plain, os.path.realpath(plain)}
    names |= {unicodedata.normalize(form, name) for form in ("NFC", "NFD") for name in names}
    where = col("path").isin(sorted(map(encode_path, names)))
    return min(_ids(store, FILES, where), default=None)


def ids_starting(store: Store, prefix: str) -> list[str]:
    """The recording ids that begin with `prefix`, sorted."""
    # An id is hexadecimal, so that "g" comes after all that may follow.
    where = (col("recording_id") >= lit(prefix)) & (col("recording_id") < lit(prefix + "g"))
    return sorted(_ids(store, RECORDINGS, where))


def sample_ids(store: Store, space: str, n: int) -> list[str]:
    """A uniform sample of `n` of a space's recordings that hold sound; all when there are no more. Always the same one.

    Recording ids are digests of a hash, so the smallest ids are a fair draw.
    """
    table = means_table(store.space(space).space)
    heard = col("silent") == lit(False)
    with readable(store.path):
        total = store.connection.table(table).count_rows()
    share = n * _MARGIN / max(total, 1)
    few = heard & (col("recording_id") < lit(f"{int(share * 2**32):08x}")) if share < 1 else heard
    return sorted(_ids(store, table, few))[:n]


def _ids(store: Store, table: str, where: Expr) -> list[str]:
    with readable(store.path):
        query = store.connection.table(table).search().where(where).select(["recording_id"]).limit(None)
        ids: list[str] = query.to_arrow()["recording_id"].to_pylist()
    return ids
