"""The benches by name, and their rows with what a reader needs to judge them: on what, with what and when."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime

from mlx_clap.backend import device_name, threads
from mlx_clap_engine.machine import commit, this_machine, versions

from . import files, model, searching, subject, twin
from .measure import Plan, Row
from .subject import Subject

#: Name -> (what it measures, the rows), in the order they are run.
BENCHES: dict[str, tuple[str, Callable[[Subject, Plan], Iterator[Row]]]] = {
    "front-end": ("the front end", model.front_end),
    "audio": ("the audio tower", model.audio),
    "text": ("the text tower", model.text),
    "torch": ("both towers beside PyTorch", twin.torch),
    "decode": ("decoding", files.decode),
    "ingest": ("an ingest, by stage", files.ingest),
    "search": ("search", searching.searching),
}


def make_subject(chosen_model: str | None, shape: str) -> Subject:
    """The installed model named, or a seeded one of `shape`.

    Raises:
        ModelNotFoundError: no such model.
    """
    return subject.installed(chosen_model) if chosen_model else subject.seeded(shape)


def run(
    measured: Subject,
    plan: Plan,
    names: Iterable[str],
    note: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Row]:
    """Run the benches `names` of `BENCHES`, yielding each row as soon as it is measured.

    Args:
        note: kept in every row: what a reader of the figures must know.
        say: receives a line for each bench.
    """
    context = {
        "model": measured.name,
        "device": device_name(),
        "threads": threads(),
        "machine": asdict(this_machine()),
        "versions": versions(),
        "commit": commit(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "note": note,
    }
    for name in names:
        title, bench = BENCHES[name]
        say(f"measuring {title}")
        for figure in bench(measured, plan):
            yield figure | context
