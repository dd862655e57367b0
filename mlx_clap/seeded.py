"""Random weights and sounds that are the same bytes on every machine and in every version of numpy.

A freshly initialised CLAP hides most mistakes of a port (no relative bias, BatchNorm that does nothing), so checks
run on models whose *every* parameter and buffer is random and of realistic size. Built on Philox's raw output, which
numpy keeps stable, and on arithmetic that is exact.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from .config import ClapConfig
from .weights import weight_shapes


def uniform(name: str, n: int) -> NDArray[np.float32]:
    """`n` values in [-1, 1), fixed by `name`: multiples of 2**-23, so exact in float32."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    raw = np.random.Philox(key=key).random_raw((n + 1) // 2).view(np.uint32)[:n]
    return (raw >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)


def seeded_weights(config: ClapConfig, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Every weight of a model, random, in a range a trained model's has: float32, our names and layout."""
    return {
        name: np.asarray(_weight(name, shape, uniform(f"{seed}/{name}", int(np.prod(shape))).reshape(shape)))
        for name, shape in weight_shapes(config).items()
    }


def _weight(name: str, shape: tuple[int, ...], u: NDArray[np.float32]) -> NDArray[np.float32]:
    if name.endswith("logit_scale"):
        return np.float32(3.0) + np.float32(0.5) * u
    if name == "audio.batch_norm.mean":
        return np.float32(-40.0) + np.float32(20.0) * u
    if name == "audio.batch_norm.var":
        return np.float32(300.0) + np.float32(200.0) * u
    if name.endswith(".var"):
        return np.float32(1.0) + np.float32(0.75) * u
    if name.endswith("bias_table"):
        return np.float32(1.5) * u
    if len(shape) >= 2:
        fan_in = shape[-1] if name.startswith("text.embeddings") else int(np.prod(shape[1:]))
        # std of uniform(-1, 1) is 3**-0.5; a gain of 1.5 keeps signals alive through the residual stream
        return u * np.float32(1.5 * (3.0 / fan_in) ** 0.5)
    if "norm" in name and name.endswith(".weight"):
        return np.float32(1.0) + np.float32(0.4) * u
    return np.float32(0.2) * u


def seeded_sound(seed: int, samples: int = 480_000) -> NDArray[np.float32]:
    """A sound [samples], float32: noise bursts of changing level over a sawtooth. All arithmetic is exact.

    Odd seeds are a short sound: its last third is silence, as `repeatpad` leaves it.
    """
    noise = uniform(f"sound/{seed}", samples)
    time = np.arange(samples, dtype=np.int64)
    period = 120 + 37 * seed
    saw = ((time % period) * 2 - period).astype(np.float32) / np.float32(1 << (period.bit_length() + 1))
    level = np.exp2(-(((time // 6000) * (3 + seed)) % 7).astype(np.float32))
    sound = noise * level * np.float32(0.25) + saw
    if seed % 2:
        sound[samples * 2 // 3 :] = 0.0
    return sound.astype(np.float32)


def seeded_ids(config: ClapConfig, seed: int = 0) -> NDArray[np.int32]:
    """Token ids [3, 48] of a short, a middling and a long text, padded as the tokenizer pads."""
    rows, text = np.full((3, 48), config.text.pad_id, np.int32), config.text
    values = ((uniform(f"ids/{seed}", rows.size).reshape(rows.shape) + 1.0) / 2.0 * (text.vocab_size - 5)).astype(
        np.int32
    )
    for row, drawn, length in zip(rows, values, (3, 17, 48), strict=True):
        row[:length] = 4 + drawn[:length]
        row[0], row[length - 1] = 0, 2
    return rows
