"""Tensors that know their shape and dtype, and read their bytes only when asked.

Bounds are checked when a tensor is described, before any byte is read. Knows nothing of files: a storage is
given a function that fetches its bytes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

#: A tensor may have at most this many elements more than its storage has (by stride-0 dimensions).
MAX_EXPANDED = 1 << 24
MAX_DIMENSIONS = 16


@runtime_checkable
class LazyTensor(Protocol):
    """A tensor whose bytes are read when `numpy()` is called, each time anew."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its dimensions; () for a scalar."""

    @property
    def dtype(self) -> str:
        """'float32', 'float16', 'bfloat16', 'int64', 'bool', ... as stored."""

    def numpy(self) -> NDArray[Any]:
        """The values, C-contiguous, perhaps read-only; bfloat16 comes as float32.

        Raises:
            CheckpointError: the stored bytes are damaged.
            SourceError: a network source could not be reached.
        """


@dataclass(frozen=True)
class StorageType:
    """What a `torch.XStorage` holds: the dtype's name, and how numpy sees the raw little-endian elements."""

    dtype: str
    raw: np.dtype[Any]


#: By the name of the storage class in a pickle.
STORAGE_TYPES = {
    "torch.DoubleStorage": StorageType("float64", np.dtype("<f8")),
    "torch.FloatStorage": StorageType("float32", np.dtype("<f4")),
    "torch.HalfStorage": StorageType("float16", np.dtype("<f2")),
    "torch.BFloat16Storage": StorageType("bfloat16", np.dtype("<u2")),
    "torch.LongStorage": StorageType("int64", np.dtype("<i8")),
    "torch.IntStorage": StorageType("int32", np.dtype("<i4")),
    "torch.ShortStorage": StorageType("int16", np.dtype("<i2")),
    "torch.CharStorage": StorageType("int8", np.dtype("i1")),
    "torch.ByteStorage": StorageType("uint8", np.dtype("u1")),
    "torch.BoolStorage": StorageType("bool", np.dtype("u1")),
}


@dataclass
class Shelf:
    """Keeps the shared storage that was read last, so that its many small views do not each read it whole."""

    owner: "Storage | None" = None
    array: NDArray[Any] = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True, eq=False)
class Storage:
    """A flat run of `numel` elements; `fetch` returns its bytes. A file's storages share a `shelf`."""

    type: StorageType
    numel: int
    fetch: Callable[[], bytes | memoryview]
    shelf: Shelf

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return self.numel * self.type.raw.itemsize

    def array(self, *, keep: bool) -> NDArray[Any]:
        """All elements, raw, [numel]; `keep` puts them on the shelf."""
        if self.shelf.owner is self:
            return self.shelf.array
        array = np.frombuffer(self.fetch(), self.type.raw)
        if keep:
            self.shelf.owner, self.shelf.array = self, array
        return array


@dataclass(frozen=True, eq=False)
class StridedTensor:
    """A view of a storage, as PyTorch describes it: `offset` and `stride` are in elements."""

    shape: tuple[int, ...]
    storage: Storage
    offset: int
    stride: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """The storage's dtype."""
        return self.storage.type.dtype

    def numpy(self) -> NDArray[Any]:
        """See `LazyTensor.numpy`. The storage is always read whole, so that its checksum can be checked."""
        whole = self.offset == 0 and self.stride == contiguous_stride(self.shape)
        whole = whole and math.prod(self.shape) == self.storage.numel
        raw = self.storage.array(keep=not whole)
        if whole:
            array = raw.reshape(self.shape)
        elif 0 in self.shape:
            array = np.empty(self.shape, raw.dtype)
        else:
            steps = zip(self.shape, self.stride, strict=True)
            # The step of a dimension of size 1 is never taken, so a file may say anything there.
            byte_strides = [step * raw.itemsize if size > 1 else 0 for size, step in steps]
            array = as_strided(raw[self.offset :], self.shape, byte_strides).copy("C")
        if self.dtype == "bfloat16":
            return np.asarray(np.left_shift(array, 16, dtype=np.uint32)).view(np.float32)
        return np.asarray(array != 0) if self.dtype == "bool" else array


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The row-major strides, in elements, as PyTorch writes them (a dimension of size 0 counts as 1)."""
    return tuple(math.prod(max(size, 1) for size in shape[axis + 1 :]) for axis in range(len(shape)))


def view_problem(storage: Storage, offset: object, shape: object, stride: object) -> str | None:
    """Why these values, straight from a file, describe no tensor within `storage`; None if they do."""
    if not (type(offset) is int and _are_sizes(shape) and _are_sizes(stride)):
        return "a tensor's offset, shape or stride is not made of whole, non-negative numbers"
    assert isinstance(shape, tuple) and isinstance(stride, tuple)  # _are_sizes has seen to it
    if len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS:
        return f"a tensor has {len(shape)} sizes and {len(stride)} strides"
    if math.prod(max(size, 1) for size in shape) > storage.numel + MAX_EXPANDED:
        return f"a tensor of shape {_shown(shape)} claims far more than its {storage.numel:,} stored elements"
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if offset < 0 or (last >= storage.numel if 0 not in shape else offset > storage.numel):
        return (
            f"a tensor of shape {_shown(shape)} and stride {_shown(stride)} from element {_shown((offset,))} "
            f"reaches outside its {storage.numel:,} stored elements"
        )
    return None


def _are_sizes(values: object) -> bool:
    return isinstance(values, tuple) and all(type(value) is int and value >= 0 for value in values)


def _shown(numbers: tuple[int, ...]) -> str:
    """Numbers for a message; Python itself refuses to print absurdly long ones."""
    return "(" + ", ".join(str(n) if n.bit_length() <= 64 else "huge" for n in numbers) + ")"
