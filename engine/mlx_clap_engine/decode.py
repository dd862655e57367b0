"""A file of sound -> mono float32 at 48 kHz, in one streaming pass. The only room that opens audio.

FFmpeg (`decode_ffmpeg`) is tried first, libsndfile (`decode_sndfile`) when FFmpeg refuses. Channels are
averaged, then resampled (soxr, HQ) with state kept across blocks; 48 kHz passes untouched. Memory does not
grow with the file.

A damaged file gives what can be played of it, and `AudioStream.warning` says what is missing: corrupt packets
are skipped, a truncated file ends early (told only where its header states a length), samples that are not finite
or beyond +180 dBFS become zeros. When most packets do not decode, the file is refused: that is no sound.
Nothing here cuts windows or knows a model.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import soxr

from mlx_clap.audio import SAMPLE_RATE

from .decode_ffmpeg import FfmpegSource
from .decode_sndfile import SndfileSource
from .discover import permission_remedy
from .errors import DecodeError
from .pcm import Chunk, Samples, Source, UnreadableError
from .tags import Tags, read_tags

_DECODERS: tuple[tuple[str, Callable[[str], Source]], ...] = (
    ("FFmpeg", FfmpegSource),
    ("libsndfile", SndfileSource),
)
# Larger than any sound, small enough that its square still fits float32.
_LOUDEST = 1e9
# A header may round its length: a file is called truncated when more than this is missing of it.
_SHORT_SHARE, _SHORT_S = 0.02, 0.5


@dataclass(frozen=True)
class AudioInfo:
    """What the file holds: native rate in Hz, channels, codec in FFmpeg's words ('mp3', 'pcm_s16le'), tags."""

    sample_rate: int
    channels: int
    codec: str
    tags: Tags


