"""The pickle inside a checkpoint, interpreted without `pickle`: nothing is imported, nothing is called.

A short list of opcodes builds dicts, lists, tuples, numbers and text; a short list of names (see `_REBUILD`)
stands for tensors, storages and numpy scalars, which are rebuilt here as plain data. All else is refused by
name. Limits hold before memory is spent. Only pickle protocol 2 is read, the one `torch.save` writes.
"""

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any, cast

import numpy as np

from .byte_source import damaged, refused
from .lazy_tensor import STORAGE_TYPES, LazyTensor, Storage, StorageType, StridedTensor, view_problem

#: Limits, each more than ten times what a LAION checkpoint with its optimizer state needs.
MAX_PICKLE = 16 << 20
MAX_OPCODES = 500_000
MAX_MEMO = 200_000
MAX_TENSORS = 50_000
MAX_TEXT = 64 << 10
MAX_DEPTH = 64
MAX_NODES = 2_000_000

#: storage type, key, number of elements -> the storage; what a layout does with a persistent id.
FindStorage = Callable[[StorageType, str, int], Storage]

_CHUNK = 64 << 10


class Cursor:
    """A bounded stream over `read(offset, length)`, from byte 0 to `end`, as `genops` wants it."""

    def __init__(self, name: str, read: Callable[[int, int], bytes], end: int) -> None:
        self.name = name
        self.position = 0
        self._read, self._end = read, end
        self._buffer, self._buffer_start = b"", 0

    def read(self, length: int) -> bytes:
        """Up to `length` bytes, fewer only at the end."""
        if length > MAX_TEXT:
            raise refused(self.name, f"its pickle holds a text of {length:,} bytes")
        start = self.position - self._buffer_start
        if start + length > len(self._buffer):
            self._buffer_start, start = self.position, 0
            self._buffer = self._read(self.position, min(max(length, _CHUNK), self._end - self.position))
        data = self._buffer[start : start + length]
        self.position += len(data)
        return data

    def readline(self) -> bytes:
        """Bytes up to and with the next newline; a name in a pickle is never long."""
        line = self.read(1024)
        length = line.find(b"\n") + 1 or len(line)
        self.position -= len(line) - length
        return line[:length]


def read_pickle(cursor: Cursor, find_storage: FindStorage) -> Any:
    """Interpret one pickle, leaving `cursor` after its STOP.

    Leaves of the tree: None, bool, int, float, str, bytes, `LazyTensor`.

    Raises:
        CheckpointError: garbled, over a limit, or asking for anything but plain data.
    """
    machine = _Machine(cursor.name, find_storage)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], cursor))):
            if count >= MAX_OPCODES:
                raise refused(cursor.name, f"its pickle has more than {MAX_OPCODES:,} steps")
            machine.step(opcode.name, argument)
        tree = machine.pop()
    except (
        IndexError,
        KeyError,
        ValueError,
    ) as error:  # an empty stack, no such memo, garbled or short bytes
        raise damaged(cursor.name, "its pickle is garbled or cut short") from error
    _check_tree(cursor.name, tree)
    return tree


@dataclass(frozen=True)
class _Global:
    """A name the pickle mentioned. It stays a name."""

    name: str


