"""Writes what `torch.save` writes, without torch: for tests that need checkpoints of any size or shape.

The parity test compares the zips with torch's own, byte for byte. Leaves of a tree: a numpy array is a tensor of
its own storage (the same array twice shares it); `BFloat16`, `View` and `Parameter` wrap one; everything else is
pickled as Python would (an OrderedDict may carry `_metadata`).
"""

import io
import pickle
import struct
import sys
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class BFloat16:
    """A float32 array to be stored as bfloat16 (truncated)."""

    array: Array


@dataclass(frozen=True, eq=False)
class View:
    """A tensor that sees part of `base`'s storage; `offset` and `stride` in elements."""

    base: Array
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Parameter:
    """A torch.nn.Parameter: any other leaf, trainable."""

    leaf: "Array | BFloat16 | View"


def write_torch_zip(path: Path, tree: Any, *, old: bool = False) -> None:
    """Write `tree` as `torch.save` does; `old`: as torch 1.x did (storages in text order, fewer small records)."""
    data, storages = _pickle_tree(tree, legacy=False)
    named: list[tuple[str, bytes | Array]] = [(f"data/{key}", raw) for key, raw in storages.items()]
    before: list[tuple[str, bytes | Array]] = [("data.pkl", data)]
    if old:
        named.sort(key=lambda record: record[0])
    else:
        before += [(".format_version", b"1"), (".storage_alignment", b"64"), ("byteorder", sys.byteorder.encode())]
    after: list[tuple[str, bytes | Array]] = [("version", b"3\n"), (".data/serialization_id", b"0" * 40)]
    with path.open("wb") as file:
        write_zip(file, path.stem, before + named + after)


def write_torch_legacy(path: Path, tree: Any) -> None:
    """Write `tree` as `torch.save(..., _use_new_zipfile_serialization=False)` does."""
    data, storages = _pickle_tree(tree, legacy=True)
    sizes = {"short": 2, "int": 4, "long": 4}
    system = {"protocol_version": 1001, "little_endian": sys.byteorder == "little", "type_sizes": sizes}
    with path.open("wb") as file:
        for value in (0x1950A86A20F9469CFC6C, 1001, system):
            file.write(pickle.dumps(value, 2))
        file.write(data)
        file.write(pickle.dumps(sorted(storages), 2))
        for key in sorted(storages):
            raw = storages[key]
            file.write(struct.pack("<q", raw.size))
            file.write(_bytes_of(raw))


def write_zip(file: BinaryIO, root: str, records: Iterable[tuple[str, bytes | Array]]) -> None:
    """Write stored records as torch's zip writer does: 64-byte aligned, sizes only in the directory, zip64 end."""
    directory, count = b"", 0
    for short_name, data in records:
        raw = data if isinstance(data, bytes) else _bytes_of(data)
        flags = 0x808 if raw else 0x800  # an empty record has no data descriptor
        name, offset = f"{root}/{short_name}".encode(), file.tell()
        padding = -(offset + 30 + len(name) + 4) % 64
        file.write(struct.pack("<4s5H3L2H", b"PK\3\4", 0, flags, 0, 0, 0, 0, 0, 0, len(name), padding + 4))
        file.write(name + b"FB" + struct.pack("<H", padding) + b"Z" * padding)
        file.write(raw)
        sizes = struct.pack("<3L", zlib.crc32(raw), len(raw), len(raw))
        file.write(b"PK\7\10" + sizes if raw else b"")
        directory += struct.pack("<4s6H", b"PK\1\2", 0, 0, flags, 0, 0, 0) + sizes
        directory += struct.pack("<5H2L", len(name), 0, 0, 0, 0, 0, offset) + name
        count += 1
    start = file.tell()
    file.write(directory)
    counts = (count, count, len(directory), start)
    file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 0x31E, 45, 0, 0, *counts))
    file.write(struct.pack("<4sLQL", b"PK\6\7", 0, start + len(directory), 1))
    file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *counts, 0))


def without_checksums(data: bytes) -> bytes:
    """The zip as torch writes it after `torch.serialization.set_crc32_options(False)`."""
    out, at = bytearray(data), data.find(b"PK\1\2")
    while at >= 0:
        out[at + 16 : at + 20] = b"\0\0\0\0"
        at = data.find(b"PK\1\2", at + 4)
    return bytes(out)


def _bytes_of(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


_STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


class _Name:
    """Stands for a global of torch, which is not installed."""

    def __init__(self, module: str, name: str) -> None:
        self.line = f"{module}\n{name}\n"

    def __call__(self) -> None:
        raise AssertionError("only its name is ever used")


@dataclass(frozen=True, eq=False)
class _StorageOf:
    array: Array
    kind: str


_TENSOR = _Name("torch._utils", "_rebuild_tensor_v2")
_PARAMETER = _Name("torch._utils", "_rebuild_parameter")
_CLASSES = {kind: _Name("torch", kind) for kind in [*_STORAGES.values(), "BFloat16Storage"]}


def _pickle_tree(tree: Any, *, legacy: bool) -> tuple[bytes, dict[str, Array]]:
    """The pickle of `tree` and its storages by key, in the order met."""
    out = io.BytesIO()
    pickler = _TorchPickler(out, legacy)
    pickler.dump(tree)
    return out.getvalue(), pickler.storages


# The pickler in Python, as the one in C insists on importing every global it writes.
_PythonPickler: Any = pickle._Pickler


class _TorchPickler(_PythonPickler):  # type: ignore[misc]
    def __init__(self, out: BinaryIO, legacy: bool) -> None:
        super().__init__(out, 2)
        self.storages: dict[str, Array] = {}
        self._legacy = legacy
        self._keys: dict[int, str] = {}
        self._alive: list[Array] = []  # so that no id is used twice

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, _StorageOf):
            return None
        fresh = str(0x5600_0000_0000 + 64 * len(self._keys)) if self._legacy else str(len(self._keys))
        key = self._keys.setdefault(id(obj.array), fresh)
        self._alive.append(obj.array)
        if key not in self.storages:
            raw = np.ascontiguousarray(obj.array).reshape(-1)
            self.storages[key] = (raw.view(np.uint32) >> 16).astype(np.uint16) if obj.kind[0:2] == "BF" else raw
        pid = ("storage", _CLASSES[obj.kind], key, "cpu", obj.array.size)
        return (*pid, None) if self._legacy else pid

    def reducer_override(self, obj: Any) -> Any:
        match obj:
            case _Name():
                return obj.line
            case Parameter():
                return _PARAMETER, (obj.leaf, True, OrderedDict())
            case BFloat16():
                return _rebuilt(_StorageOf(obj.array, "BFloat16Storage"), 0, obj.array.shape, None)
            case View():
                kind = _STORAGES[obj.base.dtype.name]
                return _rebuilt(_StorageOf(obj.base, kind), obj.offset, obj.shape, obj.stride)
            case np.ndarray():
                return _rebuilt(_StorageOf(obj, _STORAGES[obj.dtype.name]), 0, obj.shape, None)
        return NotImplemented

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if isinstance(obj, _Name):
            self.write(b"c" + obj.line.encode())
            self.memoize(obj)
        else:
            super().save_global(obj, name)


def _rebuilt(
    storage: _StorageOf, offset: int, shape: tuple[int, ...], stride: tuple[int, ...] | None
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    if stride is None:
        stride = tuple(int(np.prod([max(n, 1) for n in shape[axis + 1 :]])) for axis in range(len(shape)))
    return _TENSOR, (storage, offset, shape, stride, False, OrderedDict())
