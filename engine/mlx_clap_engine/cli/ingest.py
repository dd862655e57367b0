"""`mlxclap ingest`: audio files and folders into the library."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from .options import Shared, expand, model_option, shared
from .output import duration, emit

if TYPE_CHECKING:
    from ..ingest.run import Ingest, Summary
    from .progress import Display

#: Seconds between two looks at the folders under --watch.
WATCH_S = 5.0
_SHOWN = 5


@click.command(short_help="Take audio files and folders into the library.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@model_option
@click.option("--hop", type=float, metavar="SECONDS", help="Distance of window starts, at most 10 [default: 10].")
@click.option("--workers", type=click.IntRange(1, 64), help="Decoding threads [default: from the machine].")
@click.option("--batch-size", type=click.IntRange(1, 512), help="Windows embedded at once [default: from the device].")
@click.option("--retry-failed", is_flag=True, help="Also try again what failed before and has not changed.")
@click.option("--strict", is_flag=True, help="Exit with 1 if any file failed.")
@click.option("--watch", is_flag=True, help="Stay, and take in what is added or changed, until Ctrl-C.")
@click.option("--download", is_flag=True, help="Also read iCloud files, which downloads them.")
@click.option("--bundles", is_flag=True, help="Also walk into bundles (Logic, GarageBand, Photos, applications).")
@shared
def ingest(
    shared: Shared,
    paths: tuple[str, ...],
    model: str | None,
    hop: float | None,
    batch_size: int | None,
    strict: bool,
    watch: bool,
    **options: Any,
) -> None:
    """Decode, embed and store audio files and whole folders.

    Reads WAV, AIFF, FLAC, MP3, OGG, Opus, M4A (AAC and ALAC), AAC, WMA and the sound of MP4 and MKV. PATH may be `-`
    for a list on stdin. Running it again does only what is new or changed; Ctrl-C finishes the files in flight, and
    the next run goes on. A file that cannot be read is noted and never stops the rest.
    """
    from ..ingest.run import Ingest
    from ..models import load_for_ingest
    from ..store.connection import is_library
    from ..store.library import Store
    from .progress import Display

    # The model first: without one, no empty library is left behind.
    store = Store.open(shared.library) if is_library(shared.library) else None
    clap = load_for_ingest(store, model)
    if batch_size is not None:
        clap.batch_size = batch_size
    store = store or Store.open(shared.library, create=True)
    roots, failed = expand(paths), 0
    while True:
        run = Ingest(store, clap, hop_s=hop, **options)
        with Display(shared) as display, stopping(run, display):
            summary = run.run(roots, display)
        failed += summary.failed
        # Under --watch a round that found nothing new says nothing.
        if not watch or summary.found > summary.unchanged + summary.failed_before:
            report(shared, summary)
        if hop is not None and summary.unchanged:
            shared.say(f"{summary.unchanged:,} files were embedded before and keep the hop they were embedded with")
        if not watch or summary.interrupted or run.stopped:
            break
        shared.detail(f"watching; looking again in {WATCH_S:g} s (Ctrl-C ends)")
        try:
            time.sleep(WATCH_S)
        except KeyboardInterrupt:
            break
    if strict and failed:
        raise click.exceptions.Exit(1)
    if summary.interrupted and not watch:
        raise click.exceptions.Exit(130)


@contextlib.contextmanager
def stopping(run: "Ingest", display: "Display") -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) lets the files in flight finish, the second stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        if run.stopped:
            raise KeyboardInterrupt
        run.stop()
        display.say("stopping after the files in flight; Ctrl-C again stops at once (nothing committed is lost)")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def report(shared: Shared, summary: "Summary") -> None:
    """The summary of a run; under --json one object for each file that failed or was skipped, then one for the run."""
    if shared.json:
        rows: list[dict[str, Any]] = [
            {"event": kind, "path": path, "reason": reason}
            for kind, items in (("failed", summary.failures), ("skipped", summary.skips), ("warning", summary.notes))
            for path, reason in items
        ]
        counts = {k: v for k, v in vars(summary).items() if k not in ("failures", "skips", "notes")}
        emit(shared, [*rows, {"event": "summary", **counts}], [])
        return
    for title, items in (("failed", summary.failures), ("skipped", summary.skips), ("warning", summary.notes)):
        # Each kind is listed up to a point: a wall of text helps nobody, `mlxclap status --failures` shows all.
        shown = items if shared.verbosity > 0 else items[:_SHOWN]
        for path, reason in shown:
            shared.say(f"{title}: {reason if path in reason else f'{path}: {reason}'}")
        if len(items) > len(shown):
            shared.say(f"... and {len(items) - len(shown)} more {title}; -v lists them")
    seconds = max(summary.elapsed_s, 1e-9)
    click.echo(
        f"{summary.embedded:,} recordings embedded "
        f"({summary.windows:,} windows, {duration(summary.audio_s)} of sound), "
        f"{summary.known:,} files of known sounds, {summary.unchanged:,} unchanged, "
        f"{summary.failed:,} failed, {summary.skipped:,} skipped"
    )
    if summary.embedded:
        rate = f"{summary.embedded / seconds:.2f} files/s, {summary.audio_s / seconds:.0f}x real time"
        stages = ", ".join(f"{name} {spent:.1f} s" for name, spent in summary.stages.items())
        click.echo(f"{duration(seconds)} ({rate}); {stages}")
    if summary.failed_before:
        shared.say(f"{summary.failed_before:,} files failed before and are unchanged: --retry-failed tries them again")
    if summary.interrupted:
        shared.say(f"stopped with {summary.left:,} files to go: the same command goes on from here")