@dataclass(frozen=True)
class _NumpyDtype:
    """A little-endian numpy number type, inert."""

    dtype: np.dtype[Any]


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(self, name: str, find_storage: FindStorage) -> None:
        self._name, self._find_storage = name, find_storage
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._tensors = 0

    def pop(self) -> Any:
        return self._stack.pop()

    def step(self, opcode: str, argument: Any) -> None:
        """Do one opcode. IndexError and KeyError mean a garbled pickle."""
        stack = self._stack
        match opcode:
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "NONE":
                stack.append(None)
            case "NEWTRUE":
                stack.append(True)
            case "NEWFALSE":
                stack.append(False)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "MARK":
                self._marks.append(stack)
                self._stack = []
            case "TUPLE":
                self._to_mark_push(tuple(stack))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                parts = [stack.pop() for _ in range(int(opcode[-1]))]
                stack.append(tuple(reversed(parts)))
            case "APPEND":
                value = stack.pop()
                self._extend(stack[-1], [value])
            case "APPENDS":
                self._stack = self._marks.pop()
                self._extend(self._stack[-1], stack)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._update(stack[-1], [key], [value])
            case "SETITEMS":
                self._stack = self._marks.pop()
                self._update(self._stack[-1], stack[::2], stack[1::2])
            case "BINPUT" | "LONG_BINPUT":
                if len(self._memo) >= MAX_MEMO:
                    raise refused(self._name, f"its pickle remembers more than {MAX_MEMO:,} objects")
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                stack.append(self._global(argument))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self._reduce(function, arguments))
            case "BUILD":
                state = stack.pop()
                self._build(stack[-1], state)
            case "PROTO":
                if argument != 2:
                    raise refused(self._name, f"its pickle has protocol {argument}; torch.save writes 2")
            case "STOP":
                if self._marks or len(stack) != 1:
                    raise damaged(self._name, "its pickle ends with values left over")
            case _:
                raise refused(self._name, f"its pickle uses the opcode {opcode}")

    def _to_mark_push(self, value: object) -> None:
        self._stack = self._marks.pop()
        self._stack.append(value)

    def _extend(self, target: object, values: list[Any]) -> None:
        if type(target) is not list:
            raise refused(self._name, f"its pickle appends to a {_kind(target)}, not a list")
        target.extend(values)

    def _update(self, target: object, keys: list[Any], values: list[Any]) -> None:
        if not isinstance(target, dict):
            raise refused(self._name, f"its pickle sets items of a {_kind(target)}, not a dict")
        # Large numbers could be chosen so that their hashes collide, which makes a dict very slow.
        if not all(isinstance(key, str) or (isinstance(key, int) and abs(key) < 1 << 32) for key in keys):
            raise refused(self._name, "its pickle has a dict key that is neither text nor a small whole number")
        if len(keys) != len(values):
            raise damaged(self._name, "its pickle has a dict key without a value")
        target.update(zip(keys, values, strict=True))

    def _global(self, argument: str) -> _Global:
        name = ".".join(argument.split(" ", 1))
        if name not in _REBUILD and name not in STORAGE_TYPES:
            raise refused(self._name, f"its pickle names {name[:100]!r}")
        return _Global(name)

    def _storage(self, persistent_id: object) -> Storage:
        match persistent_id:
            # The legacy layout has a sixth field: None, unless the storage itself is a view (before 0.4).
            case ("storage", _Global(name=name), str(key), str(), int(numel), *rest) if rest in ([], [None]):
                if name in STORAGE_TYPES and type(numel) is int and 0 <= numel < 1 << 48:
                    return self._find_storage(STORAGE_TYPES[name], key, numel)
        raise refused(self._name, "its pickle refers to outside data that is not a tensor's storage")

    def _reduce(self, function: object, arguments: object) -> Any:
        if isinstance(function, _Global) and isinstance(arguments, tuple) and function.name in _REBUILD:
            value, problem = _REBUILD[function.name](arguments)
            if problem:
                raise refused(self._name, problem)
            self._tensors += isinstance(value, StridedTensor)
            if self._tensors > MAX_TENSORS:
                raise refused(self._name, f"it describes more than {MAX_TENSORS:,} tensors")
            return value
        raise refused(self._name, f"its pickle calls {_kind(function)}")

    def _build(self, target: object, state: object) -> None:
        """State is never applied: an OrderedDict's (`_metadata`) is of no use, a dtype's is only checked."""
        match target, state:
            case (OrderedDict(), dict()) | (_NumpyDtype(), (_, "<" | "|", *_)):
                return
        raise refused(self._name, f"its pickle changes the state of a {_kind(target)}")


def _ordered_dict(arguments: tuple[Any, ...]) -> tuple[Any, str | None]:
    return OrderedDict(), "its pickle makes an OrderedDict from arguments" if arguments else None


