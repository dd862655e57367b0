"""The records of a zip as PyTorch writes it, through a `ByteSource`.

Only what `torch.save` makes is read: stored (never compressed or encrypted) records in one root folder, zip64
or not. The directory at the end is the authority, as the local headers carry no sizes. Everything is checked
before use: no two records may overlap, and a record's CRC-32 is checked whenever it is read.
"""

import struct
import zlib
from dataclasses import dataclass

from .byte_source import ByteSource, damaged, refused
from .errors import CheckpointError

MAX_RECORDS = 200_000
MAX_DIRECTORY = 64 << 20
#: Read from the end in one go: holds the whole directory of an ordinary checkpoint.
TAIL = 128 << 10

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENCRYPTED = 0x2041  # encrypted, strongly encrypted, masked headers


@dataclass(frozen=True)
class Record:
    """One stored file: `header` is the offset of its local header, `end` where the next thing begins."""

    name: bytes
    size: int
    crc: int
    header: int
    end: int


class ZipRecords:
    """`records`: name without the root folder -> `Record`; `read` returns a record's bytes, checked.

    A file saved with its checksums switched off is read unless `need_checksums`.

    Raises:
        CheckpointError: cut short, compressed, encrypted, overlapping, duplicated, or not PyTorch's.
    """

    def __init__(self, source: ByteSource, *, need_checksums: bool) -> None:
        self._source = source
        offset, directory, count = _find_directory(source)
        entries = _parse_directory(source.name, directory, count)
        self.records = _by_short_name(source.name, _with_ends(source.name, entries, offset))
        pickle = self.records.get("data.pkl")
        # torch.serialization.set_crc32_options(False) leaves every checksum 0: then there is none to check.
        self._has_checksums = pickle is None or pickle.crc != 0
        if need_checksums and not self._has_checksums:
            raise CheckpointError(
                f"{source.name} was saved without checksums, so parts of it cannot be verified as they are downloaded. "
                "Download the whole file and name that."
            )

    def read(self, name: str) -> memoryview:
        """The bytes of the record `name` (no root folder in it): one read of the source, CRC-32 checked."""
        record, where = self.records[name], self._source.name
        # The header's own padding is unknown until it is read; `end` bounds it well, the format does too.
        longest = _LOCAL.size + len(record.name) + 0xFFFF + record.size
        span = memoryview(self._source.read(record.header, min(record.end - record.header, longest)))
        signature, _, flags, method, *_, name_length, extra_length = _LOCAL.unpack_from(span)
        start = _LOCAL.size + name_length + extra_length
        if signature != b"PK\3\4" or flags & _ENCRYPTED or method or span[30 : 30 + name_length] != record.name:
            raise damaged(where, f"the header of record {name!r} does not agree with the directory")
        if start + record.size > len(span):
            raise damaged(where, f"record {name!r} runs into the next one")
        data = span[start : start + record.size]
        if self._has_checksums and zlib.crc32(data) != record.crc:
            raise damaged(where, f"record {name!r} does not match its CRC-32 checksum")
        return data


def _find_directory(source: ByteSource) -> tuple[int, bytes, int]:
    """Offset and bytes of the central directory, and the number of its entries."""
    name, tail_length = source.name, min(source.size, TAIL)
    base = source.size - tail_length
    tail = source.read(base, tail_length)

    def part(offset: int, length: int) -> bytes:
        """These bytes, without asking the source again where the tail has them."""
        if base <= offset <= offset + length <= source.size:
            return tail[offset - base : offset - base + length]
        return source.read(offset, length)

    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        raise damaged(name, "the zip has no directory at its end, so it was cut short or not fully downloaded")
    _, disk, first_disk, here, count, length, offset, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment != len(tail):
        raise damaged(name, "the zip's end record is not at its end")
    limit = base + at
    if at >= _END64_LOCATOR.size:
        signature, _, end64, _ = _END64_LOCATOR.unpack_from(tail, at - _END64_LOCATOR.size)
        if signature == b"PK\6\7":
            limit = end64
            record = part(end64, _END64.size)
            signature, _, _, _, disk, first_disk, here, count, length, offset = _END64.unpack(record)
            if signature != b"PK\6\6":
                raise damaged(name, "the zip's 64-bit end record is not where it should be")
    if disk or first_disk or here != count:
        raise damaged(name, "it is one part of a zip split over several files")
    if count > MAX_RECORDS or length > MAX_DIRECTORY:
        raise refused(name, f"the zip claims {count:,} records and a directory of {length:,} bytes")
    if offset + length > limit:
        raise damaged(name, "the zip's directory is not where its end record says")
    return offset, part(offset, length), count


def _parse_directory(where: str, directory: bytes, count: int) -> list[Record]:
    """The directory's entries, `end` still 0."""
    entries, at = [], 0
    for _ in range(count):
        if at + _CENTRAL.size > len(directory):
            raise damaged(where, "the zip's directory is cut short")
        fields = _CENTRAL.unpack_from(directory, at)
        signature, _, _, flags, method, _, _, crc, stored, size, name_length, extra_length, comment_length = fields[:13]
        header = fields[16]
        extra_at = at + _CENTRAL.size + name_length
        name = directory[at + _CENTRAL.size : extra_at]
        extra = directory[extra_at : extra_at + extra_length]
        at = extra_at + extra_length + comment_length
        if signature != b"PK\1\2" or at > len(directory):
            raise damaged(where, "the zip's directory is garbled")
        if flags & _ENCRYPTED:
            raise refused(where, "the zip is encrypted")
        size, stored, header = _widen(where, extra, size, stored, header)
        if method or size != stored:
            raise refused(where, "the zip is compressed, which torch.save never does")
        entries.append(Record(name, size, crc, header, 0))
    if at != len(directory):
        raise damaged(where, "the zip's directory is longer than its entries")
    return entries


def _widen(where: str, extra: bytes, *values: int) -> list[int]:
    """Replace each value that is 0xFFFFFFFF by its 64-bit form from the zip64 extra field, in order."""
    if 0xFFFFFFFF not in values:
        return list(values)
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
            return [next(wide, value) if value == 0xFFFFFFFF else value for value in values]
    return list(values)


def _with_ends(where: str, entries: list[Record], directory_offset: int) -> list[Record]:
    """The entries in file order, each with its `end`; raises if two overlap."""
    ordered = sorted(entries, key=lambda entry: entry.header)
    ends = [entry.header for entry in ordered[1:]] + [directory_offset]
    for entry, end in zip(ordered, ends, strict=True):
        if entry.header + _LOCAL.size + len(entry.name) + entry.size > end:
            raise damaged(where, "records of the zip overlap")
    return [Record(e.name, e.size, e.crc, e.header, end) for e, end in zip(ordered, ends, strict=True)]


def _by_short_name(where: str, entries: list[Record]) -> dict[str, Record]:
    """Entries by name, without the root folder all of them share."""
    records: dict[str, Record] = {}
    root = entries[0].name.partition(b"/")[0] + b"/" if entries else b""
    for entry in entries:
        if not entry.name.startswith(root):
            raise CheckpointError(
                f"{where} is a zip, but not one PyTorch saved: its entries are not in one folder. "
                "Name the checkpoint file itself (pytorch_model.bin, or a .pt file)."
            )
        name = entry.name[len(root) :].decode("utf-8", "replace")
        if name in records:
            raise refused(where, f"the zip holds {name!r} twice")
        records[name] = entry
    return records
