"""Waveform -> fixed windows. Plain numpy; nothing here is random.

A *window* is the slice of sound the model sees (480,000 samples, 10 s at 48 kHz). Windows start every *hop*; the
last one is moved back to end with the sound, so any tail is seen and nothing is padded. A sound shorter than one
window is repeated whole as often as it fits and then zero-padded (``repeatpad``, as transformers'
``ClapFeatureExtractor`` does).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

Samples = NDArray[np.float32]

SAMPLE_RATE = 48_000
WINDOW_SAMPLES = 480_000
#: RMS under which a window counts as silent, in dB relative to full scale.
SILENCE_DBFS = -70.0


def repeat_pad(samples: Samples, length: int = WINDOW_SAMPLES) -> Samples:
    """Fill `length` samples with whole repetitions of `samples`, then zeros.

    Raises:
        InputError: `samples` is empty or longer than `length`.
    """
    n = len(samples)
    if not 0 < n <= length:
        raise InputError(f"expected 1 to {length} samples, got {n}")
    repeated = np.tile(samples, length // n)
    return np.pad(repeated, (0, length - len(repeated))).astype(np.float32, copy=False)


def is_silent(samples: Samples) -> bool:
    """Whether the RMS level lies under `SILENCE_DBFS`."""
    if not len(samples):
        return True
    mean_square = float(np.mean(np.square(samples), dtype=np.float64))
    return bool(mean_square < 10.0 ** (SILENCE_DBFS / 10))


@dataclass(frozen=True)
class Window:
    """One window of a sound: `samples` is float32 [length]; times are seconds from the start of the sound."""

    index: int
    start_s: float
    end_s: float
    samples: Samples
    silent: bool


class Windower:
    """Cuts a stream of sample blocks into windows with memory bounded by window + block.

    Feed blocks to `push`, then call `finish` once; both yield `Window`s in order.
    """

    def __init__(self, hop: int = WINDOW_SAMPLES, length: int = WINDOW_SAMPLES, rate: int = SAMPLE_RATE) -> None:
        if not 0 < hop <= length:
            raise InputError(f"hop must be between 1 and {length} samples (gaps would go unheard), got {hop}")
        self.hop, self.length, self.rate = hop, length, rate
        self.n_samples = 0
        self._buffer = np.zeros(0, np.float32)  # the sound from `_offset` on
        self._offset = 0
        self._start = 0  # where the next window starts
        self._index = 0

    def push(self, block: Samples) -> Iterator[Window]:
        """Take the next samples; yield every window that is now complete."""
        self.n_samples += len(block)
        self._buffer = np.concatenate([self._buffer, block])
        while self._start + self.length <= self.n_samples:
            yield self._window(self._start)
            self._start += self.hop
        # The last `length` samples may yet become the final, end-aligned window.
        keep = max(0, min(self._start, self.n_samples - self.length) - self._offset)
        self._buffer = self._buffer[keep:].copy() if keep else self._buffer
        self._offset += keep

    def finish(self) -> Iterator[Window]:
        """Yield the final window, if the sound has a tail no window has covered."""
        if self.n_samples == 0:
            return
        if self.n_samples < self.length:
            yield Window(
                0,
                0.0,
                self.n_samples / self.rate,
                repeat_pad(self._buffer, self.length),
                is_silent(self._buffer),
            )
        elif self._start - self.hop + self.length < self.n_samples:
            yield self._window(self.n_samples - self.length)

    def _window(self, start: int) -> Window:
        samples = self._buffer[start - self._offset : start - self._offset + self.length].copy()
        window = Window(self._index, start / self.rate, (start + self.length) / self.rate, samples, is_silent(samples))
        self._index += 1
        return window
