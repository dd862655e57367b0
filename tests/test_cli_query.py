"""The commands `query` and `index`, from arguments to what is printed, on real sounds and a real (random) model."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mlx_clap.audio import SAMPLE_RATE, Windower
from mlx_clap.clap import Clap
from mlx_clap_engine.cli import main
from mlx_clap_engine.cli.query import shorten
from mlx_clap_engine.decode import open_audio
from mlx_clap_engine.store import index
from mlx_clap_engine.store.library import Store
from mlx_clap_engine.store.schema import EmbeddedRecording, FileRow, SpaceInfo
from search_samples import ident, make_library, sound
from small_model import small_model
from sounds import make_sound, synthesise, write_sound
from store_samples import recording, unit_vectors

WHEN = datetime(2026, 3, 1, tzinfo=UTC)


def take_in(store: Store, clap: Clap, path: Path, **tags: object) -> str:
    """Put a sound file into a library as ingest does, and return its id."""
    windower = Windower(10 * SAMPLE_RATE)
    with open_audio(path) as stream:
        windows = [window for block in stream.blocks() for window in windower.push(block)]
    windows += windower.finish()
    embedded = EmbeddedRecording(
        stream.recording_id,
        10.0,
        np.array([window.start_s for window in windows]),
        np.array([window.end_s for window in windows]),
        np.array([window.silent for window in windows]),
        clap.embed_audio(np.stack([window.samples for window in windows])),
    )
    with store.writer() as writer:
        writer.add_space(SpaceInfo(clap.space, clap.name, clap.embedding_dim, 10.0, 10.0, False, WHEN))
        writer.commit(
            space=clap.space,
            embedded=[embedded],
            recordings=[recording(stream.recording_id, duration_s=stream.duration_s, codec=stream.info.codec, **tags)],
            files=[FileRow(str(path), stream.recording_id, 1, 1, None, WHEN)],
        )
    return stream.recording_id


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    make_sound(folder / "noise.wav", 25.0, "noise", seed=1)
    make_sound(folder / "noise again.flac", 12.0, "noise", seed=2)
    make_sound(folder / "tone.wav", 5.0, "tone", seed=3)
    make_sound(folder / "chord.flac", 21.0, "chord", seed=4)
    return folder


@pytest.fixture(scope="module")
def library(models: Path, sounds: Path) -> Path:
    path = sounds.parent / f"{sounds.name}-library"
    store, clap = Store.open(path, create=True), Clap.load(models / "small")
    take_in(store, clap, sounds / "noise.wav", title="Hiss", artist="Öl & Co", genre="Noise", bpm=90.0)
    take_in(store, clap, sounds / "noise again.flac", genre="Noise")
    take_in(store, clap, sounds / "tone.wav", genre="Test")
    take_in(store, clap, sounds / "chord.flac", genre="Test")
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def rows(*arguments: object) -> list[dict[str, object]]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_text_is_answered_with_each_recording_s_best_window(library: Path, models: Path) -> None:
    found = rows("query", "--text", "rain on a roof", "--library", library)
    assert list(found[0]) == [
        *("rank", "path", "paths", "recording_id", "similarity", "percentile", "z", "title", "artist", "album"),
        *("genre", "labels", "duration_s", "start_s", "end_s"),
    ]
    assert [row["rank"] for row in found] == [1, 2, 3, 4]
    similarity = {row["path"]: (row["similarity"], row["start_s"]) for row in found}
    clap = Clap.load(models / "small")
    text = clap.embed_text(["rain on a roof"])[0]
    by_recording: dict[str, list[tuple[float, float]]] = {}
    for batch, vectors in Store.open(library).stream_windows(clap.space):
        for row, value in zip(batch.to_pylist(), vectors @ text, strict=True):
            by_recording.setdefault(row["recording_id"], []).append((float(value), row["start_s"]))
    expected = {row["path"]: max(by_recording[str(row["recording_id"])]) for row in found}
    assert similarity == {path: (pytest.approx(value, abs=2e-6), start) for path, (value, start) in expected.items()}


def test_a_sound_file_finds_itself_in_the_library(library: Path, sounds: Path) -> None:
    found = rows("query", "--audio", sounds / "noise.wav", "-k", 2, "--library", library)
    assert [Path(str(row["path"])).name for row in found] == ["noise.wav", "noise again.flac"]
    assert found[0]["similarity"] == pytest.approx(1.0, abs=2e-6)
    assert found[0]["percentile"] == 100.0
    assert "start_s" not in found[0]


def test_silence_in_a_sound_file_does_not_count(models: Path, tmp_path: Path) -> None:
    samples = np.concatenate([synthesise(10.0, "noise"), synthesise(20.0, "silence")])
    half = write_sound(tmp_path / "half.wav", samples, 44_100)
    store = Store.open(tmp_path / "library", create=True)
    take_in(store, Clap.load(models / "small"), half)
    [found] = rows("query", "--audio", half, "--library", store.path)
    assert found["similarity"] == pytest.approx(1.0, abs=2e-6)
    nothing = make_sound(tmp_path / "nothing.wav", 3.0, "silence")
    result = run("query", "--audio", nothing, "--library", store.path)
    assert result.exit_code == 1
    assert "holds only silence" in result.stderr


def test_likeness_and_windows_give_times(library: Path, sounds: Path) -> None:
    found = rows("query", "--like", sounds / "noise.wav", "--windows", "-k", 20, "--library", library)
    assert sorted((r["start_s"], r["end_s"]) for r in found[:2]) == [(0.0, 10.0), (2.0, 12.0)]
    assert {Path(str(r["path"])).name for r in found} == {"noise again.flac", "tone.wav", "chord.flac"}
    assert len(found) == 2 + 1 + 3


def test_what_is_not_wanted_is_pushed_away(library: Path, sounds: Path, models: Path) -> None:
    clap = Clap.load(models / "small")
    text = clap.embed_text(["speech"])[0]
    closeness = {
        recording_id: float(mean @ text)
        for batch, means in Store.open(library).stream_means(clap.space)
        for recording_id, mean in zip(batch["recording_id"].to_pylist(), means, strict=True)
    }
    by_closeness = sorted(closeness, key=closeness.__getitem__)
    wanted = rows("query", "--text", "speech", "--rank", "mean", "--library", library)
    unwanted = rows("query", "--not", "speech", "--library", library)
    assert [row["recording_id"] for row in wanted] == by_closeness[::-1]
    assert [row["recording_id"] for row in unwanted] == by_closeness
    assert [row["similarity"] for row in unwanted] == [pytest.approx(-closeness[i], abs=2e-6) for i in by_closeness]
    # Beside another question it shifts the direction by just its standardised part.
    plain = rows("query", "--like", sounds / "tone.wav", "--library", library)
    mixed = rows("query", "--like", sounds / "tone.wav", "--not", "speech", "--library", library)
    assert {row["recording_id"] for row in mixed} == {row["recording_id"] for row in plain}

    def mean_closeness(found: list[dict[str, object]]) -> float:
        weights = np.array([1.0, 0.5, 0.25])[: len(found)]
        return float(np.average([closeness[str(row["recording_id"])] for row in found], weights=weights))

    assert mean_closeness(mixed) < mean_closeness(plain)


def test_hostile_filters_match_nothing_or_are_refused(library: Path) -> None:
    ask = ["query", "--text", "x", "--library", library]
    assert len(rows(*ask, "--tag", "genre=noise")) == 2
    result = run(*ask, "--tag", "genre=x' OR 1=1 --")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no recording matches the filters" in result.stderr
    for hostile in ("1=1", "genre = x; DROP TABLE recordings", "genre = '' or 1=1 --"):
        result = run(*ask, "--filter", hostile)
        assert result.exit_code == 2, hostile
        assert "Columns: duration_s" in result.stderr
    assert len(rows(*ask)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing was asked"),
        (["--text", "x", "-k", "0"], "at least 1"),
        (["--text", "x", "--windows", "--rank", "best"], "cannot be combined with --rank"),
        (["--text", " "], "is empty"),
        (["--like", "/no/such.wav"], "is not in the library"),
        (["--audio", "/no/such.wav"], "does not exist"),
        (["--text", "x", "--rank", "worst"], "Invalid value"),
        (["--text", "x", "--min-percentile", "200"], "between 0 and 100"),
    ],
)
def test_what_is_asked_wrongly_exits_with_2(library: Path, arguments: list[str], message: str) -> None:
    result = run("query", *arguments, "--library", library)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_library_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    result = run("query", "--text", "x", "--library", tmp_path / "none")
    assert result.exit_code == 1
    assert "mlxclap ingest" in result.stderr


def test_the_model_of_another_space_is_refused(library: Path, tmp_path: Path) -> None:
    other = small_model(tmp_path / "models", "other", seed=1)
    result = run("query", "--text", "x", "--model", other, "--library", library)
    assert result.exit_code == 1
    assert "similarities across spaces mean nothing" in result.stderr


def test_a_text_beyond_the_model_s_limit_is_cut_with_a_warning(library: Path) -> None:
    result = run("query", "--text", "rain " * 200, "-k", 1, "--json", "--library", library)
    assert result.exit_code == 0
    assert "longer than the model's 128 tokens" in result.stderr


def test_people_get_a_table_with_tags_or_file_names(library: Path) -> None:
    result = run("query", "--text", "rain", "--library", library)
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["rank", "similarity", "percentile", "at", "recording", "path"]
    assert len(lines) == 5
    [hiss] = [line for line in lines if "Öl & Co - Hiss" in line]
    assert hiss.endswith("noise.wav")
    assert "..." not in result.stdout, "paths are whole when no terminal reads"
    assert any("  tone  " in line for line in lines)


def test_a_playlist_is_written_beside_the_answers(library: Path, sounds: Path, tmp_path: Path) -> None:
    result = run(
        *("query", "--audio", sounds / "noise.wav", "-k", 2, "--m3u", tmp_path / "list.m3u8", "--library", library)
    )
    assert result.exit_code == 0
    assert "2 recordings written" in result.stderr
    assert (tmp_path / "list.m3u8").read_text().splitlines() == [
        "#EXTM3U",
        "#EXTINF:25,Öl & Co - Hiss",
        str(sounds / "noise.wav"),
        "#EXTINF:12,noise again",
        str(sounds / "noise again.flac"),
    ]


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS file names are Unicode")
def test_a_path_that_is_not_utf8_comes_out_as_it_went_in(models: Path, sounds: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"bad \xff\x1b[2J.wav")
    odd.write_bytes((sounds / "tone.wav").read_bytes())
    store = Store.open(tmp_path / "library", create=True)
    take_in(store, Clap.load(models / "small"), odd)
    command = [sys.executable, "-m", "mlx_clap_engine.cli", "query", "--text", "x", "--library", tmp_path / "library"]
    table = subprocess.run(command, capture_output=True, check=True)
    assert b"bad \xff?[2J.wav" in table.stdout, "bytes survive, a terminal's control characters do not"
    as_json = subprocess.run([*command, "--json"], capture_output=True, check=True)
    assert json.loads(as_json.stdout)["path"] == str(odd)


def test_long_paths_are_shortened_in_the_middle() -> None:
    assert shorten("/music/a.wav", 12) == "/music/a.wav"
    short = shorten("/Users/me/Music/Artist/Album/01 Song.flac", 24)
    assert (len(short), short) == (24, "/Users/...m/01 Song.flac")


def test_a_small_library_needs_no_index(library: Path) -> None:
    result = run("index", "--library", library, "--json")
    assert "windows: 9 rows need no index" in result.stderr
    assert [(row["table"], row["rows"], row["indexed"]) for row in map(json.loads, result.stdout.splitlines())] == [
        ("windows", 9, 0),
        ("means", 4, 0),
    ]
    assert run("index", "--check", "--rebuild", "--library", library).exit_code == 2


def test_an_index_is_built_measured_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "INDEX_FROM", 500)
    store = make_library(tmp_path / "library", [sound(f"r{i}", unit_vectors(10, seed=i)) for i in range(60)])
    built = rows("index", "--library", store.path)
    assert [(row["table"], row["rows"], row["indexed"]) for row in built] == [("windows", 600, 600), ("means", 60, 0)]
    assert isinstance(built[0]["recall_at_10"], float)
    assert built[0]["recall_at_10"] > 0.9
    checked = rows("index", "--check", "--library", store.path)
    assert (checked[0]["indexed"], checked[0]["seconds"]) == (600, None)
    result = run("query", "--like", ident("r3"), "--rank", "best", "-v", "--library", store.path)
    assert "through the index" in result.stderr
    assert "percentiles over 59 recordings" in result.stderr
