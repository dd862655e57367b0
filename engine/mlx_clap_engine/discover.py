"""Paths a person gives -> the audio files behind them, in a fixed order. Opens no file."""

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_clap.errors import AskedWronglyError

#: What counts as audio inside a folder. A file that is named itself is taken whatever its extension.
AUDIO_EXTENSIONS = frozenset(
    "wav wave bwf rf64 w64 aif aiff aifc caf au snd voc flac alac wv ape tta tak shn dsf dff"  # uncompressed, lossless
    " mp3 mp2 mpga ogg oga opus spx m4a m4b m4p m4r aac adts wma mpc ac3 eac3 dts amr mka aax".split()
    + "mp4 m4v mov mkv webm 3gp avi wmv".split()  # video files: their sound is read
)
#: Folders that macOS shows as one document. Their insides are an application's, not the user's recordings.
BUNDLES = {
    "logicx": "a Logic bundle",
    "band": "a GarageBand bundle",
    "musiclibrary": "a Music library bundle",
    "tvlibrary": "a TV library bundle",
    "photoslibrary": "a Photos library bundle",
    "fcpbundle": "a Final Cut bundle",
    "imovielibrary": "an iMovie bundle",
    "app": "an application",
    "component": "a plug-in",
    "vst3": "a plug-in",
}
_NOT_HERE = "iCloud file not on this disk"
_SF_DATALESS = 0x40000000  # <sys/stat.h> of macOS: reading the file would download it


@dataclass(frozen=True)
class FoundFile:
    """A file to read. `path` is absolute, as `os.fsdecode` gives it: any bytes a name holds survive."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Skipped:
    """Something that was passed over, and why."""

    path: str
    reason: str


def scan(
    paths: Sequence[str | Path], *, bundles: bool = False, download: bool = False
) -> Iterator[FoundFile | Skipped]:
    """Find the audio files under `paths`: folders are walked in byte order of their names, links followed.

    Each file comes once, by the first path that reaches it; hard links are files of their own. Hidden entries
    are passed over in silence; bundles (unless `bundles`, or named in `paths`), files that iCloud keeps
    elsewhere (unless `download`), folders that may not be read, dead links and pipes come as `Skipped`. Never
    raises midway.

    Raises:
        AskedWronglyError: at once, when one of `paths` does not exist.
    """
    roots = [os.path.abspath(os.fspath(path)) for path in paths]
    missing = [root for root in roots if _missing(root)]
    if missing:
        raise AskedWronglyError(f"no such file or folder: {', '.join(missing)}. Check the spelling and the disk.")
    return _walk(roots, bundles, download)


def permission_remedy() -> str:
    """What to do about a folder or file the system denies."""
    if sys.platform == "darwin":
        return (
            "Allow your terminal in System Settings > Privacy & Security > Files and Folders"
            " (or Full Disk Access), then run again."
        )
    return "Give your user the right to read it (chmod, chown), then run again."


def is_elsewhere(status: os.stat_result) -> bool:
    """Whether macOS holds only a placeholder of this file or folder, so that reading it would download it."""
    return bool(getattr(status, "st_flags", 0) & _SF_DATALESS)


def _walk(roots: list[str], bundles: bool, download: bool) -> Iterator[FoundFile | Skipped]:
    named = set(roots)
    seen: set[int | str] = set()
    pending = roots[::-1]  # a stack: folders nest deeper than Python recurses
    while pending:
        path = pending.pop()
        try:
            status = os.stat(path)
            is_folder = stat.S_ISDIR(status.st_mode)
            identity = _identity(path, status, is_folder)
            if identity in seen:
                continue
            seen.add(identity)
            refusal = _refusal(path, status, bundles or path in named, download)
            if refusal:
                yield Skipped(path, refusal)
            elif is_folder:
                pending += reversed(_children(path))
            else:
                yield FoundFile(path, status.st_size, status.st_mtime_ns)
        except OSError as error:
            yield Skipped(path, _denial(path, error))


def _children(folder: str) -> list[str]:
    """Sub-folders and audio files of a folder, by the bytes of their names."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                # An evicted iCloud file of older systems leaves `.Song.mp3.icloud` behind; `Song.mp3` does
                # not exist.
                evicted = entry.name[1:].removesuffix(".icloud")
                if entry.name.endswith(".icloud") and _is_audio(evicted):
                    names.append(evicted)
            elif _is_audio(entry.name) or _leads_to_folder(entry):
                names.append(entry.name)
    return [os.path.join(folder, name) for name in sorted(names, key=os.fsencode)]


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that goes in a circle
        return False


def _is_audio(name: str) -> bool:
    return os.path.splitext(name)[1][1:].lower() in AUDIO_EXTENSIONS


def _identity(path: str, status: os.stat_result, is_folder: bool) -> int | str:
    """What makes two paths the same thing. Device and inode, unless the file has several names of its own."""
    if status.st_ino == 0 or (status.st_nlink > 1 and not is_folder):
        return os.path.realpath(path)
    return status.st_dev << 64 | status.st_ino


def _refusal(path: str, status: os.stat_result, bundles: bool, download: bool) -> str | None:
    if is_elsewhere(status) and not download:
        return _NOT_HERE
    if stat.S_ISDIR(status.st_mode):
        kind = BUNDLES.get(os.path.splitext(path)[1][1:].lower())
        return None if bundles else kind
    return None if stat.S_ISREG(status.st_mode) else "a pipe, socket or device, not a file"


def _denial(path: str, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"permission denied ({permission_remedy()})"
    if isinstance(error, FileNotFoundError):
        if os.path.islink(path):
            return "a link to nothing"
        folder, name = os.path.split(path)
        return _NOT_HERE if os.path.lexists(os.path.join(folder, f".{name}.icloud")) else "gone while looking"
    return str(error.strerror)


def _missing(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return True
    except OSError:  # there, but not for us: said when it is walked
        return False
    return False