def _size(arguments: tuple[Any, ...]) -> tuple[Any, str | None]:
    match arguments:
        case (tuple(sizes),) if all(type(size) is int for size in sizes):
            return sizes, None
    return None, "its pickle holds a torch.Size that is not made of whole numbers"


def _tensor(arguments: tuple[Any, ...]) -> tuple[Any, str | None]:
    # A seventh argument would hold bits (conjugate, negative) that change the values: not known here.
    match arguments:
        case (Storage() as storage, offset, shape, stride, bool(), dict()):
            problem = view_problem(storage, offset, shape, stride)
            return (None, problem) if problem else (StridedTensor(shape, storage, offset, stride), None)
    return None, "its pickle describes a tensor in a way that is not known"


def _parameter(arguments: tuple[Any, ...]) -> tuple[Any, str | None]:
    match arguments:
        case (StridedTensor() as tensor, bool(), dict()):
            return tensor, None
    return None, "its pickle holds a Parameter that is not a plain tensor"


def _numpy_dtype(arguments: tuple[Any, ...]) -> tuple[Any, str | None]:
    match arguments:
        case (
            ("f2" | "f4" | "f8" | "i1" | "i2" | "i4" | "i8" | "u1" | "u2" | "u4" | "u8" | "b1") as code,
            *_,
        ):
            return _NumpyDtype(np.dtype(code).newbyteorder("<")), None
    return None, "its pickle holds a numpy dtype that is not a number's"


def _numpy_scalar(arguments: tuple[Any, ...]) -> tuple[Any, str | None]:
    match arguments:
        case (_NumpyDtype(dtype=dtype), bytes(data)) if len(data) == dtype.itemsize:
            return np.frombuffer(data, dtype)[0].item(), None
    return None, "its pickle holds a numpy scalar that is not one number"


def _latin1(arguments: tuple[Any, ...]) -> tuple[Any, str | None]:
    """How protocol 2 writes bytes: as text to be encoded."""
    match arguments:
        case (str(text), "latin1") if not text or max(text) <= "\xff":
            return text.encode("latin1"), None
    return None, "its pickle encodes text other than the bytes of a numpy scalar"


#: Every name a pickle may call -> what is done instead: arguments -> (value, problem).
_REBUILD: dict[str, Callable[[tuple[Any, ...]], tuple[Any, str | None]]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "_codecs.encode": _latin1,
}


def _kind(value: object) -> str:
    """For a message: the name in the pickle, else the type; never the value, which may be vast."""
    return repr(value.name) if isinstance(value, _Global) else type(value).__name__.lstrip("_")


def _check_tree(name: str, tree: object) -> None:
    """Refuse a tree that is deep, cyclic, vast when walked (shared parts count each time), or not data."""
    measured: dict[int, tuple[int, int]] = {}  # id of a container -> nodes in it, depth of it
    unfinished: set[int] = set()
    to_do = [(tree, False)]
    while to_do:
        node, children_done = to_do.pop()
        if not isinstance(node, dict | list | tuple):
            if not (node is None or isinstance(node, bool | int | float | str | bytes | LazyTensor)):
                raise refused(name, f"its pickle holds a {_kind(node)} as data")
            continue
        children: Iterable[Any] = node.values() if isinstance(node, dict) else node
        if children_done:
            unfinished.discard(id(node))
            below = [measured.get(id(child), (1, 0)) for child in children]
            nodes, depth = 1 + sum(n for n, _ in below), 1 + max((d for _, d in below), default=0)
            if nodes > MAX_NODES or depth > MAX_DEPTH:
                raise refused(name, f"its pickle unfolds to more than {MAX_NODES:,} values or {MAX_DEPTH} levels")
            measured[id(node)] = nodes, depth
        elif id(node) in unfinished:
            raise refused(name, "its pickle holds a container that contains itself")
        elif id(node) not in measured:
            unfinished.add(id(node))
            to_do.append((node, True))
            to_do.extend((child, False) for child in children)
