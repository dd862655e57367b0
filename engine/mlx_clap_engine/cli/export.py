"""`mlxclap export`: embeddings for other programs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .filters import filtered
from .options import Shared, model_option, shared
from .output import emit

if TYPE_CHECKING:
    from ..filters import Filter

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(short_help="Write embeddings as JSON, JSON Lines, Parquet or NumPy.")
@click.option("--json-dir", type=_FOLDER, metavar="DIR", help="One JSON file a recording.")
@click.option("--jsonl", type=click.Path(allow_dash=True, path_type=Path), metavar="FILE|-", help="JSON Lines.")
@click.option("--parquet", type=_FILE, metavar="FILE", help="Parquet.")
@click.option("--numpy", type=_FOLDER, metavar="DIR", help="embeddings.npy [N, D] and rows.jsonl, line by line.")
@click.option("--windows", is_flag=True, help="Every window with its times instead of a mean for each recording.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@filtered
@model_option
@shared
def export(
    shared: Shared,
    json_dir: Path | None,
    jsonl: Path | None,
    parquet: Path | None,
    numpy: Path | None,
    windows: bool,
    overwrite: bool,
    filters: list["Filter"],
    model: str | None,
) -> None:
    """Write the library's embeddings, with paths, tags and labels, to one target.

    Embeddings have length 1, so their dot product is the cosine similarity. Recordings without sound are left out.
    """
    from mlx_clap.errors import AskedWronglyError

    from ..export import select, to_json_dir, to_jsonl, to_numpy, to_parquet
    from ..store.library import Store

    targets = {"--json-dir": json_dir, "--jsonl": jsonl, "--parquet": parquet, "--numpy": numpy}
    given = [target for target in targets.values() if target is not None]
    if len(given) != 1:
        raise AskedWronglyError(f"give exactly one target: {', '.join(targets)}")
    target = given[0]
    to_stdout = jsonl is not None and str(jsonl) == "-"
    if to_stdout and shared.json:
        raise AskedWronglyError("--jsonl - fills stdout, where --json would write its summary: leave one away")
    selection = select(Store.open(shared.library), windows=windows, filters=filters, model=model)
    with _progress(shared, selection.at_most) as progress:
        if json_dir is not None:
            done = to_json_dir(selection, json_dir, overwrite, progress)
        elif parquet is not None:
            done = to_parquet(selection, parquet, overwrite, progress)
        elif numpy is not None:
            done = to_numpy(selection, numpy, overwrite, progress)
        elif to_stdout:
            done = to_jsonl(selection, sys.stdout, overwrite, progress)
        else:
            done = to_jsonl(selection, target, overwrite, progress)
    if not done:
        shared.warn("nothing to export: no recording with sound matches")
    if shared.json:
        row = {"target": target.absolute(), "rows": done, "of": selection.kind, "space": selection.space.space}
        emit(shared, [row], [])
    else:
        shared.say(f"{done:,} {selection.kind} written to {'stdout' if to_stdout else target}")


@contextmanager
def _progress(shared: Shared, at_most: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, on a terminal that is not told to be quiet."""
    hidden = shared.verbosity < 0 or not sys.stderr.isatty()
    with click.progressbar(length=at_most, label="exporting", file=sys.stderr, hidden=hidden) as bar:
        yield lambda done: bar.update(done - bar.pos)
