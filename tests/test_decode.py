"""Files of sound -> mono 48 kHz blocks: every format, its tags, its identity, and every way a file can be broken."""

import os
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from mlx_clap_engine.decode import AudioStream, open_audio, read_recording_id
from mlx_clap_engine.decode import hash_file as hash_of
from mlx_clap_engine.errors import DecodeError
from mlx_clap_engine.tags import Tags, read_tags
from sounds import CODECS, make_sound, make_video, retag, synthesise, write_sound

TAGS = {
    "title": "Blå tåge 中",
    "artist": "Somebody",
    "album": "An album",
    "album_artist": "Various",
    "genre": "Jazz",
    "date": "1997-05-21",
    "track": "3/12",
    "comment": "Taken on tape",
}
LOSSLESS = ["wav", "rf64", "w64", "aiff", "aifc", "caf", "au", "flac", "wv", "tta", "mka"]
# Encoders of these leave their delay in the file without saying so, or round up to whole frames: seconds allowed.
SLACK_S = {"aac": 0.06, "ac3": 0.05, "m4a": 0.05, "mp4": 0.05, "mkv": 0.05, "wma": 0.06}


def decode(path: Path) -> tuple[NDArray[np.float32], AudioStream]:
    with open_audio(path) as stream:
        blocks = list(stream.blocks())
    assert all(block.dtype == np.float32 and block.ndim == 1 for block in blocks)
    return np.concatenate(blocks), stream


def loudest_hz(samples: NDArray[np.float32]) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * 48_000 / len(samples))


def tone(seconds: float, hz: float, rate: int, channels: int = 1) -> NDArray[np.float32]:
    t = np.arange(round(seconds * rate)) / rate
    return np.repeat(0.5 * np.sin(2 * np.pi * hz * t)[:, None], channels, axis=1).astype(np.float32)


# --- what comes out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", CODECS)
def test_every_format_gives_its_tone_at_48_khz_with_its_length(tmp_path: Path, extension: str) -> None:
    path = write_sound(tmp_path / f"x.{extension}", tone(2.0, 1000.0, 44_100, channels=2), 44_100)
    samples, stream = decode(path)
    assert loudest_hz(samples) == pytest.approx(1000.0, abs=1.0)
    assert np.abs(samples[24_000:72_000]).max() == pytest.approx(0.5, abs=0.03)
    assert stream.duration_s == pytest.approx(2.0, abs=SLACK_S.get(extension, 1e-6))
    assert len(samples) == pytest.approx(stream.duration_s * 48_000, abs=1)
    assert stream.warning is None
    assert stream.info.channels == 2
    assert stream.info.sample_rate == (48_000 if CODECS[extension] == "libopus" else 44_100)


@pytest.mark.parametrize(
    ("name", "codec", "expected"),
    [
        ("x.wav", None, "pcm_s16le"),
        ("x.mp3", None, "mp3"),
        ("x.flac", None, "flac"),
        ("x.ogg", None, "vorbis"),
        ("x.opus", None, "opus"),
        ("x.m4a", None, "aac"),
        ("x.m4a", "alac", "alac"),
        ("x.wma", None, "wmav2"),
    ],
)
def test_the_codec_goes_by_its_usual_name(tmp_path: Path, name: str, codec: str | None, expected: str) -> None:
    with open_audio(make_sound(tmp_path / name, 0.5, codec=codec)) as stream:
        assert stream.info.codec == expected


