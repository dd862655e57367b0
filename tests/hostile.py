"""Hostile and broken checkpoints, made on the spot: name -> bytes. None of them may be read, none may run."""

import io
import os
import pickle
import pickletools
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from torch_writer import View, write_torch_legacy, write_torch_zip, write_zip

PROTO, STOP = b"\x80\x02", b"."


class _Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


def zip_of(data_pkl: bytes, **records: bytes) -> bytes:
    """A zip as torch lays it out, with this pickle; further records by name."""
    out = io.BytesIO()
    others = [(name.replace("__", "/"), data) for name, data in records.items()]
    write_zip(out, "archive", [("data.pkl", data_pkl), *others, ("version", b"3\n")])
    return out.getvalue()


def legacy_of(tree_pkl: bytes) -> bytes:
    """A legacy file with this pickle as its tree, and no storages."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, system)]
    return b"".join(head) + tree_pkl + pickle.dumps([], 2)


def text(value: str) -> bytes:
    """The opcode for a text."""
    raw = value.encode()
    return b"X" + struct.pack("<L", len(raw)) + raw


def saved(path: Path, tree: Any, *, legacy: bool = False) -> bytes:
    """The bytes of `tree`, saved at `path`."""
    (write_torch_legacy if legacy else write_torch_zip)(path, tree)
    return path.read_bytes()


def programs(marker: Path) -> dict[str, bytes]:
    """Pickles that would make the file `marker`, or otherwise run something, if they were executed."""
    command = f"touch {marker}"
    source = f"open({str(marker)!r}, 'w').close()"
    calls = {
        "os.system": _Calls(os.system, command),
        "builtins.eval": _Calls(eval, source),
        "builtins.exec": _Calls(exec, source),
        "builtins.getattr": _Calls(getattr, "text", "upper"),
        "builtins.open": _Calls(open, str(marker), "w"),
        "subprocess.Popen": _Calls(subprocess.Popen, ["touch", str(marker)]),
        "io.open": _Calls(io.open_code, str(marker)),
    }
    pickles = {name: pickle.dumps({"state_dict": call}, 2) for name, call in calls.items()}
    for module, name in [
        ("posix", "system"),
        ("nt", "system"),
        ("torch.nn.modules.linear", "Linear"),
        ("torch._utils", "_rebuild_sparse_tensor"),
        ("torch.serialization", "load"),
        ("numpy", "load"),
        ("collections", "OrderedDict.fromkeys"),
        ("collections OrderedDict", "fromkeys"),
    ]:
        pickles[f"{module}.{name}"] = PROTO + f"c{module}\n{name}\n".encode() + text(command) + b"\x85R" + STOP
    # Other opcodes that reach a class or a function.
    pickles["INST"] = b"(" + text(command) + b"ios\nsystem\n" + STOP
    pickles["OBJ"] = b"(cos\nsystem\n" + text(command) + b"o" + STOP
    pickles["NEWOBJ"] = PROTO + b"ccollections\nOrderedDict\n)\x81" + STOP
    pickles["STACK_GLOBAL"] = PROTO + text("os") + text("system") + b"\x93" + text(command) + b"\x85R" + STOP
    pickles["EXT1"] = PROTO + b"\x82\x01" + STOP
    pickles["protocol 4"] = pickle.dumps({"a": _Calls(os.system, command)}, 4)
    return pickles


def twisted_pickles() -> dict[str, bytes]:
    """Pickles of plain parts that are put together as no pickler does, or that unfold beyond all measure."""
    ordered = b"ccollections\nOrderedDict\n)R"
    bomb = PROTO + b"]" + b"".join(_doubled(level) for level in range(60)) + STOP
    return {
        "SETITEM on a list": PROTO + b"]K\x01K\x02s" + STOP,
        "SETITEMS on a list": PROTO + b"](K\x01K\x02u" + STOP,
        "SETITEMS on a text": PROTO + text("a") + b"(K\x01K\x02u" + STOP,
        "SETITEMS without a value": PROTO + b"}(K\x01u" + STOP,
        "APPEND to a dict": PROTO + b"}K\x01a" + STOP,
        "APPENDS to a tuple": PROTO + b")(K\x01e" + STOP,
        "APPENDS to an OrderedDict": PROTO + ordered + b"(K\x01e" + STOP,
        "BUILD on a dict": PROTO + b"}}b" + STOP,
        "BUILD on a list": PROTO + b"]}b" + STOP,
        "REDUCE of a text": PROTO + text("os.system") + b")R" + STOP,
        "REDUCE of a storage class": PROTO + b"ctorch\nFloatStorage\nK\x05\x85R" + STOP,
        "a class as data": PROTO + b"ccollections\nOrderedDict\n" + STOP,
        "a persistent id of another kind": PROTO + text("module") + b"\x85Q" + STOP,
        "a dtype of objects": PROTO + b"cnumpy\ndtype\n" + text("O8") + b"K\x00K\x01\x87R" + STOP,
        "a tuple as a key": PROTO + b"})K\x01s" + STOP,
        "colliding keys": PROTO + b"}" + b"".join(_colliding_item(i) for i in range(1000)) + STOP,
        "list bomb": bomb,
        "a list in itself": PROTO + b"]q\x00h\x00a" + STOP,
        "deep lists": PROTO + b"]" * 100_000 + b"a" * 99_999 + STOP,
        "deep tuples": PROTO + b")" + b"\x85" * 100_000 + STOP,
        "marks without end": PROTO + b"(" * 300_000 + STOP,
        "too many steps": PROTO + b"N" * 500_001 + STOP,
        "too much memory": PROTO + b"]" + b"".join(b"r" + struct.pack("<L", i) for i in range(200_001)) + STOP,
        "a text of 2 GB": PROTO + b"X" + struct.pack("<L", 1 << 31) + b"abc" + STOP,
        "a number of 2 GB": PROTO + b"\x8b" + struct.pack("<L", 1 << 30) + b"abc" + STOP,
        "no STOP": PROTO + b"}",
        "nothing": b"",
        "only STOP": STOP,
        "two values": PROTO + b"}}" + STOP,
        "a mark left": PROTO + b"(}" + STOP,
        "BINGET of nothing": PROTO + b"h\x07" + STOP,
        "TUPLE without a mark": PROTO + b"t" + STOP,
        "text that is not UTF-8": PROTO + b"X\x02\x00\x00\x00\xff\xfe" + STOP,
    }


def _colliding_item(i: int) -> bytes:
    """SETITEM of a key whose hash is that of every other such key."""
    return pickle.dumps(i * (2**61 - 1) << 61, 2)[2:-1] + b"Ns"


def _doubled(level: int) -> bytes:
    """The value on the stack becomes a pair of itself."""
    return b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86"


def bad_tensors(path: Path) -> dict[str, bytes]:
    """Files whose tensors do not lie within their storages, or claim absurd sizes."""
    base = np.arange(12, dtype=np.float32)
    views = {
        "stride beyond the end": View(base, 0, (4,), (4,)),
        "offset beyond the end": View(base, 12, (1,), (1,)),
        "negative offset": View(base, -1, (2,), (1,)),
        "negative stride": View(base, 11, (4,), (-1,)),
        "negative size": View(base, 0, (-3,), (1,)),
        "stride that overflows": View(base, 0, (3,), (2**63 - 1,)),
        "vast numbers": View(base, 2**2000, (2**2000,), (2**2000,)),
        "expanded to a terabyte": View(base, 0, (1 << 38,), (0,)),
        "empty but vast": View(base, 0, (0, 1 << 40, 1 << 40), (1, 1, 1)),
        "too many dimensions": View(base, 0, (1,) * 100, (1,) * 100),
        "fewer strides than sizes": View(base, 0, (2, 2), (1,)),
        "a size that is no number": View(base, 0, (2.0,), (1,)),  # type: ignore[arg-type]
        "a size that is true": View(base, 0, (True,), (1,)),
    }
    files = {f"{name}, zip": saved(path, [view]) for name, view in views.items()}
    return files | {f"{name}, legacy": saved(path, [view], legacy=True) for name, view in views.items()}


def broken_zips(path: Path) -> dict[str, bytes]:
    """Zips that torch did not write."""
    good = saved(path, {"a": np.arange(12, dtype=np.float32)})
    plain = pickle.dumps({"a": 1}, 2)
    start = good.index(b"PK\1\2")
    entry = good.index(b"PK\1\2", start + 1)  # the second entry of the directory
    end = good.index(b"PK\5\6")

    def patched(at: int, data: bytes) -> bytes:
        return good[:at] + data + good[at + len(data) :]

    def other(compression: int, *names: str) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", compression) as archive:
            for name in names:
                archive.writestr(name, plain)
        return out.getvalue()

    tampered = good.replace(b"K\x0ctq", b"K\x0dtq")
    assert tampered != good
    return {
        "compressed": other(zipfile.ZIP_DEFLATED, "archive/data.pkl"),
        "no root folder": other(zipfile.ZIP_STORED, "data.pkl", "weights.npy"),
        "no data.pkl": other(zipfile.ZIP_STORED, "archive/other.pkl"),
        "TorchScript": zip_of(plain, **{"constants.pkl": plain}),
        "TorchScript code": zip_of(plain, **{"code/model.py": b"pass"}),
        "big-endian": zip_of(plain, byteorder=b"big"),
        "a record twice": zip_of(plain, **{"data__0": b"1", "data/0": b"2"}),
        "encrypted": patched(start + 8, b"\x01\x08"),
        "method in the directory only": patched(start + 10, b"\x08"),
        "method in the header only": patched(8, b"\x08"),
        "another name in the header": patched(30, b"\xff"),
        "padding into the next record": patched(28, b"\xff\xff"),
        "stored and real size differ": patched(start + 20, b"\x01"),
        "overlapping": patched(entry + 42, struct.pack("<L", 1)),
        "offset beyond the file": patched(start + 42, struct.pack("<L", 1 << 31)),
        "a million million records": patched(good.index(b"PK\6\6") + 24, struct.pack("<2Q", 1 << 40, 1 << 40)),
        "directory elsewhere": patched(good.index(b"PK\6\6") + 48, struct.pack("<Q", 1 << 40)),
        "directory one byte off": patched(good.index(b"PK\6\6") + 48, struct.pack("<Q", start + 1)),
        "64-bit end elsewhere": patched(good.index(b"PK\6\7") + 8, struct.pack("<Q", 1 << 62)),
        "one part of several": patched(end + 4, b"\x01").replace(b"PK\6\7", b"PK\6\0"),
        "text after the end": good + b"more",
        "wrong checksum of data.pkl": tampered,
        "absurd data.pkl": zip_of(b"N" * (17 << 20)),
        "missing storage": zip_of(_pickle_of(path, {"a": np.arange(3)})),
        "storage too short": zip_of(_pickle_of(path, {"a": np.arange(3)}), data__0=b"1234"),
        "storage too long": zip_of(_pickle_of(path, {"a": np.arange(3)}), data__0=b"1" * 25),
    }


def other_files(path: Path) -> dict[str, bytes]:
    """Files of other kinds, and legacy files with a wrong frame."""
    array = np.arange(12, dtype=np.float32)
    good = saved(path, {"a": array}, legacy=True)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name))
    shared = saved(path, [View(array, 0, (12,), (1,)), View(array, 0, (6,), (1,))], legacy=True)
    at = shared.rindex(b"K\x0cNt")
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    length = struct.pack("<q", 12)
    return {
        "empty": b"",
        "one byte": b"P",
        "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 614525833\n",
        "web page": b"\n<!DOCTYPE html><html><title>404</title></html>",
        "XML error": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        "text": b"Entry not found",
        "tar": tar.getvalue(),
        "safetensors": struct.pack("<Q", len(header)) + header + b"1234",
        "bare pickle": pickle.dumps({"a": 1}, 2),
        "empty zip": b"PK\5\6" + b"\0" * 18,
        "gzip": b"\x1f\x8b\x08" + b"\0" * 40,
        "legacy, only the magic": good[:15],
        "legacy, another protocol": good.replace(b"M\xe9\x03.", b"M\xe8\x03.", 1),
        "legacy, big-endian": good.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"),
        "legacy, cut in its data": good[:-1],
        "legacy, text after the end": good + b"!",
        "legacy, keys that do not agree": legacy_of(_pickle_of(path, {"a": np.arange(3)}, legacy=True)),
        "legacy, a tensor as header": good[:15] + _pickle_of(path, np.arange(3), legacy=True),
        "legacy, two lengths of one storage": shared[:at] + b"K\x06Nt" + shared[at + 4 :],
        "legacy, another length": good.replace(length, struct.pack("<q", 13)),
        "legacy, negative length": good.replace(length, struct.pack("<q", -12)),
    }


def _pickle_of(path: Path, tree: Any, *, legacy: bool = False) -> bytes:
    """Only the pickle of the tree."""
    if not legacy:
        saved(path, tree)
        with zipfile.ZipFile(path) as archive:
            return archive.read(f"{path.stem}/data.pkl")
    data = io.BytesIO(saved(path, tree, legacy=True))
    for _ in range(3):
        list(pickletools.genops(data))
    start = data.tell()
    list(pickletools.genops(data))
    return data.getvalue()[start : data.tell()]
