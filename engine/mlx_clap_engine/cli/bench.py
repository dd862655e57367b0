"""`mlxclap bench`: this machine's figures."""

from collections.abc import Iterator
from pathlib import Path

import click

from .options import Shared, model_option, shared
from .output import Row, emit, to_json

_NAMES = ("front-end", "audio", "text", "torch", "decode", "ingest", "search")
_COLUMNS = ("bench", "case", "dtype", "state", "n", "median_ms", "min_ms", "p95_ms", "unit", "per_second", "ratio")


@click.command(short_help="Measure this machine.")
@model_option
@click.option(
    "--shape",
    type=click.Choice(["unfused", "fused", "larger", "small"]),
    help="Measure a model of this shape with seeded weights, made in memory [default: unfused]. "
    "small is a toy with toy amounts, to see that everything runs.",
)
@click.option("--only", type=click.Choice(_NAMES), multiple=True, help="Only this bench (repeatable).")
@click.option("--repeats", type=click.IntRange(1), default=10, show_default=True, help="Timed runs of each figure.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Append the rows to this JSON Lines file.")
@click.option("--note", help="Kept in each row, for what a reader must know: 'shared machine'.")
@shared
def bench(
    shared: Shared,
    model: str | None,
    shape: str | None,
    only: tuple[str, ...],
    repeats: int,
    out: Path | None,
    note: str | None,
) -> None:
    """Measure the model, the decoders, an ingest and search on this machine.

    Times are milliseconds a unit (a window, a text, a second of sound): median, minimum and p95 of n runs after two
    that are not counted. Where PyTorch and transformers are installed, the same weights run there in turn with MLX, and
    ratio is MLX's time over PyTorch's. Nothing is downloaded and your library is not touched; temporary files take
    about 1 GB.
    """
    from mlx_clap_engine.bench.measure import Plan
    from mlx_clap_engine.bench.run import make_subject, run

    if model and shape:
        raise click.UsageError("--model measures an installed model, --shape one made in memory: give one of them")
    toy = shape == "small"
    plan = Plan(repeats, sound_s=4.0, files=3, windows=2000) if toy else Plan(repeats)
    rows: Iterator[Row] = run(make_subject(model, shape or "unfused"), plan, only or _NAMES, note, shared.say)
    emit(shared, _appended(rows, out) if out else rows, _COLUMNS)


def _appended(rows: Iterator[Row], out: Path) -> Iterator[Row]:
    """The same rows, each written to `out` as it comes."""
    for row in rows:
        with out.open("a", encoding="utf-8") as file:
            file.write(to_json(row) + "\n")
        yield row
