"""Reads a ``.safetensors`` file lazily: its header at once, a tensor's bytes when they are asked for.

The safetensors package has no bfloat16 in NumPy, hence this small reader; the format is an 8-byte length, a JSON header
and raw little-endian data. It writes nothing.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError

_MAX_HEADER = 100_000_000  # the format's own limit
_DTYPES = {
    "F64": ("float64", "<f8"),
    "F32": ("float32", "<f4"),
    "F16": ("float16", "<f2"),
    "BF16": ("bfloat16", "<u2"),
    "I64": ("int64", "<i8"),
    "I32": ("int32", "<i4"),
    "I16": ("int16", "<i2"),
    "I8": ("int8", "i1"),
    "U8": ("uint8", "u1"),
    "BOOL": ("bool", "?"),
}


@dataclass(frozen=True)
class SafeTensor:
    """One tensor of a file. `dtype` is its name in NumPy's spelling, or ``bfloat16``."""

    shape: tuple[int, ...]
    dtype: str
    path: Path
    offset: int
    stored: str

    def numpy(self) -> NDArray[Any]:
        """Read the tensor; bfloat16 comes as float32 of the same values."""
        count = math.prod(self.shape)
        try:
            values: NDArray[Any] = np.fromfile(self.path, dtype=self.stored, count=count, offset=self.offset)
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error}") from error
        if values.size != count:
            raise CheckpointError(f"{self.path} became shorter while it was read. Run the command again.")
        if self.dtype == "bfloat16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.reshape(self.shape)


def read_safetensors(path: Path) -> dict[str, SafeTensor]:
    """Every tensor of `path` by name.

    Raises:
        CheckpointError: it is no safetensors file, damaged, truncated, or holds a dtype that is not read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise _damaged(path, "its header is not where it should be")
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    start, end = 8 + length, 0
    tensors: dict[str, SafeTensor] = {}
    for name, entry in sorted(header.items(), key=lambda item: _begin(item[1])):
        if name == "__metadata__":
            continue
        tensor, entry_begin, entry_end = _tensor(path, name, entry, start)
        if entry_begin != end:
            raise _damaged(path, f"the bytes of {name} overlap another tensor's or leave a gap")
        tensors[name], end = tensor, entry_end
    if start + end != size:
        raise _damaged(path, f"{start + end} bytes expected, {size} found")
    return tensors


def _begin(entry: object) -> int:
    """Where an entry's bytes begin, for sorting; anything malformed sorts first and is refused by `_tensor`."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    return offsets[0] if isinstance(offsets, list) and offsets and isinstance(offsets[0], int) else -1


def _tensor(path: Path, name: str, entry: object, start: int) -> tuple[SafeTensor, int, int]:
    match entry:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise _damaged(path, f"the entry of {name} is malformed")
    if code not in _DTYPES:
        raise CheckpointError(
            f"{path}: {name} has dtype {code}, which is not read. Convert a float checkpoint instead."
        )
    dtype, stored = _DTYPES[code]
    if not all(type(length) is int and length >= 0 for length in shape) or begin < 0:
        raise _damaged(path, f"the shape of {name} is malformed")
    if end - begin != math.prod(shape) * np.dtype(stored).itemsize:
        raise _damaged(path, f"{name} has {end - begin} bytes, which do not fit its shape {shape}")
    return SafeTensor(tuple(shape), dtype, path, start + begin, stored), begin, end


def _damaged(path: Path, why: str) -> CheckpointError:
    hint = "Download it again."
    try:
        with path.open("rb") as file:
            if file.read(40).startswith(b"version https://git-lfs"):
                why, hint = (
                    "it is a Git LFS pointer, not the file itself",
                    "Fetch the file with `git lfs pull`.",
                )
    except OSError:
        pass
    return CheckpointError(f"{path} is not a readable safetensors file: {why}. {hint}")
