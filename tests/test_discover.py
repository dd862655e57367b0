"""Paths -> audio files: what is found, in which order, what is passed over and why."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from mlx_clap.errors import AskedWronglyError
from mlx_clap_engine.discover import FoundFile, Skipped, is_elsewhere, scan


def plant(root: Path, *names: str) -> None:
    """Make files (of a few bytes, nobody opens them), with the folders they need."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"sound")


def found(root: Path, *paths: Path, bundles: bool = False) -> list[str]:
    """The paths of the files found under `paths` (or `root`), relative to `root`."""
    files = scan(paths or [root], bundles=bundles)
    return [os.path.relpath(item.path, root) for item in files if isinstance(item, FoundFile)]


def skipped(*paths: Path) -> dict[str, str]:
    return {os.path.basename(item.path): item.reason for item in scan(paths) if isinstance(item, Skipped)}


def test_audio_files_come_with_absolute_path_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "music/a.mp3")
    os.utime(tmp_path / "music/a.mp3", ns=(0, 1_234_567_890_123_456_789))
    monkeypatch.chdir(tmp_path)
    expected = FoundFile(str(tmp_path / "music/a.mp3"), 5, 1_234_567_890_123_456_789)
    assert list(scan(["music"])) == [expected]
    assert list(scan([Path("music/../music/a.mp3")])) == [expected]


def test_folders_are_walked_in_byte_order(tmp_path: Path) -> None:
    plant(tmp_path, "b/2.wav", "b/1.wav", "B.wav", "a.wav", "é.wav", "b.wav", "b/c/3.wav", "z.wav")
    expected = ["B.wav", "a.wav", "b/1.wav", "b/2.wav", "b/c/3.wav", "b.wav", "z.wav", "é.wav"]
    assert found(tmp_path) == expected
    assert found(tmp_path) == expected


def test_audio_is_known_by_extension_in_any_case(tmp_path: Path) -> None:
    yes = "a.wav b.AIFF c.Flac d.mp3 e.ogg f.opus g.m4a h.m4p i.aac j.wma k.mp4 l.mkv m.webm n.caf o.w64 p.au".split()
    no = "a.txt b.jpg c.wav.part d.pdf e.asd f.cue g wav h.midi .wav".split()
    plant(tmp_path, *yes, *no)
    assert found(tmp_path) == sorted(yes)


def test_a_file_named_itself_is_taken_whatever_its_extension(tmp_path: Path) -> None:
    plant(tmp_path, "voice.memo", ".hidden.wav")
    assert found(tmp_path, tmp_path / "voice.memo", tmp_path / ".hidden.wav") == ["voice.memo", ".hidden.wav"]


def test_hidden_files_folders_and_apple_doubles_are_passed_over(tmp_path: Path) -> None:
    plant(tmp_path, "a.wav", "._a.wav", ".b.wav", ".Trash/c.wav", "__MACOSX/._a.wav")
    assert found(tmp_path) == ["a.wav"]
    assert skipped(tmp_path) == {}


def test_a_file_reached_twice_comes_once(tmp_path: Path) -> None:
    plant(tmp_path, "music/album/a.wav", "music/b.wav")
    paths = [tmp_path / "music/b.wav", tmp_path / "music", tmp_path / "music/album", tmp_path / "music"]
    assert found(tmp_path, *paths) == ["music/b.wav", "music/album/a.wav"]


def test_links_are_followed_once_and_circles_end(tmp_path: Path) -> None:
    plant(tmp_path, "disk/x.wav", "disk/y.wav", "music/b.wav")
    (tmp_path / "music/a.wav").symlink_to(tmp_path / "disk/x.wav")
    (tmp_path / "music/c.wav").symlink_to("b.wav")
    (tmp_path / "music/disk").symlink_to(tmp_path / "disk")
    (tmp_path / "music/up").symlink_to(tmp_path / "music")
    (tmp_path / "music/self.wav").symlink_to("self.wav")
    assert found(tmp_path, tmp_path / "music") == ["music/a.wav", "music/b.wav", "music/disk/y.wav"]


def test_hard_links_are_files_of_their_own(tmp_path: Path) -> None:
    plant(tmp_path, "a.wav")
    os.link(tmp_path / "a.wav", tmp_path / "b.wav")
    assert found(tmp_path, tmp_path, tmp_path) == ["a.wav", "b.wav"]


