"""Every way a file can be broken, or be no sound at all: used as far as it goes, or refused in words."""

import os
import socket
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from mlx_clap_engine.decode import AudioStream, open_audio, read_recording_id
from mlx_clap_engine.errors import DecodeError
from sounds import make_sound, make_video, synthesise, write_sound


def decode(path: Path) -> tuple[NDArray[np.float32], AudioStream]:
    with open_audio(path) as stream:
        blocks = list(stream.blocks())
    assert all(block.dtype == np.float32 and block.ndim == 1 for block in blocks)
    return np.concatenate(blocks), stream


@pytest.mark.parametrize("extension", ["wav", "aiff", "flac", "mp3", "ogg", "opus", "wma", "wv", "aac", "mka"])
def test_half_a_file_gives_half_the_sound(tmp_path: Path, extension: str) -> None:
    whole = make_sound(tmp_path / f"x.{extension}", 12.0, "noise")
    cut = tmp_path / f"cut.{extension}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2 + 5])
    samples, stream = decode(cut)
    assert stream.duration_s == pytest.approx(6.0, abs=1.2)
    assert len(samples) == pytest.approx(stream.duration_s * 48_000, abs=1)


@pytest.mark.parametrize("extension", ["flac", "mp3", "aiff"])
def test_a_truncated_file_says_so_where_its_header_states_a_length(tmp_path: Path, extension: str) -> None:
    whole = make_sound(tmp_path / f"x.{extension}", 12.0, "noise")
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    _, stream = decode(whole)
    assert stream.warning is not None and "of the 12.0 s its header states" in stream.warning


@pytest.mark.parametrize("extension", ["mp3", "m4a"])
def test_corrupt_packets_are_skipped_and_counted(tmp_path: Path, extension: str) -> None:
    path = make_sound(tmp_path / f"x.{extension}", 12.0, "noise")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(data)
    _, stream = decode(path)
    assert stream.duration_s == pytest.approx(12.0, abs=0.5)
    assert stream.warning is not None and "corrupt packet(s) skipped" in stream.warning


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3", "ogg", "m4a", "aac", "wma", "xyz"])
@pytest.mark.parametrize("content", ["text", "noise", "zeros", "header"])
def test_what_holds_no_sound_is_refused_with_both_reasons(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], extension: str, content: str
) -> None:
    contents = {
        "text": b"This is a letter, not a song. " * 500,
        "noise": np.random.default_rng(1).bytes(300_000),
        "zeros": bytes(100_000),
        "header": b"RIFF\xff\xff\xff\xffWAVEfmt ",
    }
    path = tmp_path / f"x.{extension}"
    path.write_bytes(contents[content])
    with pytest.raises(DecodeError) as refusal:
        decode(path)
    message = str(refusal.value)
    assert str(path) in message and "FFmpeg: " in message and "libsndfile: " in message
    assert capfd.readouterr() == ("", "")  # neither library may write to the terminal


@pytest.mark.parametrize("rate", [0, 1, 500, 2**31 - 1, 2**32 - 1])
def test_an_absurd_sample_rate_is_refused(tmp_path: Path, rate: int) -> None:
    path = make_sound(tmp_path / "x.wav", 0.5)
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", rate)
    path.write_bytes(data)
    with pytest.raises(DecodeError):
        decode(path)


def test_an_absurd_length_in_the_header_is_only_a_warning(tmp_path: Path) -> None:
    path = make_sound(tmp_path / "x.flac", 1.0)
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F  # the top bits of STREAMINFO's sample count: 17 days
    path.write_bytes(data)
    _, stream = decode(path)
    assert stream.duration_s == 1.0
    assert stream.warning is not None and stream.warning.startswith("truncated: 1.0 s of the 14608")


def test_samples_that_are_no_number_become_silence_and_are_told(tmp_path: Path) -> None:
    samples = synthesise(1.0, "tone", rate=48_000)
    samples[100, 0], samples[200, 1], samples[300], samples[400, 0] = np.nan, np.inf, (np.inf, -np.inf), 3e38
    decoded, stream = decode(write_sound(tmp_path / "x.wav", samples, 48_000, codec="pcm_f32le"))
    assert not decoded[[100, 200, 300, 400]].any()
    assert np.isfinite(decoded).all() and decoded[101] == samples[101].mean()
    assert stream.warning == "4 sample(s) that are no finite number taken as silence"