class AudioStream:
    """An open file of sound; made by `open_audio`, used as a context manager, read once through `blocks`.

    After `blocks` is exhausted these are set:
        recording_id: 32 hex digits over the decoded native samples, rate and channels. The same sound has one id
            in every lossless file type up to 24 bits, whatever its tags. Of a lossy file it tells what this
            build of the decoder makes of it.
        duration_s: seconds of the samples decoded, whatever the header says.
        warning: what was wrong with the file, or None.
    """

    recording_id: str
    duration_s: float
    warning: str | None = None

    def __init__(self, path: str, source: Source) -> None:
        self.info = AudioInfo(source.rate, source.channels, source.codec, read_tags(source.metadata))
        self._path = path
        self._source = source
        self._used = False
        self._zeroed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source.close()

    def blocks(self) -> Iterator[Samples]:
        """Yield the sound as float32 [n] at 48 kHz, about one second a block; a single pass.

        Raises:
            DecodeError: what follows cannot be decoded, and too little came before it.
        """
        resampler: soxr.ResampleStream | None = None
        rate = 0
        for chunk in self._native():
            mono = self._mono(chunk)
            if chunk.rate != rate:
                if resampler is not None:
                    yield from _some(resampler.resample_chunk(mono[:0], last=True))
                rate = chunk.rate
                resampler = (
                    None
                    if rate == SAMPLE_RATE
                    else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
                )
            yield from _some(mono if resampler is None else resampler.resample_chunk(mono))
        if resampler is not None:
            yield from _some(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        self.warning = "; ".join(self._complaints()) or None

    def drain(self) -> str:
        """Decode without mixing or resampling, and return the recording id. Instead of `blocks`."""
        for _ in self._native():
            pass
        return self.recording_id

    def _native(self) -> Iterator[Chunk]:
        if self._used:
            raise RuntimeError("an AudioStream is read once; open the file again")
        self._used = True
        digest = hashlib.sha256()
        lengths: Counter[int] = Counter()  # samples by rate; nearly always one rate
        try:
            for chunk in self._source.chunks():
                digest.update(chunk.samples.data)
                lengths[chunk.rate] += len(chunk.samples)
                yield chunk
        except UnreadableError as error:
            raise _refusal(self._path, str(error)) from error
        digest.update(f"{self.info.sample_rate} {self.info.channels}".encode())
        self.recording_id = digest.hexdigest()[:32]
        self.duration_s = sum(n / rate for rate, n in lengths.items())
        if self._source.stopped or self._is_short():
            _require_file(self._path, to_the_end=True)

    def _mono(self, chunk: Chunk) -> Samples:
        samples = chunk.samples
        with np.errstate(invalid="ignore", over="ignore"):  # infinities of both signs meet in the mean
            mono = samples[:, 0].copy()
            for channel in range(1, samples.shape[1]):  # several times faster than mean(axis=1)
                mono += samples[:, channel]
            mono /= np.float32(samples.shape[1])
            loudest = np.maximum(mono.max(), -mono.min())
        if not loudest < _LOUDEST:  # so written, NaN counts as too loud
            bad = ~(np.abs(mono) < _LOUDEST)
            self._zeroed += int(bad.sum())
            mono[bad] = 0.0
        return mono

    def _is_short(self) -> bool:
        stated = self._source.duration_s
        return stated is not None and stated - self.duration_s > max(_SHORT_S, _SHORT_SHARE * stated)

    def _complaints(self) -> Iterator[str]:
        source = self._source
        if source.corrupt:
            yield f"{source.corrupt} corrupt packet(s) skipped"
        if source.stopped:
            yield f"reading stopped after {self.duration_s:.1f} s: {source.stopped}"
        elif self._is_short():
            yield f"truncated: {self.duration_s:.1f} s of the {source.duration_s:.1f} s its header states"
        if self._zeroed:
            yield f"{self._zeroed} sample(s) that are no finite number taken as silence"


def open_audio(path: str | Path) -> AudioStream:
    """Open a file of sound: `with open_audio(path) as stream: for block in stream.blocks(): ...`.

    The first second is decoded here, so a file that opens has sound. Only regular files are opened (a pipe
    would block). Safe to call from several threads.

    Raises:
        DecodeError: no readable audio; the message gives every decoder's reason.
    """
    name = os.fspath(path)
    _require_file(name)
    reasons = []
    for decoder, opener in _DECODERS:
        try:
            return AudioStream(name, opener(name))
        except UnreadableError as error:
            reasons.append(f"{decoder}: {error}")
    raise _refusal(name, "; ".join(reasons))


def read_recording_id(path: str | Path) -> str:
    """The recording id alone (decodes, does not resample): tells a retagged file from a new sound.

    Raises:
        DecodeError: as `open_audio` and `AudioStream.blocks` do.
    """
    with open_audio(path) as stream:
        return stream.drain()


def hash_file(path: str | Path) -> str:
    """The first 32 hex digits of the SHA-256 of the file's bytes, read as a stream.

    Raises:
        DecodeError: no regular file there, or it cannot be read.
    """
    name = os.fspath(path)
    _require_file(name)
    try:
        with open(name, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError as error:
        raise _unopenable(name, error) from error


def _require_file(path: str, to_the_end: bool = False) -> None:
    """Refuse whatever is no regular, readable, non-empty file, in words of its own.

    `to_the_end` reads the last byte: a disk that went away in the middle must not pass for a truncated file.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise DecodeError(f"{path} is a folder, not a recording. Scan it for the files it holds.")
        if not stat.S_ISREG(status.st_mode):
            raise DecodeError(f"{path} is a pipe, socket or device, which is never read. Give a regular file.")
        if status.st_size == 0:
            raise DecodeError(f"{path} is an empty file. Copy or download it again.")
        with open(path, "rb", buffering=0) as file:
            if to_the_end:
                file.seek(-1, os.SEEK_END)
                file.read(1)
    except (OSError, ValueError) as error:
        raise _unopenable(path, error) from error


def _unopenable(path: str, error: OSError | ValueError) -> DecodeError:
    if isinstance(error, PermissionError):
        return DecodeError(f"{path} cannot be read: permission denied. {permission_remedy()}")
    if isinstance(error, FileNotFoundError):
        return DecodeError(f"{path} is not there any more. Ingest again when it is back.")
    reason = error.strerror if isinstance(error, OSError) else error
    return DecodeError(f"{path} cannot be read: {reason}. Check the disk and the name.")


def _refusal(path: str, reason: str) -> DecodeError:
    advice = "" if "DRM" in reason else " If a player can play it, convert it to WAV or FLAC and ingest that."
    return DecodeError(f"{path} holds no readable audio ({reason}).{advice}")


def _some(block: Samples) -> Iterator[Samples]:
    if len(block):
        yield block
