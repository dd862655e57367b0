"""One ingest run: plan, decode, embed, write; what happened and where the time went."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from mlx_clap.audio import Window
from mlx_clap.backend import limit_cache
from mlx_clap.clap import Clap
from mlx_clap.errors import AskedWronglyError

from ..discover import scan
from ..errors import EngineError, LibraryError
from ..store.library import Store
from ..store.schema import SpaceInfo
from ..store.writer import Writer
from .pending import Gathering, Pending
from .plan import Catalog, Job, Plan, make_plan
from .workers import Ended, Failed, Heard, Known, Same, Workers

#: A commit is due when this many windows or seconds have gathered.
COMMIT_WINDOWS, COMMIT_SECONDS = 2000, 20.0
DEFAULT_HOP_S = 10.0
#: A finer hop than this gains nothing: neighbouring windows would be all but equal.
MIN_HOP_S = 0.1


@dataclass
class Progress:
    """Counters of a run, updated as it goes; `Ingest.run` shows them to its listener."""

    files_total: int = 0
    files_done: int = 0
    bytes_total: int = 0
    bytes_done: int = 0
    failed: int = 0
    windows: int = 0
    audio_s: float = 0.0
    in_flight: int = 0


@dataclass
class Summary:
    """What a run did. Times in seconds; `stages` sums over workers, `waited_s` is the embedding thread's idle time."""

    found: int = 0
    unchanged: int = 0
    failed_before: int = 0
    embedded: int = 0
    known: int = 0
    failed: int = 0
    skipped: int = 0
    windows: int = 0
    silent: int = 0
    audio_s: float = 0.0
    elapsed_s: float = 0.0
    interrupted: bool = False
    left: int = 0
    warnings: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    skips: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


Listener = Callable[[Progress], None]


class Ingest:
    """Takes files into the library's space of `clap`. Make one, `run` it; `stop` it from a signal handler.

    Args:
        hop_s: distance of window starts; None is the space's own, 10 s for a new one.
        workers: decode threads; None suits the machine.
        retry_failed: also try files again that failed and have not changed.
        bundles, download: see `scan`.
    """

    def __init__(
        self,
        store: Store,
        clap: Clap,
        *,
        hop_s: float | None = None,
        workers: int | None = None,
        retry_failed: bool = False,
        bundles: bool = False,
        download: bool = False,
    ) -> None:
        self._store, self._clap = store, clap
        known = {info.space: info for info in store.spaces()}.get(clap.space)
        self.hop_s = hop_s if hop_s is not None else known.hop_s if known else DEFAULT_HOP_S
        mel = clap.config.mel
        window_s = mel.window_samples / mel.sample_rate
        if not MIN_HOP_S <= self.hop_s <= window_s:
            raise AskedWronglyError(
                f"a hop lies between {MIN_HOP_S:g} s and the window's {window_s:g} s; got {self.hop_s:g}"
            )
        self._hop = round(self.hop_s * mel.sample_rate)
        self._count = workers or max(2, min(8, os.cpu_count() or 2))
        self._retry_failed, self._bundles, self._download = retry_failed, bundles, download
        self._info = known or SpaceInfo(
            clap.space, clap.name, clap.embedding_dim, window_s, self.hop_s, False, datetime.now(UTC)
        )
        self._workers: Workers | None = None
        self.stopped = False

    def stop(self) -> None:
        """Finish what is in flight, start nothing else. Safe from a signal handler."""
        self.stopped = True
        if self._workers is not None:
            self._workers.stop()

    def run(self, paths: Sequence[str | Path], listener: Listener = lambda _: None) -> Summary:
        """Take in everything under `paths`.

        Raises:
            AskedWronglyError: one of `paths` does not exist.
            LibraryError, LibraryBusyError: the library cannot be written to; what was committed stays.
        """
        began = time.perf_counter()
        found = scan(paths, bundles=self._bundles, download=self._download)
        with self._store.writer() as writer:
            writer.add_space(self._info)
            plan = make_plan(found, self._store, self._info.space, self._retry_failed)
            summary = Summary(found=plan.found, unchanged=plan.done, failed_before=plan.failed_before)
            summary.skips = [(item.path, item.reason) for item in plan.skipped]
            summary.skipped = len(plan.skipped)
            summary.stages["scan"] = time.perf_counter() - began
            if plan.jobs and not self.stopped:
                _Run(self, plan, writer, summary, listener).run()
                writer.compact()
            summary.left = len(plan.jobs) - summary.embedded - summary.known - summary.failed
            summary.interrupted = self.stopped and summary.left > 0
        summary.elapsed_s = time.perf_counter() - began
        return summary


