"""Window -> log-mel spectrogram, batched.

Reference: ``transformers`` ``ClapFeatureExtractor`` (``spectrogram`` of ``audio_utils``): reflect-padded centred
frames, periodic Hann window, power spectrum, mel bank, ``10 * log10(max(power, 1e-10))``; no top_db clipping.
"""

import numpy as np
from numpy.typing import NDArray

from .backend import mx, on_gpu
from .config import MelConfig

#: Raised when the same sound would give other numbers: part of every space's identity.
VERSION = 1

#: Power floor of the reference; silence is therefore -100 dB.
FLOOR = 1e-10

# Slaney's Auditory Toolbox scale: linear (200/3 Hz a mel) below 1 kHz, logarithmic above.
_SLANEY_BREAK_HZ, _SLANEY_BREAK_MEL, _SLANEY_LOG_STEP = 1000.0, 15.0, np.log(6.4) / 27.0


def hertz_to_mel(hz: NDArray[np.float64], bank: str) -> NDArray[np.float64]:
    """Frequency in Hz -> mel, on the HTK or the Slaney scale."""
    if bank == "htk":
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    logarithmic = _SLANEY_BREAK_MEL + np.log(np.maximum(hz, 1e-9) / _SLANEY_BREAK_HZ) / _SLANEY_LOG_STEP
    return np.where(hz < _SLANEY_BREAK_HZ, hz * 3.0 / 200.0, logarithmic)


def mel_to_hertz(mels: NDArray[np.float64], bank: str) -> NDArray[np.float64]:
    """The inverse of `hertz_to_mel`."""
    if bank == "htk":
        return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    logarithmic = _SLANEY_BREAK_HZ * np.exp(_SLANEY_LOG_STEP * (mels - _SLANEY_BREAK_MEL))
    return np.where(mels < _SLANEY_BREAK_MEL, mels * 200.0 / 3.0, logarithmic)


def filterbank(config: MelConfig) -> NDArray[np.float64]:
    """Triangular filters, float64 [n_fft // 2 + 1, n_mels]; triangles are straight in Hz.

    ``slaney`` equals ``librosa.filters.mel(..., htk=False, norm="slaney")``, ``htk`` equals ``(..., htk=True,
    norm=None)``.
    """
    bins = np.linspace(0.0, config.sample_rate / 2, config.n_fft // 2 + 1)
    ends = hertz_to_mel(np.array([config.f_min, config.f_max]), config.bank)
    corners = mel_to_hertz(np.linspace(ends[0], ends[1], config.n_mels + 2), config.bank)
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    rising = (bins[:, None] - low) / (centre - low)
    falling = (high - bins[:, None]) / (high - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return triangles * (2.0 / (high - low)) if config.bank == "slaney" else triangles


class LogMel:
    """Callable front end: waveforms float32 [B, N] -> log-mel in dB, float32 [B, 1 + N // hop, n_mels].

    The reference transforms in float64. A float32 FFT has a rounding floor about 160 dB under a frame's energy, so a
    bin 80 dB under the loudest is off by up to 0.01 dB on tonal recordings (median over 290 recordings: 0.0002 dB;
    effect on an embedding: below 1e-6). A GPU has no float64 and takes that. On a CPU the transform is numpy's, in
    float64: within 1e-5 dB on every one of them, for 6 to 12 ms a window instead of 5.
    """

    def __init__(self, config: MelConfig, double: bool | None = None) -> None:
        """`double`: transform in float64 on the CPU; None decides by the device."""
        self.config = config
        self.double = not on_gpu() if double is None else double
        self._hann = np.hanning(config.n_fft + 1)[:-1]  # periodic
        self._bank = filterbank(config).astype(np.float32)
        # In MLX the spectrum is taken as interleaved (re, im) pairs, so each filter row stands twice: |X|^2 and the mel
        # product become one square and one matrix product.
        self._hann_mx = mx.array(self._hann.astype(np.float32))
        self._bank_mx = mx.array(np.repeat(self._bank, 2, axis=0))

    def __call__(self, waveforms: mx.array) -> mx.array:
        power = self._power_float64(waveforms) if self.double else self._power(waveforms)
        return 10.0 * mx.log10(mx.maximum(power, FLOOR))

    def _power(self, waveforms: mx.array) -> mx.array:
        """Mel power [B, T, M] in float32, on the device."""
        n_fft, hop = self.config.n_fft, self.config.hop
        half, (batch, n) = n_fft // 2, waveforms.shape
        # reflect padding: ..., x2, x1, [x0, x1, ..., xn], xn-1, ...
        padded = mx.concatenate([waveforms[:, half:0:-1], waveforms, waveforms[:, n - 2 : n - half - 2 : -1]], axis=1)
        frames = mx.as_strided(padded, (batch, 1 + n // hop, n_fft), (n + n_fft, hop, 1))
        spectrum = mx.fft.rfft(frames * self._hann_mx)  # [B, T, n_fft // 2 + 1] complex64
        parts = mx.view(spectrum, mx.float32)  # [B, T, n_fft + 2]
        return (parts * parts) @ self._bank_mx

    def _power_float64(self, waveforms: mx.array) -> mx.array:
        """Mel power [B, T, M], transformed in float64 by numpy."""
        n_fft, hop = self.config.n_fft, self.config.hop
        padded = np.pad(np.array(waveforms), ((0, 0), (n_fft // 2, n_fft // 2)), mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft, axis=1)[:, ::hop]
        spectrum = np.fft.rfft(frames * self._hann)  # [B, T, n_fft // 2 + 1] complex128
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        return mx.array(power @ self._bank)
