"""Filters -> the set of recordings they match.

Each comparison becomes a `lancedb.expr` expression over one allow-listed column, so a value is never read as SQL. The
results are combined as sets, so `not` and `!=` are exact complements: a recording without a genre is not Jazz.
"""

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from lancedb.expr import Expr, col, lit

from mlx_clap_engine.errors import FilterError
from mlx_clap_engine.filters import COLUMNS, And, Compare, Filter, HasLabel, Not, Or

from .connection import Connection
from .schema import LABELS, RECORDINGS
from .writer import HUMAN

_OPERATIONS: dict[str, Callable[[Expr, Expr], Any]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "~": Expr.contains,
}


def recordings_matching(connection: Connection, filters: Sequence[Filter]) -> set[str] | None:
    """Recordings that match all of `filters`; None when there are none.

    Raises:
        FilterError: an unknown column, or a label set that nothing was labelled with.
    """
    if not filters:
        return None
    return reduce(set.intersection, [_matching(connection, tree) for tree in filters])


def _matching(connection: Connection, tree: Filter) -> set[str]:
    match tree:
        case Compare(column, "!=", value):
            return _matching(connection, Not(Compare(column, "=", value)))
        case Compare():
            return _recordings(connection, _expression(tree))
        case HasLabel(label_set, label):
            return _labelled(connection, label_set, label)
        case Not(operand):
            return _recordings(connection, None) - _matching(connection, operand)
        case And(operands):
            return reduce(set.intersection, [_matching(connection, operand) for operand in operands])
        case Or(operands):
            return reduce(set.union, [_matching(connection, operand) for operand in operands])


def _expression(compare: Compare) -> Expr:
    if compare.column not in COLUMNS:
        raise FilterError(f"There is no column {compare.column!r}. Columns: {', '.join(COLUMNS)}")
    column, value = col(compare.column), lit(compare.value)
    if isinstance(compare.value, str):
        # Both sides are lowered by the database, so they agree on every alphabet.
        column, value = column.lower(), value.lower()
    where: Expr = _OPERATIONS[compare.operator](column, value)
    return where


def _recordings(connection: Connection, where: Expr | None) -> set[str]:
    query = connection.table(RECORDINGS).search().select(["recording_id"]).limit(None)
    if where is not None:
        query = query.where(where)
    return set(query.to_arrow()["recording_id"].to_pylist())


def _labelled(connection: Connection, label_set: str, label: str) -> set[str]:
    table = connection.table(LABELS)
    columns = ["recording_id", "start_s", "label", "source"]
    rows = table.search().where(col("label_set") == lit(label_set)).select(columns).limit(None).to_arrow().to_pylist()
    if not rows:
        known = sorted(set(table.search().select(["label_set"]).limit(None).to_arrow()["label_set"].to_pylist()))
        raise FilterError(
            f"No recording has a label of set {label_set!r} (sets in this library: {', '.join(known) or 'none yet'})"
        )
    whole = [row for row in rows if row["start_s"] is None]
    # Where a person has decided, what a machine said no longer counts.
    decided = {row["recording_id"] for row in whole if row["source"] == HUMAN}
    return {
        row["recording_id"]
        for row in whole
        if row["label"].lower() == label.lower() and (row["source"] == HUMAN or row["recording_id"] not in decided)
    }