@pytest.mark.parametrize(
    ("subtype", "step"),
    [("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("PCM_32", 2**-24), ("FLOAT", 0), ("DOUBLE", 2**-24)],
)
def test_wav_of_every_depth_agrees_with_libsndfile(tmp_path: Path, subtype: str, step: float) -> None:
    path = tmp_path / "x.wav"
    original = synthesise(0.5, "noise", rate=48_000, channels=1)
    soundfile.write(path, original, 48_000, subtype=subtype)
    samples, _ = decode(path)
    np.testing.assert_array_equal(samples, soundfile.read(path, dtype="float32")[0])
    assert np.abs(samples - original[:, 0]).max() <= step


def test_48_khz_mono_passes_untouched(tmp_path: Path) -> None:
    original = synthesise(2.5, "noise", rate=48_000, channels=1)
    samples, _ = decode(write_sound(tmp_path / "x.wav", original, 48_000, codec="pcm_f32le"))
    np.testing.assert_array_equal(samples, original[:, 0])


def test_channels_are_averaged_then_resampled_as_one_stream(tmp_path: Path) -> None:
    original = synthesise(3.3, "noise", channels=6)
    samples, stream = decode(write_sound(tmp_path / "x.wav", original, 44_100, codec="pcm_f32le"))
    expected = soxr.resample(original.mean(axis=1), 44_100, 48_000, quality="HQ")
    assert stream.info.channels == 6
    assert len(samples) == len(expected)
    np.testing.assert_allclose(samples, expected, atol=1e-6)  # block seams leave no trace


def test_float_samples_over_full_scale_are_not_clipped(tmp_path: Path) -> None:
    original = 4 * tone(1.0, 440.0, 48_000)
    samples, _ = decode(write_sound(tmp_path / "x.wav", original, 48_000, codec="pcm_f32le"))
    assert np.abs(samples).max() == pytest.approx(2.0, abs=1e-3)


@pytest.mark.parametrize("rate", [5_000, 8_000, 11_025, 22_050, 96_000, 128_000, 192_000])
def test_odd_sample_rates_keep_pitch_and_length(tmp_path: Path, rate: int) -> None:
    samples, stream = decode(write_sound(tmp_path / "x.wav", tone(1.5, 1000.0, rate), rate))
    assert (stream.info.sample_rate, stream.duration_s) == (rate, pytest.approx(1.5, abs=1e-4))
    assert len(samples) == pytest.approx(72_000, abs=3)
    assert loudest_hz(samples) == pytest.approx(1000.0, abs=1.5)


@pytest.mark.parametrize("n", [1, 2, 10, 100])
def test_a_few_samples_are_a_recording_too(tmp_path: Path, n: int) -> None:
    samples, stream = decode(write_sound(tmp_path / "x.wav", tone(1.0, 440.0, 44_100)[:n], 44_100))
    assert len(samples) >= 1
    assert stream.duration_s == n / 44_100


@pytest.mark.parametrize(("name", "slack"), [("x.mp3", 0), ("x.opus", 0), ("x.ogg", 128)])
def test_encoder_delay_is_cut_where_the_file_declares_it(tmp_path: Path, name: str, slack: int) -> None:
    burst = np.zeros((48_000, 1), np.float32)
    burst[24_000:24_480] = tone(0.01, 2000.0, 48_000)
    samples, _ = decode(write_sound(tmp_path / name, burst, 48_000))
    assert abs(len(samples) - 48_000) <= slack
    middle = float(np.average(np.arange(len(samples)), weights=samples.astype(np.float64) ** 2))
    assert middle == pytest.approx(24_240, abs=24 + slack)


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov", "avi"])
def test_the_sound_of_a_video_is_read(tmp_path: Path, container: str) -> None:
    samples, stream = decode(make_video(tmp_path / f"x.{container}", 1.0))
    assert stream.info.codec == "aac"
    assert len(samples) == pytest.approx(48_000, abs=2_500)


def test_blocks_are_about_a_second_and_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(seconds: int) -> int:
        path = make_sound(tmp_path / f"{seconds}.flac", seconds, "silence")
        tracemalloc.start()
        with open_audio(path) as stream:
            longest = max(len(block) for block in stream.blocks())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert longest < 100_000
        return peak

    assert peak(240) < peak(20) + 1_000_000


# --- identity ---------------------------------------------------------------------------------------------------


def test_one_sound_has_one_id_in_every_lossless_format(tmp_path: Path) -> None:
    paths = [make_sound(tmp_path / f"x.{extension}", 1.3, "noise") for extension in LOSSLESS]
    paths.append(make_sound(tmp_path / "alac.m4a", 1.3, "noise", codec="alac"))
    assert len({read_recording_id(path) for path in paths}) == 1


def test_16_bits_stored_as_24_or_float_are_the_same_sound(tmp_path: Path) -> None:
    original = synthesise(0.5, "noise")
    ids = set()
    for codec in ("pcm_s16le", "pcm_s24le", "pcm_f32le"):
        stored = np.round(original * 2**15) / 2**15 + np.float32(0)  # the sum turns -0.0 into 0.0
        ids.add(read_recording_id(write_sound(tmp_path / f"{codec}.wav", stored, 44_100, codec=codec)))
    assert len(ids) == 1


@pytest.mark.parametrize("name", ["x.flac", "x.ogg", "x.opus", "x.m4a", "x.wav"])
def test_the_id_ignores_tags_and_blocks_and_read_recording_id_agree(tmp_path: Path, name: str) -> None:
    path = make_sound(tmp_path / name, 1.0, tags={"title": "one"})
    other = retag(path, tmp_path / f"other{path.suffix}", {"title": "another, longer title"})
    _, stream = decode(path)
    assert hash_of(path) != hash_of(other)
    assert stream.recording_id == read_recording_id(path) == read_recording_id(other)
    assert len(stream.recording_id) == 32 and int(stream.recording_id, 16)


def test_another_sound_rate_or_channel_count_is_another_id(tmp_path: Path) -> None:
    silence = np.zeros((24_000, 2), np.float32)
    paths = [
        write_sound(tmp_path / "a.wav", silence, 48_000),
        write_sound(tmp_path / "b.wav", silence, 24_000),
        write_sound(tmp_path / "c.wav", silence.reshape(-1, 1), 48_000),
        write_sound(tmp_path / "d.wav", silence[:-1], 48_000),
        make_sound(tmp_path / "e.wav", 0.5, rate=48_000),
    ]
    assert len({read_recording_id(path) for path in paths}) == len(paths)


def test_a_stream_is_read_once(tmp_path: Path) -> None:
    with open_audio(make_sound(tmp_path / "x.wav", 0.2)) as stream:
        list(stream.blocks())
        with pytest.raises(RuntimeError, match="once"):
            list(stream.blocks())


def test_hash_file_is_the_sha256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"abc")
    assert hash_of(tmp_path / "x.wav") == "ba7816bf8f01cfea414140de5dae2223"
    with pytest.raises(DecodeError, match="not there"):
        hash_of(tmp_path / "gone.wav")


# --- tags -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.mp3", "x.flac", "x.ogg", "x.opus", "x.aiff", "x.wma", "x.wv", "x.mka"])
def test_tags_are_read_from(tmp_path: Path, name: str) -> None:
    bpm, key = ("TBPM", "TKEY") if name in ("x.mp3", "x.aiff") else ("BPM", "INITIALKEY")
    with open_audio(make_sound(tmp_path / name, 0.3, tags={**TAGS, bpm: "128.5", key: "Am"})) as stream:
        assert stream.info.tags == Tags(
            title="Blå tåge 中",
            artist="Somebody",
            album="An album",
            albumartist="Various",
            genre="Jazz",
            year=1997,
            track="3/12",
            bpm=128.5,
            key="Am",
            comment="Taken on tape",
        )


def test_itunes_tags_and_tempo_are_read_from_m4a(tmp_path: Path) -> None:
    with open_audio(make_sound(tmp_path / "x.m4a", 0.3, tags={**TAGS, "tmpo": "99"})) as stream:
        tags = stream.info.tags
    assert (tags.title, tags.albumartist, tags.year, tags.track) == ("Blå tåge 中", "Various", 1997, "3/12")
    assert tags.bpm == 99.0


def test_info_and_id3_chunks_are_read_from_wav(tmp_path: Path) -> None:
    path = make_sound(tmp_path / "x.wav", 0.3, tags=TAGS)
    with open_audio(path) as stream:
        assert (stream.info.tags.artist, stream.info.tags.year, stream.info.tags.comment) == (
            "Somebody",
            1997,
            "Taken on tape",
        )
    id3 = id3v2(TIT2="A title", TBPM="127", TKEY="Dm", TCON="(7)", TYER="1988")
    plain = make_sound(tmp_path / "plain.wav", 0.3).read_bytes() + b"id3 " + struct.pack("<I", len(id3)) + id3
    (tmp_path / "id3.wav").write_bytes(plain[:4] + struct.pack("<I", len(plain) - 8) + plain[8:])
    with open_audio(tmp_path / "id3.wav") as stream:
        assert stream.info.tags == Tags(title="A title", genre="Hip-Hop", year=1988, bpm=127.0, key="Dm")


def test_an_id3_tag_before_flac_does_no_harm(tmp_path: Path) -> None:
    flac = make_sound(tmp_path / "x.flac", 1.0, tags=TAGS)
    (tmp_path / "y.flac").write_bytes(id3v2(TIT2="in front") + flac.read_bytes())
    samples, stream = decode(tmp_path / "y.flac")
    assert len(samples) == 48_000
    assert stream.recording_id == read_recording_id(flac)


def test_tags_in_no_known_encoding_do_not_stop_the_sound(tmp_path: Path) -> None:
    path = make_sound(tmp_path / "x.flac", 0.3, tags={"artist": "QQQQ"})
    path.write_bytes(path.read_bytes().replace(b"QQQQ", b"\xff\xfe\xc3\x28"))
    with open_audio(path) as stream:
        assert "\ufffd" in (stream.info.tags.artist or "")


@pytest.mark.parametrize(
    ("text", "year"), [("1997-05-21", 1997), ("21/05/2003", 2003), ("0000", None), ("12345", None), ("soon", None)]
)
def test_a_year_is_found_in_a_date(text: str, year: int | None) -> None:
    assert read_tags({"date": text}).year == year


@pytest.mark.parametrize(
    ("text", "bpm"), [("128", 128.0), ("127,5", 127.5), ("90 BPM", 90.0), ("0", None), ("fast", None), ("99999", None)]
)
def test_a_tempo_is_a_number_or_nothing(text: str, bpm: float | None) -> None:
    assert read_tags({"TBPM": text}).bpm == bpm


def test_tags_are_trimmed_cleaned_and_capped() -> None:
    tags = read_tags({"TITLE": "  a\x00b\x1b[31m ", "artist": "å" * 5000, "album": " \x00 ", "comment": "x\udcff"})
    assert tags.title == "ab[31m"
    assert tags.artist == "å" * 2048
    assert tags.album is None
    assert tags.comment == "x?"


def id3v2(**frames: str) -> bytes:
    """An ID3v2.3 tag of text frames."""
    body = b"".join(
        name.encode() + struct.pack(">IH", len(text) + 1, 0) + b"\x00" + text.encode("latin-1")
        for name, text in frames.items()
    )
    body += b"\x00" * (len(body) % 2)
    size = bytes((len(body) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\x00\x00" + size + body


# --- broken files -----------------------------------------------------------------------------------------------


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
    samples = tone(1.0, 440.0, 48_000, channels=2)
    samples[100, 0], samples[200, 1], samples[300], samples[400, 0] = np.nan, np.inf, (np.inf, -np.inf), 3e38
    decoded, stream = decode(write_sound(tmp_path / "x.wav", samples, 48_000, codec="pcm_f32le"))
    assert not decoded[[100, 200, 300, 400]].any()
    assert np.isfinite(decoded).all() and decoded[101] == samples[101, 0]
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


# --- threads ----------------------------------------------------------------------------------------------------


def test_threads_decode_different_files_at_once(tmp_path: Path) -> None:
    names = ["a.mp3", "b.flac", "c.ogg", "d.m4a", "e.opus", "f.wav", "g.wma", "h.aiff"]
    paths = [make_sound(tmp_path / name, 3.0, seed=seed) for seed, name in enumerate(names)]
    alone = [read_recording_id(path) for path in paths]
    together = threading.Barrier(4)

    def read(path: Path) -> str:
        together.wait()
        return decode(path)[1].recording_id

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, paths)) == alone
