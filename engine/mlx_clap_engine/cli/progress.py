"""Progress of an ingest on stderr: a live display on a terminal, a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Self

import click

from ..ingest.run import Progress
from .options import Shared
from .output import duration

#: Seconds between plain lines.
EVERY_S = 10.0


class Display:
    """Shows `Progress` objects; a context manager. Silent under --quiet."""

    def __init__(self, shared: Shared) -> None:
        self._quiet = shared.verbosity < 0
        self._began = time.perf_counter()
        self._said = self._began
        self._bar: Any = None
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                BarColumn(bar_width=12),  # the text beside it should fit 80 columns
                TextColumn("{task.description}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """A line that stays, above the live display."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif not self._quiet:
            click.echo(text, err=True)

    def __call__(self, progress: Progress) -> None:
        if self._quiet:
            return
        now = time.perf_counter()
        if self._bar is not None:
            text = describe(progress, now - self._began)
            self._bar.update(self._task, description=text, total=progress.bytes_total, completed=progress.bytes_done)
        elif now - self._said >= EVERY_S:
            self._said = now
            click.echo(describe(progress, now - self._began), err=True)


def describe(progress: Progress, elapsed_s: float) -> str:
    """The state of a run in one line: files, rate, audio, failures, time left (by bytes)."""
    rate = progress.files_done / elapsed_s if elapsed_s > 0 else 0.0
    parts = [
        f"{progress.files_done:,}/{progress.files_total:,} files",
        f"{rate:.1f}/s",
        f"{progress.audio_s / 3600:.2f} h audio ({progress.audio_s / max(elapsed_s, 1e-9):.0f}x real time)",
        f"{progress.windows:,} windows",
    ]
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.bytes_done:
        left_s = elapsed_s * (progress.bytes_total - progress.bytes_done) / progress.bytes_done
        parts.append(f"{duration(left_s)} left")
    return ", ".join(parts)
