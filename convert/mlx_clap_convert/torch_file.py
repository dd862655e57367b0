"""A checkpoint saved by `torch.save` (.bin, .pt), read without torch and without executing anything in it.

Reads the zip layout (torch 1.6 and later) and the older plain one. Only headers and the pickle that describes
the tree are read at once; a tensor's bytes when its `numpy()` is called, so optimizer state costs nothing.
Not read: TorchScript, whole pickled modules, the tar layout before torch 0.4, sparse or quantised tensors.
"""

from pathlib import Path
from typing import Any

from .byte_source import ByteSource, FileSource, damaged, refused
from .errors import CheckpointError
from .lazy_tensor import LazyTensor, Shelf, Storage, StorageType
from .pickle_reader import MAX_PICKLE, Cursor, read_pickle
from .zip_records import ZipRecords

__all__ = ["ByteSource", "LazyTensor", "read_torch_file"]

#: The pickled magic number every legacy file begins with.
_LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
_LEGACY_PROTOCOL = 1001


def read_torch_file(source: Path | ByteSource) -> Any:
    """The tree a file holds: dicts (str or int keys), lists, tuples, None, bool, int, float, str, bytes
    (numpy scalars as Python numbers), and `LazyTensor` leaves, which go on reading from `source`.

    Storages are read whole and, in the zip layout, checked against their CRC-32 each time, locally too.

    Raises:
        CheckpointError: not a file of this kind, damaged, or one that asks for more than plain data.
        SourceError: a network source could not be reached.
    """
    if isinstance(source, Path):
        source = FileSource(source)
    head = source.read(0, min(source.size, 512))
    if head.startswith(b"PK\3\4"):
        return _read_zip(source)
    if head.startswith(_LEGACY_MAGIC):
        return _read_legacy(source)
    raise CheckpointError(f"{source.name} {_what_it_is(head)}")


def _read_zip(source: ByteSource) -> Any:
    name, zip_file = source.name, ZipRecords(source, need_checksums=not isinstance(source, FileSource))
    records = zip_file.records
    if "constants.pkl" in records or any(record.startswith("code/") for record in records):
        raise refused(name, "it is a TorchScript program, not a checkpoint")
    if "data.pkl" not in records:
        raise CheckpointError(f"{name} is a zip, but not one PyTorch saved: it has no data.pkl.")
    if records["data.pkl"].size > MAX_PICKLE:
        raise refused(name, f"its pickle is {records['data.pkl'].size:,} bytes long")
    pickle = bytes(zip_file.read("data.pkl"))
    if "byteorder" in records and bytes(zip_file.read("byteorder")) != b"little":
        raise refused(name, "it was saved on a big-endian machine")
    storages, shelf = dict[str, Storage](), Shelf()

    def find_storage(kind: StorageType, key: str, numel: int) -> Storage:
        record = f"data/{key}"
        if record not in records:
            raise damaged(name, f"a tensor's data, record {record[:100]!r}, is missing")
        storage = Storage(kind, numel, lambda: zip_file.read(record), shelf)
        if records[record].size != storage.nbytes:
            stored = records[record].size
            raise damaged(name, f"record {record!r} has {stored:,} bytes for {numel:,} elements of {kind.dtype}")
        return _same_storage(name, storages, key, storage)

    cursor = Cursor(name, lambda offset, length: pickle[offset : offset + length], len(pickle))
    return read_pickle(cursor, find_storage)


def _read_legacy(source: ByteSource) -> Any:
    """Five pickles (magic, protocol, system, tree, storage keys), then storages: int64 length, raw data."""
    name, storages, shelf = source.name, dict[str, Storage](), Shelf()
    offsets: dict[str, int] = {}

    def find_storage(kind: StorageType, key: str, numel: int) -> Storage:
        storage = Storage(kind, numel, lambda: _legacy_data(source, offsets[key], storages[key]), shelf)
        return _same_storage(name, storages, key, storage)

    def no_storage(kind: StorageType, key: str, numel: int) -> Storage:
        raise damaged(name, "a tensor stands where its header should be")

    cursor = Cursor(name, source.read, min(source.size, MAX_PICKLE))
    read_pickle(cursor, no_storage)  # the magic number, seen by the caller
    protocol, system = read_pickle(cursor, no_storage), read_pickle(cursor, no_storage)
    if protocol != _LEGACY_PROTOCOL or not isinstance(system, dict):
        raise damaged(name, "its header is not the one torch.save writes")
    if system.get("little_endian") is not True:
        raise refused(name, "it was saved on a big-endian machine")
    tree, keys = read_pickle(cursor, find_storage), read_pickle(cursor, no_storage)
    if not isinstance(keys, list) or {str, *map(type, keys)} != {str} or sorted(keys) != sorted(storages):
        raise damaged(name, "its list of storages does not agree with its tensors")
    position = cursor.position
    for key in keys:
        offsets[key] = position
        position += 8 + storages[key].nbytes
    if position != source.size:
        raise damaged(name, f"its tensors need {position:,} bytes, but it has {source.size:,}")
    return tree


def _legacy_data(source: ByteSource, offset: int, storage: Storage) -> memoryview:
    data = source.read(offset, 8 + storage.nbytes)
    if int.from_bytes(data[:8], "little", signed=True) != storage.numel:
        raise damaged(source.name, f"a storage of {storage.numel:,} elements says it has another length")
    return memoryview(data)[8:]


def _same_storage(name: str, storages: dict[str, Storage], key: str, storage: Storage) -> Storage:
    """The one `Storage` of this key, so that tensors share it; all must agree on its type and length."""
    known = storages.setdefault(key, storage)
    if (known.type, known.numel) != (storage.type, storage.numel):
        raise refused(name, f"its tensors disagree about the type or length of storage {key[:100]!r}")
    return known


def _what_it_is(head: bytes) -> str:
    """What a file that PyTorch did not save most likely is, and what to do about it."""
    text = head.lstrip().lower()
    if not head:
        return "is empty. Fetch the file again."
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file it points to. Run `git lfs pull` where it was cloned."
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, perhaps a server's error message, not a checkpoint. Fetch the file again."
    if head[257:262] == b"ustar":
        return "is a tar archive (torch 0.3 and earlier saved those). Load and save it with a newer PyTorch."
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30:
        return "is a safetensors file. Give it the name model.safetensors, or name the folder that holds it."
    if head.startswith(b"\x80"):
        return "is a bare pickle, which is not read: it could run programs. Save its tensors with torch.save."
    if head.startswith(b"PK"):
        return "is an empty or partial zip. Fetch the file again."
    return "does not begin like a file torch.save wrote. Name a pytorch_model.bin or .pt file."
