"""`mlxclap query`: ask the library in words, with a sound, or with a recording it holds."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from .filters import filtered
from .options import Shared, model_option, shared
from .output import cell, duration, emit, table

if TYPE_CHECKING:
    from ..answers import Answer

#: Room for "Artist - Title" on a terminal; the path gets what is left of the line, but not less than `_PATH`.
_NAME, _PATH = 32, 24


@click.command(short_help="Find recordings by words, by a sound, or by likeness.")
@click.option("--text", "-t", "texts", multiple=True, metavar="TEXT", help="What should be heard, in words.")
@click.option(
    "--audio",
    "-a",
    "sounds",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A sound file from anywhere.",
)
@click.option("--like", multiple=True, metavar="PATH|ID", help="A recording of the library, by path or id.")
@click.option("--not", "unlike", multiple=True, metavar="TEXT", help="What should not be heard, in words.")
@click.option("-k", type=int, default=10, show_default=True, help="How many answers.")
@click.option(
    "--rank",
    "rank_by",
    type=click.Choice(["best", "mean"]),
    help="By each recording's best window, or by its mean [default: best if there is a --text, else mean].",
)
@click.option("--windows", is_flag=True, help="Answer with the best moments; a recording may have several.")
@click.option("--min-percentile", type=float, default=0.0, metavar="P", help="Leave out what is under this percentile.")
@filtered
@click.option("--m3u", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Also write a playlist.")
@model_option
@shared
def query(
    shared: Shared,
    texts: tuple[str, ...],
    sounds: tuple[Path, ...],
    like: tuple[str, ...],
    unlike: tuple[str, ...],
    rank_by: Literal["best", "mean"] | None,
    m3u: Path | None,
    **options: Any,
) -> None:
    """Find the recordings that sound most like what is asked.

    --text, --audio, --like and --not may be repeated and combined: each one's similarities are standardised over the
    library and added up. Similarity is cosine similarity (with several questions: with their common direction);
    percentile is the share of the library's recordings that are at most as similar.
    """
    from ..playlist import write_m3u
    from ..questions import Question
    from ..search import search
    from ..store.library import Store

    question = Question(texts, sounds, like, unlike)
    answers = search(Store.open(shared.library), question, rank_by=rank_by, **options)
    for note in answers.notes:
        shared.warn(note)
    if shared.json:
        emit(shared, (answer.row() for answer in answers.rows), [])
    elif answers.rows:
        _table(answers.rows)
    how = "all measured" if answers.exact else "through the index"
    shared.detail(f"space {answers.space.space}, {how}; percentiles over {answers.population:,} recordings")
    if m3u is not None:
        shared.say(f"{write_m3u(m3u, answers.rows):,} recordings written to {m3u}")


def _table(answers: Sequence["Answer"]) -> None:
    columns = ["rank", "similarity", "percentile", "at", "recording", "path"]
    rows = [
        [str(a.rank), f"{a.similarity:.3f}", f"{a.percentile:.1f}", _at(a), _name(a), _printable(a.path)]
        for a in answers
    ]
    if answers[0].start_s is None:
        rows, columns = [[*row[:3], *row[4:]] for row in rows], [*columns[:3], *columns[4:]]
    if sys.stdout.isatty():
        for row in rows:
            row[-2] = shorten(row[-2], _NAME)
        widths = [max(len(text) for text in column) for column in zip(columns, *rows, strict=True)]
        room = shutil.get_terminal_size((100, 24)).columns - sum(widths[:-1]) - 2 * len(widths[:-1])
        for row in rows:
            row[-1] = shorten(row[-1], max(room, _PATH))
    table(rows, columns)


def shorten(text: str, width: int) -> str:
    """`text` in at most `width` characters, its middle replaced by three dots: both ends of a path tell something."""
    if len(text) <= width:
        return text
    head = (width - 3) // 3
    return f"{text[:head]}...{text[len(text) - (width - 3 - head) :]}"


def _at(answer: "Answer") -> str:
    if answer.start_s is None or answer.end_s is None:
        return ""
    return f"{duration(answer.start_s)}-{duration(answer.end_s)}"


def _name(answer: "Answer") -> str:
    tags = " - ".join(part for part in (answer.artist, answer.title) if part)
    return _printable(tags or Path(answer.path).stem)


def _printable(text: str) -> str:
    """Without control characters: a file's name must not steer the terminal."""
    return cell("".join("?" if ord(char) < 32 or 127 <= ord(char) < 160 else char for char in text))