def test_a_purchase_under_drm_is_named_as_such(tmp_path: Path) -> None:
    song = make_sound(tmp_path / "x.m4a", 1.0).read_bytes()
    assert song.count(b"mp4a") == 1
    (tmp_path / "x.m4p").write_bytes(song.replace(b"mp4a", b"drms"))
    with pytest.raises(DecodeError, match="DRM-protected"):
        open_audio(tmp_path / "x.m4p")


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_a_video_without_sound_is_refused(tmp_path: Path, container: str) -> None:
    with pytest.raises(DecodeError, match="holds no audio"):
        open_audio(make_video(tmp_path / f"x.{container}", 0.5, sound=False))


@pytest.mark.parametrize(
    "playlist",
    ["#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nx.wav\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile x.wav\n"],
)
def test_a_playlist_in_disguise_opens_nothing(tmp_path: Path, playlist: str) -> None:
    make_sound(tmp_path / "x.wav", 1.0)
    (tmp_path / "list.mp3").write_text(playlist)
    with pytest.raises(DecodeError):
        open_audio(tmp_path / "list.mp3")


def test_what_ffmpeg_refuses_is_tried_with_libsndfile(tmp_path: Path) -> None:
    path = tmp_path / "x.pvf"
    original = synthesise(1.5, "noise", rate=48_000)
    soundfile.write(path, original, 48_000, format="PVF", subtype="PCM_16")
    samples, stream = decode(path)
    assert (stream.info.codec, stream.info.channels, stream.duration_s) == ("pcm_16", 2, 1.5)
    np.testing.assert_allclose(samples, original.mean(axis=1), atol=2**-15)


def test_only_regular_files_with_something_in_them_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "empty.wav").touch()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket.wav"))
        for name, words in {
            "pipe.wav": "pipe, socket or device",
            "socket.wav": "pipe, socket or device",
            "/dev/zero": "pipe, socket or device",
            ".": "is a folder",
            "empty.wav": "empty file",
            "gone.wav": "not there any more",
            "nul\0.wav": "cannot be read",
        }.items():
            with pytest.raises(DecodeError, match=words):
                open_audio(tmp_path / name)


def test_a_file_that_goes_away_in_the_middle_is_not_taken_for_a_truncated_one(tmp_path: Path) -> None:
    path = make_sound(tmp_path / "x.flac", 12.0, "noise")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_audio(path) as stream:
        path.unlink()
        with pytest.raises(DecodeError, match="not there any more"):
            list(stream.blocks())


def test_names_of_any_bytes_open(tmp_path: Path) -> None:
    sound = make_sound(tmp_path / "x.wav", 0.2).read_bytes()
    for name in [b"caf\xc3\xa9.wav", b"cafe\xcc\x81.wav", b"latin \xe9.wav", b"concat:x.wav", b"%03d new\nline.wav"]:
        path = os.path.join(os.fsencode(tmp_path), name)
        try:
            Path(os.fsdecode(path)).write_bytes(sound)
        except OSError:  # a file system that takes UTF-8 only
            continue
        assert read_recording_id(os.fsdecode(path)) == read_recording_id(tmp_path / "x.wav")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="another user's file is made by root")
def test_a_file_one_may_not_read_says_what_to_do(tmp_path: Path) -> None:
    path = make_sound(tmp_path / "x.wav", 0.2)
    path.chmod(0)
    script = "import os, sys; from mlx_clap_engine.decode import open_audio; os.setuid(65534); open_audio(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert "DecodeError" in done.stderr and "permission denied. Give your user the right" in done.stderr


def test_any_flipped_bytes_end_in_sound_or_a_decode_error(tmp_path: Path) -> None:
    """In a process of its own: a decoder that crashes must fail this test, not end the run."""
    for extension in ("wav", "aiff", "flac", "mp3", "ogg", "opus", "m4a", "wma", "caf", "wv"):
        make_sound(tmp_path / f"x.{extension}", 0.7)
    script = textwrap.dedent("""
        import pathlib, sys
        import numpy as np
        from mlx_clap_engine.decode import open_audio
        from mlx_clap_engine.errors import DecodeError
        rng = np.random.default_rng(7)
        good = bad = 0
        for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            data = path.read_bytes()
            for trial in range(25):
                damaged = np.frombuffer(data, np.uint8).copy()
                reach = min(len(damaged), 400) if trial % 2 else len(damaged)
                where = rng.integers(0, reach, 1 + trial)
                damaged[where] = rng.integers(0, 256, len(where))
                target = path.with_name("damaged" + path.suffix)
                target.write_bytes(damaged.tobytes())
                try:
                    with open_audio(target) as stream:
                        assert all(np.isfinite(block).all() for block in stream.blocks())
                    good += 1
                except DecodeError:
                    bad += 1
                target.unlink()
        print(good > 50 and bad > 50, good + bad)
    """)
    done = subprocess.run([sys.executable, "-W", "error", "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True 250\n", "")