def test_a_dead_link_a_pipe_and_a_socket_are_named(tmp_path: Path) -> None:
    plant(tmp_path, "z.wav")
    (tmp_path / "dead.wav").symlink_to("nowhere.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket.wav"))
        assert skipped(tmp_path) == {
            "dead.wav": "a link to nothing",
            "pipe.wav": "a pipe, socket or device, not a file",
            "socket.wav": "a pipe, socket or device, not a file",
        }
    assert found(tmp_path) == ["z.wav"]


def test_bundles_are_closed_unless_asked_for(tmp_path: Path) -> None:
    plant(tmp_path, "Song.logicx/Media/take.wav", "Jam.BAND/x.aif", "Lib.musiclibrary/y.m4a", "Game.app/z.ogg", "a.wav")
    assert found(tmp_path) == ["a.wav"]
    assert skipped(tmp_path) == {
        "Song.logicx": "a Logic bundle",
        "Jam.BAND": "a GarageBand bundle",
        "Lib.musiclibrary": "a Music library bundle",
        "Game.app": "an application",
    }
    everything = ["Game.app/z.ogg", "Jam.BAND/x.aif", "Lib.musiclibrary/y.m4a", "Song.logicx/Media/take.wav", "a.wav"]
    assert found(tmp_path, bundles=True) == everything
    assert found(tmp_path, tmp_path / "Song.logicx") == ["Song.logicx/Media/take.wav"]
    assert found(tmp_path, tmp_path, tmp_path / "Song.logicx") == ["Song.logicx/Media/take.wav", "a.wav"]


def test_an_evicted_icloud_file_is_named_without_its_stub(tmp_path: Path) -> None:
    plant(tmp_path, ".Song.mp3.icloud", ".Letter.pdf.icloud", "Here.mp3", ".Here.mp3.icloud")
    assert skipped(tmp_path) == {"Song.mp3": "iCloud file not on this disk"}
    assert found(tmp_path) == ["Here.mp3"]


def test_a_dataless_file_is_known_by_its_flag() -> None:
    def status(**fields: int) -> os.stat_result:
        return cast(os.stat_result, SimpleNamespace(**fields))

    assert is_elsewhere(status(st_flags=0x40000000 | 0x20))
    assert not is_elsewhere(status(st_flags=0x20))
    assert not is_elsewhere(status())  # Linux has no flags


def test_names_keep_their_bytes(tmp_path: Path) -> None:
    names = {b"caf\xc3\xa9.wav", b"cafe\xcc\x81.wav", b"new\nline.wav", b"latin \xe9.wav"}
    for name in set(names):
        try:
            Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(b"sound")
        except OSError:  # a file system that takes UTF-8 only, or one form of it
            names.discard(name)
    files = [item for item in scan([tmp_path]) if isinstance(item, FoundFile)]
    assert {os.path.basename(os.fsencode(file.path)) for file in files} == names


def test_a_missing_path_is_refused_before_anything_is_walked(tmp_path: Path) -> None:
    plant(tmp_path, "a.wav")
    with pytest.raises(AskedWronglyError, match=r"no such file or folder: .*/gone, .*/a.wav/b"):
        scan([tmp_path, tmp_path / "gone", tmp_path / "a.wav" / "b"])


def test_folders_nest_deeper_than_python_recurses(tmp_path: Path) -> None:
    start = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(sys.getrecursionlimit() + 50):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(start)
    plant(tmp_path, "e.wav")
    assert found(tmp_path) == ["e.wav"]


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's folder is made by root")
def test_a_denied_folder_is_named_and_the_rest_found() -> None:
    script = (
        "import os, sys; from mlx_clap_engine.discover import scan;"
        "os.setuid(65534); print(*scan(sys.argv[1:]), sep='\\n')"
    )
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder is closed to other users
        root = Path(name)
        plant(root, "closed/a.wav", "open/b.wav", "open/locked/c.wav")
        root.chmod(0o755)
        (root / "closed").chmod(0o700)
        (root / "open/locked").chmod(0)
        command = [sys.executable, "-c", script, str(root / "closed"), str(root / "open"), str(root / "closed/a.wav")]
        done = subprocess.run(command, capture_output=True, text=True)
        closed, file, locked, below = done.stdout.splitlines()
    assert done.stderr == ""
    assert file.startswith(f"FoundFile(path='{root}/open/b.wav'")
    for line, path in ((closed, "closed"), (locked, "open/locked"), (below, "closed/a.wav")):
        assert line.startswith(f"Skipped(path='{root}/{path}', reason='permission denied (Give your user the right")
