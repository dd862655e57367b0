"""Decode workers: threads that turn jobs into windows. Decoders release the GIL, so threads scale.

A worker sends `Heard` for each window and then `Ended`; or `Known`, `Same` or `Failed` alone. It never embeds or
writes.
"""

import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mlx_clap.audio import SAMPLE_RATE, Samples, Window, Windower

from ..decode import AudioInfo, hash_file, open_audio
from ..errors import DecodeError
from .plan import Catalog, Job

#: Windows of a file held back until its end, so that a sound that is known already is not embedded (58 MB a worker).
HELD_WINDOWS = 30


@dataclass(frozen=True)
class Heard:
    """A window to embed."""

    job: Job
    window: Window


@dataclass(frozen=True)
class Sound:
    """What a decoded file turned out to hold. `duration_s` is None where the samples were not counted."""

    recording_id: str
    file_hash: str
    info: AudioInfo
    duration_s: float
    warning: str | None


@dataclass(frozen=True)
class Ended:
    """All windows of a file have been sent. `duplicate`: its sound turned out to be known after all; drop them."""

    job: Job
    sound: Sound
    n_windows: int
    duplicate: bool


@dataclass(frozen=True)
class Known:
    """The sound is in the space, or another file of this run brings it. `sound` is None for bytes seen before."""

    job: Job
    file_hash: str
    recording_id: str
    sound: Sound | None


@dataclass(frozen=True)
class Same:
    """Byte for byte the file that another job of this run reads."""

    job: Job
    file_hash: str


@dataclass(frozen=True)
class Failed:
    """The file cannot be used; the run goes on."""

    job: Job
    error: str
    file_hash: str | None


Event = Heard | Ended | Known | Same | Failed


class Workers:
    """`count` threads at work on `jobs`; iterate to receive their events, in the calling thread.

    `stop` lets files in flight finish and starts no other; `abort` ends at once.
    """

    def __init__(self, jobs: list[Job], catalog: Catalog, hop: int, count: int, room: int) -> None:
        self._jobs = iter(jobs)
        self._jobs_lock = threading.Lock()
        self._catalog, self._hop = catalog, hop
        self._queue: queue.Queue[Event | None] = queue.Queue(maxsize=room)
        self._stopping, self._aborting = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True, name=f"decode-{i}") for i in range(count)]
        self._busy = [0.0]
        self.in_flight = 0

    @property
    def busy_s(self) -> float:
        """Seconds the workers spent decoding, all together (waiting for room not counted)."""
        return self._busy[0]

    def stop(self) -> None:
        self._stopping.set()

    def abort(self) -> None:
        self._stopping.set()
        self._aborting.set()

    def __iter__(self) -> Iterator[Event]:
        for thread in self._threads:
            thread.start()
        running = len(self._threads)
        try:
            while running:
                try:
                    # With a timeout, so that Ctrl-C is heard while nothing comes.
                    event = self._queue.get(timeout=0.2)
                except queue.Empty:
                    continue
                if event is None:
                    running -= 1
                else:
                    yield event
        finally:
            self.abort()

    def _work(self) -> None:
        while not self._stopping.is_set():
            with self._jobs_lock:
                job = next(self._jobs, None)
                self.in_flight += job is not None
            if job is None:
                break
            began = time.perf_counter()
            waited = _Waiting()
            reader = _Reader(job, self._catalog, self._hop, functools.partial(self._put, waited=waited))
            try:
                reader.read()
            except _AbortedError:
                return
            except Exception as error:
                # Whatever a decoder throws at us, one file must not stop the others.
                text = str(error) if isinstance(error, DecodeError) else f"{type(error).__name__}: {error}"
                try:
                    self._put(Failed(job, text, reader.file_hash), waited)
                except _AbortedError:
                    return
            with self._jobs_lock:
                self.in_flight -= 1
                self._busy[0] += time.perf_counter() - began - waited.seconds
        try:
            self._put(None, _Waiting())
        except _AbortedError:
            return

    def _put(self, event: Event | None, waited: "_Waiting") -> None:
        began = time.perf_counter()
        while not self._aborting.is_set():
            try:
                self._queue.put(event, timeout=0.2)
            except queue.Full:
                continue
            waited.seconds += time.perf_counter() - began
            return
        raise _AbortedError


class _AbortedError(Exception):
    """The run is over; whoever still decodes stops."""


@dataclass
class _Waiting:
    seconds: float = 0.0


@dataclass
class _Reader:
    """One file, from its bytes to its events."""

    job: Job
    catalog: Catalog
    hop: int
    put: Callable[[Event], None]
    file_hash: str | None = None

    def read(self) -> None:
        job, catalog = self.job, self.catalog
        file_hash = self.file_hash = hash_file(job.path)
        recording = catalog.recording_of(file_hash)
        if recording is not None:
            self.put(Known(job, file_hash, recording, None))
        elif not catalog.claim_bytes(file_hash):
            self.put(Same(job, file_hash))
        elif job.before is None or job.before.recording_id not in catalog.embedded or not self._retagged(file_hash):
            self._decode(file_hash)

    def _retagged(self, file_hash: str) -> bool:
        """Whether a changed file still holds a known sound: found by a decode without resampling or embedding."""
        with open_audio(self.job.path) as stream:
            recording = stream.drain()
            if recording not in self.catalog.embedded:
                return False
            sound = Sound(recording, file_hash, stream.info, stream.duration_s, stream.warning)
        self.put(Known(self.job, file_hash, recording, sound))
        return True

    def _decode(self, file_hash: str) -> None:
        windower = Windower(self.hop)
        held: list[Window] | None = []
        n_windows = 0
        with open_audio(self.job.path) as stream:
            for window in self._windows(windower, stream.blocks()):
                n_windows += 1
                if held is None:
                    self.put(Heard(self.job, window))
                    continue
                held.append(window)
                if len(held) > HELD_WINDOWS:
                    self._send(held)
                    held = None
            if n_windows == 0:
                raise DecodeError(f"{self.job.path} holds no sound (0 samples).")
            sound = Sound(stream.recording_id, file_hash, stream.info, windower.n_samples / SAMPLE_RATE, stream.warning)
        first = self.catalog.claim_sound(sound.recording_id)
        if held is not None:
            if not first:
                self.put(Known(self.job, file_hash, sound.recording_id, sound))
                return
            self._send(held)
        self.put(Ended(self.job, sound, n_windows, duplicate=not first))

    def _send(self, windows: list[Window]) -> None:
        for window in windows:
            self.put(Heard(self.job, window))

    def _windows(self, windower: Windower, blocks: Iterator[Samples]) -> Iterator[Window]:
        for block in blocks:
            yield from windower.push(block)
        yield from windower.finish()
