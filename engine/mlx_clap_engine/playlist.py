"""Answers -> an extended M3U playlist of absolute paths, UTF-8 where the paths are."""

import os
from collections.abc import Iterable
from pathlib import Path

from mlx_clap.errors import AskedWronglyError

from .answers import Answer
from .output_files import new_file

_HEADER = b"#EXTM3U"


def write_m3u(target: Path, answers: Iterable[Answer]) -> int:
    """Write each recording once, in order, and return how many. A playlist at `target` is replaced.

    A path with a line break is left out: the format has no way to write it. Other bytes stay as they are.

    Raises:
        AskedWronglyError: `target` exists and is no playlist.
    """
    if target.exists() and not _is_playlist(target):
        raise AskedWronglyError(f"{target} exists and is no M3U playlist, so it is not replaced: choose another name")
    lines = [_HEADER]
    once: dict[str, Answer] = {}
    for answer in answers:
        if not set("\r\n") & set(answer.path):
            once.setdefault(answer.path, answer)
    for path, answer in once.items():
        name = " - ".join(part for part in (answer.artist, answer.title) if part) or Path(path).stem
        lines.append(f"#EXTINF:{round(answer.duration_s)},{' '.join(name.split())}".encode("utf-8", "surrogateescape"))
        lines.append(os.fsencode(path))
    with new_file(target, overwrite=True) as work:
        work.write_bytes(b"\n".join(lines) + b"\n")
    return len(once)


def _is_playlist(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(len(_HEADER))
    return start in (b"", _HEADER)