class _Run:
    """The embedding thread's side of a run."""

    def __init__(self, ingest: Ingest, plan: Plan, writer: Writer, summary: Summary, listener: Listener) -> None:
        self._clap, self._summary, self._listener = ingest._clap, summary, listener
        catalog = Catalog(ingest._store, ingest._info.space)
        self._pending = Pending(ingest._store, writer, ingest._info.space, ingest.hop_s, catalog.embedded)
        count = min(ingest._count, len(plan.jobs))
        self._workers = ingest._workers = Workers(
            plan.jobs, catalog, ingest._hop, count, room=self._clap.batch_size + count
        )
        if ingest.stopped:
            self._workers.stop()
        self._gathering: dict[str, Gathering] = {}
        self._batch: list[tuple[Job, Window]] = []
        self._progress = Progress(len(plan.jobs), bytes_total=sum(job.found.size for job in plan.jobs))
        self._committed_at = time.perf_counter()

    def run(self) -> None:
        limit_cache()
        clock = self._summary.stages
        clock.update(decode=0.0, embed=0.0, write=0.0, wait=0.0)
        try:
            waiting = time.perf_counter()
            for event in self._workers:
                clock["wait"] += time.perf_counter() - waiting
                self._take(event)
                if self._commit_due():
                    self._commit()
                self._progress.in_flight = self._workers.in_flight
                self._listener(self._progress)
                waiting = time.perf_counter()
            self._embed()
        except LibraryError:
            raise  # nothing more can be written
        except BaseException:
            self._commit()  # also on Ctrl-C: what is complete is kept
            raise
        else:
            self._commit()
        finally:
            self._workers.abort()
            clock["decode"] = self._workers.busy_s
            self._listener(self._progress)

    def _take(self, event: Heard | Ended | Known | Same | Failed) -> None:
        if isinstance(event, Heard):
            self._batch.append((event.job, event.window))
            if len(self._batch) >= self._clap.batch_size:
                self._embed()
        elif isinstance(event, Ended):
            self._ended(event)
        elif isinstance(event, Known):
            self._pending.known(event)
            self._note(event.job, event.sound.warning if event.sound else None)
            self._count(event.job, "known")
        elif isinstance(event, Same):
            failure = self._pending.same(event)
            if failure is not None:
                self._failed(failure)
            else:
                self._count(event.job, "known")
        else:
            self._failed(event)

    def _failed(self, event: Failed) -> None:
        self._gathering.pop(event.job.path, None)
        self._batch = [(job, window) for job, window in self._batch if job is not event.job]
        failures = self._pending.failed(event)
        # Copies that were waiting had been counted as known.
        self._summary.known -= len(failures) - 1
        self._progress.files_done -= len(failures) - 1
        for failed in failures:
            self._summary.failures.append((failed.job.path, failed.error))
            self._progress.failed += 1
            self._count(failed.job, "failed")

    def _ended(self, event: Ended) -> None:
        if event.duplicate:
            self._gathering.pop(event.job.path, None)
            self._batch = [(job, window) for job, window in self._batch if job is not event.job]
            known = Known(event.job, event.sound.file_hash, event.sound.recording_id, event.sound)
            self._pending.known(known)
            self._count(event.job, "known")
            return
        gathering = self._gathering.setdefault(event.job.path, Gathering())
        gathering.sound, gathering.expected = event.sound, event.n_windows
        self._note(event.job, event.sound.warning)
        self._finish_if_complete(event.job)

    def _embed(self) -> None:
        if not self._batch:
            return
        began = time.perf_counter()
        batch, self._batch = self._batch, []
        try:
            embeddings = self._clap.embed_audio(np.stack([window.samples for _, window in batch]))
        except RuntimeError as error:  # MLX's word for memory that is not to be had
            raise EngineError(
                f"the model could not embed {len(batch)} windows ({error}): try a smaller --batch-size. What was "
                "committed stays; the same command goes on from there"
            ) from error
        self._summary.stages["embed"] += time.perf_counter() - began
        for (job, window), embedding in zip(batch, embeddings, strict=True):
            gathering = self._gathering.setdefault(job.path, Gathering())
            # Times and flags are kept, the samples are not.
            gathering.windows.append(Window(window.index, window.start_s, window.end_s, _NOTHING, window.silent))
            gathering.embeddings.append(embedding)
            self._summary.windows += 1
            self._progress.windows += 1
        for job in {job.path: job for job, _ in batch}.values():
            self._finish_if_complete(job)

    def _finish_if_complete(self, job: Job) -> None:
        gathering = self._gathering.get(job.path)
        if gathering is None or not gathering.complete:
            return
        del self._gathering[job.path]
        row = self._pending.embedded(job, gathering)
        self._summary.silent += row.silent
        self._summary.audio_s += row.duration_s
        self._progress.audio_s += row.duration_s
        self._count(job, "embedded")

    def _count(self, job: Job, outcome: str) -> None:
        setattr(self._summary, outcome, getattr(self._summary, outcome) + 1)
        self._progress.files_done += 1
        self._progress.bytes_done += job.found.size

    def _note(self, job: Job, warning: str | None) -> None:
        if warning:
            self._summary.warnings += 1
            self._summary.notes.append((job.path, warning))

    def _commit_due(self) -> bool:
        late = time.perf_counter() - self._committed_at > COMMIT_SECONDS
        return late or self._pending.n_windows >= COMMIT_WINDOWS

    def _commit(self) -> None:
        began = time.perf_counter()
        self._pending.commit()
        self._committed_at = time.perf_counter()
        self._summary.stages["write"] += self._committed_at - began


_NOTHING = np.zeros(0, np.float32)
