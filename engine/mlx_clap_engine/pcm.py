"""What every decoder hands over: chunks of native samples. No decoder and no resampling in here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

#: Sample rates outside this are damage, not sound: real files were seen from 5 kHz up, DSD decodes to 2.8
#: MHz.
MIN_RATE, MAX_RATE = 1_000, 3_000_000
MAX_CHANNELS = 128


class UnreadableError(Exception):
    """One decoder's reason for giving up, as a clause ("it holds no audio"); `decode` makes it a DecodeError."""


@dataclass(frozen=True)
class Chunk:
    """About a second of sound: `samples` is float32 [n, channels] in C order, full scale 1.0; `rate` in Hz."""

    samples: Samples
    rate: int


class Source(Protocol):
    """A file opened by one decoder, with its first chunk already decoded.

    `duration_s` is what the header claims (None if it claims nothing exact); `corrupt` and `stopped` grow
    while `chunks` runs: packets skipped because they did not decode, and why reading ended before the file
    did.
    """

    rate: int
    channels: int
    codec: str
    metadata: Mapping[str, str]
    duration_s: float | None
    corrupt: int
    stopped: str | None

    def chunks(self) -> Iterator[Chunk]:
        """Yield the sound from the start, once. Raises UnreadableError when what comes is no sound."""

    def close(self) -> None:
        """Release the file. May be called at any time, more than once."""


def check_shape(rate: int, channels: int) -> None:
    """Raise UnreadableError for a sample rate or channel count no real recording has."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise UnreadableError(f"its sample rate of {rate} Hz makes no sense")
    if not 1 <= channels <= MAX_CHANNELS:
        raise UnreadableError(f"its {channels} channels make no sense")


def chunk_length(rate: int, channels: int) -> int:
    """Samples a channel to gather into one chunk: a second, or less where that would be many megabytes."""
    return min(rate, max(1, 1_000_000 // channels))


def to_float(samples: NDArray[np.generic]) -> Samples:
    """PCM of any integer or float type -> float32 of full scale 1.0, in C order; floats are never clipped.

    Powers of two scale exactly: up to 24 bits, equal sound gives equal floats whatever file type held it.
    """
    if samples.dtype.kind == "f":
        with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite; `decode` deals with those
            return np.ascontiguousarray(samples, dtype=np.float32)
    full_scale = 2.0 ** (8 * samples.dtype.itemsize - 1)
    floats = np.array(samples, dtype=np.float32, order="C")
    if samples.dtype.kind == "u":
        floats -= np.float32(full_scale)
    floats *= np.float32(1 / full_scale)
    return floats
