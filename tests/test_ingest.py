"""Files -> tables, as a person runs it: again, after edits, with broken files, interrupted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mlx_clap.clap import Clap
from mlx_clap_engine.cli import main
from mlx_clap_engine.ingest import Ingest
from mlx_clap_engine.store.library import Store
from sounds import make_sound, retag

pytestmark = pytest.mark.usefixtures("models")


@pytest.fixture
def library(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXCLAP_LIBRARY", str(tmp_path / "library"))
    return tmp_path / "library"


def ingest(*args, code=0):
    result = CliRunner().invoke(main, ["ingest", "--json", *map(str, args)])
    assert result.exit_code == code, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    return rows[-1], rows[:-1]


def windows(library, space=None):
    store = Store.open(library)
    space = space or store.default_space().space
    rows = [row for batch, _ in store.stream_windows(space, include_silent=True) for row in batch.to_pylist()]
    return sorted(rows, key=lambda row: (row["recording_id"], row["index"]))


def test_a_folder_of_every_common_format_becomes_recordings(tmp_path, library):
    for i, kind in enumerate(["wav", "aiff", "flac", "mp3", "ogg", "opus", "m4a", "aac", "wma", "mp4", "mkv"]):
        make_sound(tmp_path / "music" / f"{kind}.{kind}", 2.0, "noise", seed=i)
    summary, other = ingest(tmp_path / "music")
    assert (summary["embedded"], summary["failed"], other) == (11, 0, [])
    counts = Store.open(library).counts()
    assert (counts.files, counts.recordings) == (11, 11)


def test_running_again_does_nothing(tmp_path, library):
    make_sound(tmp_path / "a.wav", 2.0)
    ingest(tmp_path)
    before = windows(library)
    summary, _ = ingest(tmp_path)
    assert (summary["embedded"], summary["known"], summary["unchanged"]) == (0, 0, 1)
    assert windows(library) == before


def test_windows_cover_the_whole_sound_and_the_last_ends_with_it(tmp_path, library):
    make_sound(tmp_path / "long.wav", 26.0, rate=48_000)
    make_sound(tmp_path / "short.wav", 3.0, seed=1, rate=48_000)
    ingest(tmp_path)
    spans = sorted((row["start_s"], row["end_s"]) for row in windows(library))
    assert spans == [(0.0, 3.0), (0.0, 10.0), (10.0, 20.0), (16.0, 26.0)]


def test_a_finer_hop_gives_more_windows(tmp_path, library):
    make_sound(tmp_path / "long.wav", 20.0, rate=48_000)
    ingest(tmp_path, "--hop", "5")
    assert [row["start_s"] for row in windows(library)] == [0.0, 5.0, 10.0]


def test_stored_embeddings_are_those_of_the_model(tmp_path, library, models):
    from mlx_clap.audio import repeat_pad
    from mlx_clap_engine.decode import open_audio

    path = make_sound(tmp_path / "a.wav", 4.0, rate=48_000)
    ingest(path)
    with open_audio(path) as stream:
        samples = np.concatenate(list(stream.blocks()))
    clap = Clap.load(models / "small")
    expected = clap.embed_audio(repeat_pad(samples)[None])[0]
    store = Store.open(library)
    [(_, stored)] = list(store.stream_means(clap.space))
    assert np.abs(stored[0] - expected).max() < 1e-6


def test_the_same_sound_in_three_lossless_formats_is_one_recording(tmp_path, library):
    for kind in ("wav", "flac", "aiff"):
        make_sound(tmp_path / f"a.{kind}", 3.0, seed=5)
    summary, _ = ingest(tmp_path)
    assert (summary["embedded"], summary["known"]) == (1, 2)
    store = Store.open(library)
    [paths] = store.paths_by_recording().values()
    assert len(paths) == 3
    assert len(windows(library)) == 1


def test_a_long_sound_in_two_formats_is_stored_once(tmp_path, library):
    for kind in ("wav", "flac"):
        make_sound(tmp_path / f"a.{kind}", 330.0, seed=5, rate=8000, channels=1)
    summary, _ = ingest(tmp_path)
    assert (summary["embedded"], summary["known"]) == (1, 1)
    assert len(windows(library)) == 33


def test_a_byte_for_byte_copy_is_known(tmp_path, library):
    first = make_sound(tmp_path / "a.mp3", 3.0)
    shutil.copy(first, tmp_path / "b.mp3")
    summary, _ = ingest(tmp_path)
    assert (summary["embedded"], summary["known"]) == (1, 1)
    shutil.copy(first, tmp_path / "c.mp3")
    summary, _ = ingest(tmp_path)
    assert (summary["embedded"], summary["known"], summary["unchanged"]) == (0, 1, 2)


def test_a_retagged_file_keeps_its_recording_and_shows_the_new_tags(tmp_path, library):
    path = make_sound(tmp_path / "a.mp3", 3.0, tags={"title": "Old", "artist": "Somebody"})
    ingest(path)
    before = windows(library)
    edited = retag(path, tmp_path / "edited.mp3", {"title": "New"})
    os.replace(edited, path)
    os.utime(path, (1, 1))
    summary, _ = ingest(path)
    assert (summary["embedded"], summary["known"]) == (0, 1)
    [row] = Store.open(library).recordings().to_pylist()
    assert row["title"] == "New"
    assert windows(library) == before


def test_a_file_renamed_and_retagged_at_once_shows_the_new_tags(tmp_path, library):
    """As Music.app and Picard do it: a new title is a new file name."""
    path = make_sound(tmp_path / "Old.flac", 3.0, tags={"title": "Old"})
    ingest(tmp_path)
    retag(path, tmp_path / "New.flac", {"title": "New"})
    path.unlink()
    summary, _ = ingest(tmp_path)
    assert (summary["embedded"], summary["known"]) == (0, 1)
    [row] = Store.open(library).recordings().to_pylist()
    assert row["title"] == "New"


def test_another_file_of_a_sound_only_fills_gaps_in_its_tags(tmp_path, library):
    make_sound(tmp_path / "a.flac", 3.0, tags={"title": "Right"})
    ingest(tmp_path)
    make_sound(tmp_path / "b.flac", 3.0, tags={"title": "Wrong", "artist": "Somebody"})
    ingest(tmp_path)
    [row] = Store.open(library).recordings().to_pylist()
    assert (row["title"], row["artist"]) == ("Right", "Somebody")


@pytest.mark.parametrize("hop", ["0", "0.00001", "11", "nan"])
def test_a_hop_that_makes_no_sense_is_a_wrong_question_and_blames_no_file(tmp_path, library, hop):
    make_sound(tmp_path / "a.wav", 2.0)
    result = CliRunner().invoke(main, ["ingest", "--hop", hop, str(tmp_path / "a.wav")])
    assert result.exit_code == 2 and "hop" in result.stderr
    assert Store.open(library).counts().failures == 0


def test_a_moved_file_is_recognised_and_its_old_path_forgotten(tmp_path, library):
    path = make_sound(tmp_path / "old" / "a.flac", 3.0)
    ingest(tmp_path)
    (tmp_path / "new").mkdir()
    path.rename(tmp_path / "new" / "b.flac")
    summary, _ = ingest(tmp_path)
    assert (summary["embedded"], summary["known"]) == (0, 1)
    assert list(Store.open(library).paths_by_recording().values()) == [[str(tmp_path / "new" / "b.flac")]]


def test_a_changed_sound_under_the_same_path_is_a_new_recording(tmp_path, library):
    path = make_sound(tmp_path / "a.wav", 3.0, seed=1)
    ingest(path)
    [old] = Store.open(library).paths_by_recording()
    make_sound(path, 4.0, seed=2)
    summary, _ = ingest(path)
    assert summary["embedded"] == 1
    paths = Store.open(library).paths_by_recording()
    assert list(paths.values()) == [[str(path)]]
    assert old not in paths


def test_broken_files_are_noted_and_stop_nothing(tmp_path, library):
    make_sound(tmp_path / "good.wav", 2.0)
    (tmp_path / "text.mp3").write_text("this is no music")
    (tmp_path / "empty.flac").write_bytes(b"")
    shutil.copy(tmp_path / "text.mp3", tmp_path / "copy of text.mp3")
    summary, rows = ingest(tmp_path)
    assert (summary["embedded"], summary["failed"]) == (1, 3)
    assert {Path(row["path"]).name for row in rows if row["event"] == "failed"} == {
        "text.mp3",
        "empty.flac",
        "copy of text.mp3",
    }
    assert all(row["path"] in row["reason"] for row in rows)
    again, _ = ingest(tmp_path)
    assert (again["failed"], again["failed_before"], again["unchanged"]) == (0, 3, 1)
    retried, _ = ingest(tmp_path, "--retry-failed", "--strict", code=1)
    assert retried["failed"] == 3


def test_a_repaired_file_leaves_the_failures(tmp_path, library):
    path = tmp_path / "a.wav"
    path.write_text("nothing")
    ingest(path)
    assert Store.open(library).counts().failures == 1
    make_sound(path, 2.0)
    summary, _ = ingest(path)
    assert summary["embedded"] == 1
    assert Store.open(library).counts().failures == 0


def test_silence_is_kept_flagged_and_left_out_of_answers(tmp_path, library):
    make_sound(tmp_path / "silent.wav", 2.0, "silence")
    make_sound(tmp_path / "tone.wav", 2.0)
    summary, _ = ingest(tmp_path)
    assert (summary["embedded"], summary["silent"]) == (2, 1)
    store = Store.open(library)
    assert sum(len(vectors) for _, vectors in store.stream_means(store.default_space().space)) == 1
    assert ingest(tmp_path)[0]["unchanged"] == 2


def test_a_name_that_is_not_utf8_survives(tmp_path, library):
    make_sound(tmp_path / "a.wav", 2.0)
    odd = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    os.rename(tmp_path / "a.wav", odd)
    summary, _ = ingest(tmp_path)
    assert summary["embedded"] == 1
    [[path]] = Store.open(library).paths_by_recording().values()
    assert os.fsencode(path) == odd
    assert ingest(tmp_path)[0]["unchanged"] == 1


def test_a_broken_file_whose_name_is_not_utf8_is_noted_like_any_other(tmp_path, library):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.wav", "wb") as file:
        file.write(b"no sound")
    make_sound(tmp_path / "good.wav", 2.0)
    summary, _ = ingest(tmp_path)
    assert (summary["embedded"], summary["failed"]) == (1, 1)
    assert ingest(tmp_path)[0]["failed_before"] == 1


def test_paths_may_come_on_stdin(tmp_path, library):
    path = make_sound(tmp_path / "a.wav", 2.0)
    result = CliRunner().invoke(main, ["ingest", "--json", "-"], input=f"{path}\n")
    assert json.loads(result.stdout)["embedded"] == 1


def test_a_second_model_adds_a_space_and_shares_the_files(tmp_path, library, models):
    from small_model import small_model

    small_model(models, "other", seed=7)
    try:
        make_sound(tmp_path / "sounds" / "a.wav", 2.0)
        ingest("--model", "small", tmp_path / "sounds")
        summary, _ = ingest("--model", "other", tmp_path / "sounds")
        assert summary["embedded"] == 1
        store = Store.open(library)
        assert [info.model for info in store.spaces()] == ["small", "other"]
        assert store.default_space().model == "small"
        assert (store.counts().files, store.counts().recordings) == (1, 1)
        # Without --model the library's own model is used, though two are installed.
        assert ingest(tmp_path / "sounds")[0]["unchanged"] == 1
    finally:
        shutil.rmtree(models / "other")


def test_without_a_model_the_error_names_convert_and_its_size(tmp_path, library, monkeypatch):
    monkeypatch.setenv("MLXCLAP_MODELS", str(tmp_path / "none"))
    make_sound(tmp_path / "a.wav", 1.0)
    result = CliRunner().invoke(main, ["ingest", str(tmp_path / "a.wav")])
    assert result.exit_code == 1
    assert "mlxclap convert" in result.stderr and "776 MB" in result.stderr
    assert not library.exists()


def test_a_folder_of_other_things_never_becomes_a_library(tmp_path):
    make_sound(tmp_path / "Music" / "a.wav", 1.0)
    folder = str(tmp_path / "Music")
    result = CliRunner().invoke(main, ["ingest", "--library", folder, folder])
    assert result.exit_code == 1 and "not a library" in result.stderr
    assert os.listdir(folder) == ["a.wav"]


def test_a_path_that_is_not_there_is_a_wrong_question(library):
    result = CliRunner().invoke(main, ["ingest", "/no/such/folder"])
    assert result.exit_code == 2
    assert "/no/such/folder" in result.stderr


def test_a_library_in_use_is_not_written_to_by_another(tmp_path, library):
    path = make_sound(tmp_path / "a.wav", 1.0)
    ingest(path)
    with Store.open(library).writer():
        result = CliRunner().invoke(main, ["ingest", str(path)])
    assert result.exit_code == 1
    assert str(os.getpid()) in result.stderr


def start(folder: Path, library: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "mlx_clap_engine.cli", "ingest", "--json", "--workers", "1", *options, str(folder)]
    environment = os.environ | {"MLXCLAP_LIBRARY": str(library)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)


def many_sounds(folder: Path) -> None:
    for i in range(30):
        make_sound(folder / f"{i:02}.wav", 40.0, "noise", seed=i, rate=16_000, channels=1)


def test_ctrl_c_finishes_what_is_in_flight_and_the_next_run_goes_on(tmp_path, library):
    many_sounds(tmp_path / "sounds")
    process = start(tmp_path / "sounds", library)
    deadline = time.monotonic() + 60
    while not (library / "spaces.lance").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    summary = json.loads(out.splitlines()[-1])
    assert process.returncode == 130, err
    assert summary["interrupted"] and summary["left"] > 0
    assert "stopping" in err
    done = len(Store.open(library).paths_by_recording())
    assert done == summary["embedded"]
    rest, _ = ingest(tmp_path / "sounds")
    assert (rest["unchanged"], rest["embedded"]) == (done, 30 - done)
    assert len(windows(library)) == 30 * 4


def test_a_kill_loses_no_committed_recording_and_leaves_no_half_one(tmp_path, library):
    many_sounds(tmp_path / "sounds")
    ingest(tmp_path / "sounds" / "00.wav")
    committed = windows(library)
    for delay in (0.3, 1.0):
        process = start(tmp_path / "sounds", library)
        time.sleep(1.5 + delay)
        process.kill()
        process.communicate()
        store = Store.open(library)
        assert {row["recording_id"] for row in committed} <= set(store.embedded_ids(store.default_space().space))
    ingest(tmp_path / "sounds")
    rows = windows(library)
    assert len(rows) == 30 * 4
    assert len({(row["recording_id"], row["index"]) for row in rows}) == 30 * 4


def test_watching_takes_in_what_is_added_until_ctrl_c(tmp_path, library):
    make_sound(tmp_path / "sounds" / "first.wav", 2.0, seed=1)
    process = start(tmp_path / "sounds", library, "--watch")
    lines = [process.stdout.readline()]
    make_sound(tmp_path / "sounds" / "second.wav", 2.0, "noise", seed=2)
    lines.append(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert [json.loads(line)["embedded"] for line in lines] == [1, 1]
    assert Store.open(library).counts().recordings == 2


def test_the_summary_says_where_the_time_went(tmp_path, library, models):
    make_sound(tmp_path / "a.wav", 2.0)
    seen = []
    summary = Ingest(Store.open(library, create=True), Clap.load(models / "small")).run(
        [tmp_path / "a.wav"], lambda progress: seen.append(progress.files_done)
    )
    assert set(summary.stages) == {"scan", "decode", "embed", "write", "wait"}
    assert summary.stages["embed"] > 0 and summary.stages["decode"] > 0
    assert seen[-1] == 1


def test_a_full_disk_says_so_and_loses_nothing(tmp_path, library, monkeypatch):
    """A real small file system, filled up before the second recording."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        monkeypatch.setenv("MLXCLAP_LIBRARY", str(disk / "library"))
        make_sound(tmp_path / "sounds" / "first.wav", 15.0, "noise", seed=99, rate=16_000, channels=1)
        ingest(tmp_path / "sounds")
        make_sound(tmp_path / "sounds" / "long.wav", 400.0, rate=1000, channels=1)  # 40 windows, 80 kB
        room = os.statvfs(disk)
        (disk / "filler").write_bytes(b"\0" * (room.f_bavail * room.f_frsize - 49_152))
        result = CliRunner().invoke(main, ["ingest", str(tmp_path / "sounds")])
        assert result.exit_code == 1
        assert "full" in result.stderr and "earlier write" not in result.stderr
        (disk / "filler").unlink()
        assert len(windows(disk / "library")) == 2
    finally:
        subprocess.run(["umount", str(disk)], check=False)
