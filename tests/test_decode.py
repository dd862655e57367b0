"""Files of sound -> mono 48 kHz blocks: every format, what comes out, and what identifies it."""

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
from sounds import CODECS, make_sound, make_video, retag, synthesise, write_sound

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
