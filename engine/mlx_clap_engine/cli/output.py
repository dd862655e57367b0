"""How rows reach stdout: JSON Lines for machines, an aligned table for people."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from .options import Shared

Row = Mapping[str, Any]


def emit(shared: Shared, rows: Iterable[Row], columns: Sequence[str]) -> None:
    """Write rows: all of each under --json, else a table of `columns`."""
    if shared.json:
        for row in rows:
            click.echo(to_json(row))
        return
    table([[cell(row.get(column)) for column in columns] for row in rows], columns)


def to_json(row: Row) -> str:
    """One row as one line of JSON; a path's undecodable bytes stay as the escapes Python gives them."""
    return json.dumps(row, default=_plain)


def table(cells: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
    """An aligned table with a header, numbers to the right; nothing at all without rows."""
    if not cells:
        return
    header = [column.replace("_", " ") for column in columns]
    widths = [max(len(row[i]) for row in [header, *cells]) for i in range(len(columns))]
    numeric = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(columns))]
    for row in [header, *cells]:
        aligned = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True))
        click.echo("  ".join(aligned).rstrip())


def cell(value: Any) -> str:
    """A value as people read it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, bool):
        return "yes" if value else ""
    return str(value).replace("\n", " ")


def duration(seconds: float) -> str:
    """Seconds as 0:07, 3:25 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(n_bytes: float) -> str:
    """Bytes as B, kB, MB or GB."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"


def _is_number(text: str) -> bool:
    return text == "" or text.lstrip("-").replace(".", "", 1).replace(":", "").isdigit()


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
