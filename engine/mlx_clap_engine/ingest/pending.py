"""Rows on their way into the library: what is complete is committed together, what waits for another file waits."""

import dataclasses
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from mlx_clap.audio import Window
from mlx_clap.clap import Embeddings

from ..store.library import Store
from ..store.schema import EmbeddedRecording, FailureRow, FileRow, RecordingRow
from ..store.writer import Writer
from ..tags import Tags
from .plan import Job
from .workers import Failed, Known, Same, Sound

_TAGS = [f.name for f in dataclasses.fields(Tags)]


@dataclass
class Gathering:
    """The embedded windows of a file being read."""

    windows: list[Window] = field(default_factory=list)
    embeddings: list[Embeddings] = field(default_factory=list)
    sound: Sound | None = None
    expected: int | None = None

    @property
    def complete(self) -> bool:
        return self.expected is not None and len(self.embeddings) == self.expected

    def recording(self, hop_s: float) -> EmbeddedRecording:
        assert self.sound is not None
        return EmbeddedRecording(
            recording_id=self.sound.recording_id,
            hop_s=hop_s,
            start_s=np.array([w.start_s for w in self.windows]),
            end_s=np.array([w.end_s for w in self.windows]),
            silent=np.array([w.silent for w in self.windows]),
            embeddings=np.stack(self.embeddings).astype(np.float32),
        )


class Pending:
    """Collects rows; `commit` writes every complete one, in one go."""

    def __init__(self, store: Store, writer: Writer, space: str, hop_s: float, embedded: set[str]) -> None:
        self._store, self._writer, self._space, self._hop_s = store, writer, space, hop_s
        self._there = set(embedded)  # recordings that are committed, or are in `_embedded`
        self._embedded: list[EmbeddedRecording] = []
        self._recordings: dict[str, RecordingRow] = {}
        self._known: list[Known] = []
        self._files: list[FileRow] = []
        self._failures: list[FailureRow] = []
        self._retried: list[str] = []
        self._moved: set[str] = set()
        self._outcomes: dict[str, str | Failed] = {}  # bytes -> the recording they hold, or why not
        self._waiting_bytes: dict[str, list[Same]] = {}
        self._waiting_sound: dict[str, list[Known]] = {}
        self._paths = store.paths_by_recording()
        self.n_windows = 0

    def embedded(self, job: Job, gathering: Gathering) -> RecordingRow:
        """A file whose windows are all embedded."""
        sound = gathering.sound
        assert sound is not None
        recording = gathering.recording(self._hop_s)
        row = _recording_row(sound, recording.wholly_silent)
        self._embedded.append(recording)
        self._recordings[row.recording_id] = row
        self._there.add(row.recording_id)
        self.n_windows += len(recording.start_s)
        self._file(job, sound.file_hash, row.recording_id)
        for known in self._waiting_sound.pop(row.recording_id, []):
            self.known(known)
        return row

    def known(self, known: Known) -> None:
        """Another file of a sound that is there; or not yet, then it waits."""
        if known.recording_id not in self._there:
            self._waiting_sound.setdefault(known.recording_id, []).append(known)
            return
        if known.sound is not None:
            self._known.append(known)
        self._file(known.job, known.file_hash, known.recording_id)

    def same(self, same: Same) -> Failed | None:
        """A copy of a file of this run: it shares that one's fate, which may be a failure, as soon as it is known."""
        outcome = self._outcomes.get(same.file_hash)
        if outcome is None:
            self._waiting_bytes.setdefault(same.file_hash, []).append(same)
        elif isinstance(outcome, Failed):
            return _copied(outcome, same.job)
        else:
            self._file(same.job, same.file_hash, outcome)
        return None

    def failed(self, failed: Failed) -> list[Failed]:
        """A file that cannot be used; returns it and the copies of it that fail with it."""
        all_failed = [failed]
        if failed.file_hash is not None:
            self._outcomes.setdefault(failed.file_hash, failed)
            copies = self._waiting_bytes.pop(failed.file_hash, [])
            all_failed += [_copied(failed, copy.job) for copy in copies]
        now = datetime.now(UTC)
        for one in all_failed:
            found = one.job.found
            # The text may quote a path whose bytes are not UTF-8, which a table cannot hold.
            error = one.error.encode("utf-8", "backslashreplace").decode()
            self._failures.append(FailureRow(found.path, found.size, found.mtime_ns, "decode", error, now))
        return all_failed

    def commit(self) -> None:
        """Write everything that is complete; when this returns it is on the disk."""
        self._merge_tags()
        if self._embedded or self._recordings or self._files or self._failures:
            self._writer.commit(
                space=self._space,
                embedded=self._embedded,
                recordings=list(self._recordings.values()),
                files=self._files,
                failures=self._failures,
                retried=self._retried,
            )
        if self._moved:
            self._writer.forget(self._moved)
        self._embedded, self._recordings, self._files, self._failures, self._retried = [], {}, [], [], []
        self._moved = set()
        self.n_windows = 0

    def _file(self, job: Job, file_hash: str, recording_id: str) -> None:
        found = job.found
        row = FileRow(found.path, recording_id, found.size, found.mtime_ns, file_hash, datetime.now(UTC))
        self._files.append(row)
        self._retried.append(found.path)
        others = self._paths.setdefault(recording_id, [])
        # The sound turned up here and its old path is gone: the file was moved.
        gone = {path for path in others if path != found.path and _is_gone(path)}
        self._moved |= gone
        self._paths[recording_id] = [path for path in others if path not in gone] + [found.path]
        self._outcomes.setdefault(file_hash, recording_id)
        for copy in self._waiting_bytes.pop(file_hash, []):
            self._file(copy.job, file_hash, recording_id)

    def _merge_tags(self) -> None:
        """The tags of an edited file, or of the only one left (edited and moved), replace its recording's; those of
        another file of the sound only fill gaps."""
        ids = {known.recording_id for known in self._known} - set(self._recordings)
        for row in self._store.recordings(ids).to_pylist() if ids else []:
            self._recordings[row["recording_id"]] = RecordingRow(**row)
        for known in self._known:
            assert known.sound is not None
            row_before = self._recordings[known.recording_id]
            tags = dataclasses.asdict(known.sound.info.tags)
            before = known.job.before
            edited = before is not None and before.recording_id == known.recording_id
            if not edited and self._paths[known.recording_id] != [known.job.path]:
                tags = {name: getattr(row_before, name) or tags[name] for name in _TAGS}
            self._recordings[known.recording_id] = dataclasses.replace(row_before, **tags)
        self._known = []


def _copied(failed: Failed, job: Job) -> Failed:
    """The same failure of a file of the same bytes, in that file's own name."""
    return dataclasses.replace(failed, job=job, error=failed.error.replace(failed.job.path, job.path))


def _is_gone(path: str) -> bool:
    """Whether nothing is at `path`; a folder that may not be looked into says nothing."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _recording_row(sound: Sound, silent: bool) -> RecordingRow:
    info = sound.info
    return RecordingRow(
        recording_id=sound.recording_id,
        duration_s=sound.duration_s,
        sample_rate=info.sample_rate,
        channels=info.channels,
        codec=info.codec,
        silent=silent,
        ingested_at=datetime.now(UTC),
        **dataclasses.asdict(info.tags),
    )
