"""The identity of an embedding space: which embeddings may be compared.

It depends on what decides an embedding (every mapped tensor, the front end, the window) and on nothing else: a
``.bin`` and a safetensors file of one checkpoint are one space, and so are its float32 and float16 conversions.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from mlx_clap import mel
from mlx_clap.config import AudioConfig, ClapConfig

#: The released audio towers by first width and depths.
_KNOWN: dict[tuple[int, tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2)): "tiny",
    (128, (2, 2, 12, 2)): "base",
    (256, (2, 2, 12, 2)): "large",
}


def tensor_digest(name: str, array: NDArray[np.float32]) -> bytes:
    """Digest of one mapped tensor: name, shape and float32 values (little-endian)."""
    digest = hashlib.sha256(f"{name} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array, "<f4").data)
    return digest.digest()


def space_identity(config: ClapConfig, digests: Mapping[str, bytes]) -> str:
    """A readable, stable name such as ``htsat-base-3f9c02a17b4e``; fit to name a table."""
    whole = hashlib.sha256()
    for name in sorted(digests):
        whole.update(digests[name])
    # A window is cut and padded by mlx_clap.audio; its length is in the front end's configuration.
    whole.update(json.dumps({"front_end": mel.VERSION, **asdict(config.mel)}, sort_keys=True).encode())
    return f"htsat-{_size(config.audio)}-{whole.hexdigest()[:12]}"


def _size(audio: AudioConfig) -> str:
    size = _KNOWN.get((audio.width, audio.depths), f"{audio.width}w{sum(audio.depths)}")
    return f"{size}-fused" if audio.fusion else size
