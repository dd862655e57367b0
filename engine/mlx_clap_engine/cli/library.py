"""`mlxclap status`: what a library holds."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .options import Shared, shared
from .output import emit, size, table

if TYPE_CHECKING:
    from ..status import SpaceStatus, Status


@click.command(short_help="What the library holds, and what to do next.")
@click.option("--failures", is_flag=True, help="List every file that could not be taken in, and why.")
@shared
def status(shared: Shared, failures: bool) -> None:
    """What the library holds: recordings, hours, spaces, failures, size on disk. Under --json one object."""
    from ..status import describe
    from ..store.library import Store

    store = Store.open(shared.library)
    if failures:
        rows = sorted((asdict(failure) for failure in store.failures()), key=lambda row: row["path"])
        if not rows:
            shared.say("no file has failed")
        if rows or shared.json:
            emit(shared, rows, ["path", "stage", "error"])
        return
    found = describe(store)
    if shared.json:
        emit(shared, [asdict(found)], [])
    else:
        _print(found)


def _print(found: "Status") -> None:
    silent = f", {found.silent:,} silent throughout" if found.silent else ""
    lines = [
        ("library", f"{found.library} ({size(found.size_bytes)})"),
        ("recordings", f"{found.recordings:,} in {found.files:,} files, {found.hours:,.2f} hours of sound{silent}"),
        ("formats", ", ".join(f"{codec} {n:,}" for codec, n in found.formats.items())),
        ("labels", f"{found.labels:,}" if found.labels else ""),
        ("failures", f"{found.failures:,}" if found.failures else ""),
        *(("", f"{reason.files:,} x {reason.reason}") for reason in found.failure_reasons),
    ]
    for name, text in lines:
        if text:
            click.echo(f"{name:<12}{text}")
    if found.spaces:
        columns = ["space", "model", "default", "recordings", "windows", "hop", "indexed"]
        click.echo()
        table([_space(space) for space in found.spaces], columns)
    click.echo()
    for number, command in enumerate(found.next):
        click.echo(f"{'next' if number == 0 else '':<12}{command}")


def _space(space: "SpaceStatus") -> list[str]:
    parts = [("windows", space.windows_indexed), ("means", space.means_indexed)]
    indexed = ", ".join(f"{n:,} {name}" for name, n in parts if n) or "no"
    default = "yes" if space.default else ""
    hop = f"{space.hop_s:g} s"
    return [space.space, space.model, default, f"{space.recordings:,}", f"{space.windows:,}", hop, indexed]
