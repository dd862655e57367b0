"""Samples -> a file of sound in a format people have. For `doctor` and `bench`, which need files to read.

It is no export: formats, rates and bit rates are fixed, and what an encoder of this build of FFmpeg lacks, it lacks.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.audio.stream import AudioStream
from av.codec.codec import Codec, UnknownCodecError
from numpy.typing import NDArray

RATE = 44_100
_BIT_RATE = 256_000  # for the formats that have one; what shops sell


@dataclass(frozen=True)
class Format:
    """A file type and its codec by FFmpeg's names; `sample_format` where the encoder's first choice is unusual."""

    name: str
    extension: str
    encoder: str
    decoder: str
    muxer: str
    sample_format: str | None = None


FORMATS = (
    Format("WAV", "wav", "pcm_s16le", "pcm_s16le", "wav"),
    Format("AIFF", "aiff", "pcm_s16be", "pcm_s16be", "aiff"),
    Format("FLAC", "flac", "flac", "flac", "flac", "s16"),
    Format("MP3", "mp3", "libmp3lame", "mp3float", "mp3"),
    Format("AAC", "m4a", "aac", "aac", "ipod"),
    Format("ALAC", "m4a", "alac", "alac", "ipod", "s16p"),
    Format("Opus", "opus", "libopus", "opus", "opus"),
    Format("Vorbis", "ogg", "vorbis", "vorbis", "ogg"),
    Format("WMA", "wma", "wmav2", "wmav2", "asf"),
)


def can_encode(format: Format) -> bool:
    """Whether this build of FFmpeg can write the format."""
    return _has(format.encoder, "w")


def can_decode(format: Format) -> bool:
    """Whether this build of FFmpeg lists a decoder for the format."""
    return _has(format.decoder, "r")


def write_sound(path: Path, samples: NDArray[np.float32], format: Format) -> None:
    """Encode float32 [n, 2] at `RATE` into `path`."""
    rate = 48_000 if format.name == "Opus" else RATE
    with av.open(str(path), "w", format=format.muxer) as container:
        # FFmpeg's own Vorbis encoder calls itself experimental.
        stream = container.add_stream(format.encoder, rate=rate, layout="stereo", options={"strict": "experimental"})
        assert isinstance(stream, AudioStream)
        stream.bit_rate = _BIT_RATE
        if format.sample_format:
            stream.format = format.sample_format
        for start in range(0, len(samples), RATE):
            block = np.ascontiguousarray(samples[start : start + RATE].reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(block, format="flt", layout="stereo")
            frame.sample_rate, frame.pts = RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def stereo_sound(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """A sound [n, 2] at `RATE` that no codec finds easy: a chord under noise, other notes for every seed."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE))[:, None] / RATE  # [n, 1]
    notes = 110.0 * 2.0 ** (rng.integers(0, 36, (3, 1, 2)) / 12)  # [3, 1, 2]
    sound = sum(0.1 * np.sin(2 * np.pi * note * time) for note in notes)
    return np.asarray(sound + 0.02 * rng.standard_normal((len(time), 2)), np.float32)


def _has(codec: str, mode: Literal["r", "w"]) -> bool:
    try:
        Codec(codec, mode)
    except UnknownCodecError:
        return False
    return True
