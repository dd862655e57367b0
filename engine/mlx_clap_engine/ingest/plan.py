"""What is to be done with each file found, before anything is decoded; and what is known of sounds while it is."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..discover import FoundFile, Skipped
from ..store.library import Store
from ..store.schema import FileRow


@dataclass(frozen=True)
class Job:
    """A file to read. `before`: the library's row of this path, if it had another size or time then."""

    found: FoundFile
    before: FileRow | None = None

    @property
    def path(self) -> str:
        return self.found.path


@dataclass
class Plan:
    """Every file found, sorted into what it needs: a job, or nothing."""

    jobs: list[Job] = field(default_factory=list)
    done: int = 0
    failed_before: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def found(self) -> int:
        return len(self.jobs) + self.done + self.failed_before


def make_plan(found: Iterable[FoundFile | Skipped], store: Store, space: str, retry_failed: bool) -> Plan:
    """A file is done when its path, size and time are in the library and its recording is in the space; one that
    failed is
    left alone until it changes, or `retry_failed`."""
    files = {row.path: row for row in store.files()}
    failures = {row.path: (row.size, row.mtime_ns) for row in store.failures()}
    embedded = store.embedded_ids(space)
    plan = Plan()
    for item in found:
        if isinstance(item, Skipped):
            plan.skipped.append(item)
            continue
        row = files.get(item.path)
        unchanged = row is not None and (row.size, row.mtime_ns) == (item.size, item.mtime_ns)
        if unchanged and row is not None and row.recording_id in embedded:
            plan.done += 1
        elif not retry_failed and failures.get(item.path) == (item.size, item.mtime_ns):
            plan.failed_before += 1
        else:
            plan.jobs.append(Job(item, None if unchanged else row))
    return plan


class Catalog:
    """Which bytes and which sounds the space has or is getting, so that each is embedded once. Safe for threads."""

    def __init__(self, store: Store, space: str) -> None:
        self.embedded = store.embedded_ids(space)
        self._by_bytes = {
            row.file_hash: row.recording_id
            for row in store.files()
            if row.file_hash is not None and row.recording_id in self.embedded
        }
        self._claimed_bytes: set[str] = set()
        self._claimed_sounds: set[str] = set()
        self._lock = threading.Lock()

    def recording_of(self, file_hash: str) -> str | None:
        """The recording in the space that a file of exactly these bytes holds."""
        return self._by_bytes.get(file_hash)

    def claim_bytes(self, file_hash: str) -> bool:
        """True for the first file of these bytes in this run; the others wait for what comes of it."""
        with self._lock:
            first = file_hash not in self._claimed_bytes
            self._claimed_bytes.add(file_hash)
            return first

    def claim_sound(self, recording_id: str) -> bool:
        """True if this sound is neither in the space nor claimed: the caller embeds it."""
        with self._lock:
            first = recording_id not in self.embedded and recording_id not in self._claimed_sounds
            self._claimed_sounds.add(recording_id)
            return first
