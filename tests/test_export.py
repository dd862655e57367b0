"""Exports: that every format gives back the very embeddings, whole or not at all, and never outside its target."""

import json
import os
import resource
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from mlx_clap_engine.cli import main
from mlx_clap_engine.export import file_name, json_line, select, to_json_dir, to_jsonl, to_numpy, to_parquet
from mlx_clap_engine.store.library import Store
from store_samples import DIM, SPACE, embedded, file, label, recording, space_info, unit_vectors


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """`a` (three windows, two paths), `b` (one of four windows silent), `quiet`, and `gone`, whose file is no more."""
    store = Store.open(tmp_path / "library", create=True)
    with store.writer() as writer:
        writer.add_space(space_info())
        writer.commit(
            space=SPACE,
            embedded=[
                embedded("a"),
                embedded("b", 4, silent=(1,)),
                embedded("quiet", silent=(0, 1, 2)),
                embedded("gone"),
            ],
            recordings=[
                recording("a", title="Über", genre="Jazz", year=1959, bpm=120.5),
                recording("b", genre="Rock"),
                recording("quiet", silent=True),
                recording("gone"),
            ],
            files=[
                file("/m/a 1.wav", "a"),
                file("/n/a.flac", "a"),
                file("/m/b\udcff.mp3", "b"),
                file("/m/q.wav", "quiet"),
            ],
        )
        writer.write_labels("mood", "human", [label("a", "calm", "human", "mood")])
    return store


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def means(store: Store) -> dict[str, np.ndarray]:
    return {
        name: vector.copy()
        for batch, vectors in store.stream_means(SPACE)
        for name, vector in zip(batch["recording_id"].to_pylist(), vectors, strict=True)
    }


def test_json_lines_hold_path_tags_labels_and_the_exact_numbers(store: Store, tmp_path: Path) -> None:
    assert to_jsonl(select(store), tmp_path / "out.jsonl") == 2
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == ["/m/a 1.wav", "/m/b\udcff.mp3"]
    first = rows[0]
    assert first["paths"] == ["/m/a 1.wav", "/n/a.flac"]
    assert (first["title"], first["year"], first["bpm"], first["artist"]) == ("Über", 1959, 120.5, None)
    assert (first["duration_s"], first["codec"], first["n_windows"], first["hop_s"]) == (30.0, "flac", 3, 10.0)
    assert (first["space"], first["model"], first["labels"]) == (SPACE, "small", {"mood": ["calm"]})
    stored = means(store)
    for row in rows:
        assert np.array_equal(np.array(row["embedding"], np.float32), stored[row["recording_id"]])


def test_nine_digits_give_back_every_float32() -> None:
    vector = np.concatenate([unit_vectors(50).reshape(-1), np.float32([1e-12, -1.0, 0.0, 3.4e-5])])
    read = json.loads(json_line({"path": "x"}, vector))
    assert np.array_equal(np.array(read["embedding"], np.float32), vector)


def test_windows_come_with_their_times_and_without_the_silent_ones(store: Store, tmp_path: Path) -> None:
    assert to_jsonl(select(store, windows=True), tmp_path / "out.jsonl") == 6
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(r["recording_id"], r["index"], r["start_s"], r["end_s"]) for r in rows] == [
        ("a", 0, 0.0, 10.0),
        ("a", 1, 10.0, 20.0),
        ("a", 2, 20.0, 30.0),
        ("b", 0, 0.0, 10.0),
        ("b", 2, 20.0, 30.0),
        ("b", 3, 30.0, 40.0),
    ]
    assert np.array_equal(np.float32(rows[4]["embedding"]), embedded("b", 4).embeddings[2])


def test_one_json_file_a_recording(store: Store, tmp_path: Path) -> None:
    assert to_json_dir(select(store), tmp_path / "out") == 2
    assert sorted(os.listdir(tmp_path / "out")) == ["a_1-a.json", "b-b.json"]
    row = json.loads((tmp_path / "out" / "a_1-a.json").read_text())
    assert (row["path"], len(row["embedding"])) == ("/m/a 1.wav", DIM)
    assert to_json_dir(select(store, windows=True), tmp_path / "windows") == 6
    assert "b-b-00002.json" in os.listdir(tmp_path / "windows")


def test_parquet_is_read_back_with_the_exact_numbers(store: Store, tmp_path: Path) -> None:
    assert to_parquet(select(store), tmp_path / "out.parquet") == 2
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["path"].to_pylist() == ["/m/a 1.wav", "/m/b\\xff.mp3"]
    assert table["paths"].to_pylist()[0] == ["/m/a 1.wav", "/n/a.flac"]
    assert table["labels"].to_pylist() == ['{"mood": ["calm"]}', "{}"]
    assert (table["year"].to_pylist(), table["bpm"].to_pylist()) == ([1959, None], [120.5, None])
    stored = means(store)
    for name, numbers in zip(table["recording_id"].to_pylist(), table["embedding"].to_pylist(), strict=True):
        assert np.array_equal(np.float32(numbers), stored[name])
    assert to_parquet(select(store, windows=True), tmp_path / "windows.parquet") == 6
    assert pq.read_table(tmp_path / "windows.parquet")["start_s"].to_pylist()[-1] == 30.0


def test_numpy_rows_and_lines_belong_together(store: Store, tmp_path: Path) -> None:
    assert to_numpy(select(store, windows=True), tmp_path / "out") == 6
    matrix = np.load(tmp_path / "out" / "embeddings.npy", mmap_mode="r")
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert (matrix.shape, matrix.dtype, len(rows)) == ((6, DIM), np.float32, 6)
    for vector, row in zip(matrix, rows, strict=True):
        windows = 4 if row["recording_id"] == "b" else 3
        assert np.array_equal(vector, embedded(row["recording_id"], windows).embeddings[row["index"]])


def test_a_selection_of_nothing_is_an_empty_but_valid_file(store: Store, tmp_path: Path) -> None:
    result = run("--numpy", tmp_path / "out", "--tag", "genre=Polka", "--library", store.path)
    assert result.exit_code == 0
    assert "nothing to export" in result.stderr
    assert np.load(tmp_path / "out" / "embeddings.npy").shape == (0, DIM)
    run("--parquet", tmp_path / "out.parquet", "--tag", "genre=Polka", "--library", store.path)
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("/m/../../etc/passwd.wav", "passwd"),
        ("/m/..", "recording"),
        ("/m/.hidden", "hidden"),
        ("/m/a\\b:c*d.wav", "a_b_c_d"),
        ("/m/new\nline \x1b[2J.wav", "new_line_2J"),
        ("/m/bad\udcff\udcfe.wav", "bad"),
        ("/m/....", "recording"),
        ("/m/" + "é" * 120 + ".wav", "é" * 80),
        ("/m/Cafe\u0301.wav", "Caf\u00e9"),
    ],
)
def test_a_file_name_is_safe_whatever_the_recording_s_path(path: str, stem: str) -> None:
    name = file_name({"path": path, "recording_id": "0123456789abcdef0123456789abcdef"})
    assert name == f"{stem}-0123456789ab.json"
    assert os.path.basename(name) == name
    assert len(name.encode()) < 200
    assert unicodedata.is_normalized("NFC", name)


def test_what_is_there_is_kept_unless_told_otherwise(store: Store, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    for option, target in (("--jsonl", "out.jsonl"), ("--json-dir", "folder"), ("--numpy", "folder")):
        result = run(option, tmp_path / target, "--library", store.path)
        assert result.exit_code == 2
        assert "--overwrite" in result.stderr
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    assert run("--jsonl", tmp_path / "out.jsonl", "--overwrite", "--library", store.path).exit_code == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    assert run("--json-dir", tmp_path / "folder", "--overwrite", "--library", store.path).exit_code == 0
    assert sorted(os.listdir(tmp_path / "folder")) == ["a_1-a.json", "b-b.json", "mine.txt"]
    assert sorted(os.listdir(tmp_path)) == ["folder", "library", "out.jsonl"]


def test_an_export_that_fails_leaves_nothing_behind(store: Store, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # bytes a file may have: a real failure of writing
    try:
        results = [run(option, tmp_path / "out", "--library", store.path) for option in ("--jsonl", "--json-dir")]
        results.append(run("--parquet", tmp_path / "out", "--library", store.path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for result in results:
        assert result.exit_code == 1
        assert f"{tmp_path / 'out'} could not be written: File too large" in result.stderr
    assert os.listdir(tmp_path) == ["library"]


def test_json_lines_may_go_to_stdout_and_the_summary_to_stderr(store: Store) -> None:
    result = run("--jsonl", "-", "--tag", "genre=jazz", "--library", store.path)
    assert [json.loads(line)["recording_id"] for line in result.stdout.splitlines()] == ["a"]
    assert result.stderr == "1 means written to stdout\n"
    assert run("--jsonl", "-", "--json", "--library", store.path).exit_code == 2


def test_exactly_one_target_is_needed(store: Store, tmp_path: Path) -> None:
    for arguments in ([], ["--jsonl", tmp_path / "a", "--parquet", tmp_path / "b"]):
        result = run(*arguments, "--library", store.path)
        assert result.exit_code == 2
        assert "exactly one target" in result.stderr


def test_json_says_what_was_written(store: Store, tmp_path: Path) -> None:
    result = run("--parquet", tmp_path / "out.parquet", "--windows", "--json", "--library", store.path)
    assert json.loads(result.stdout) == {
        "target": str(tmp_path / "out.parquet"),
        "rows": 6,
        "of": "windows",
        "space": SPACE,
    }


def test_more_rows_than_a_batch_stay_in_step(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "library", create=True)
    names = [f"{i:05d}" for i in range(2500)]
    with store.writer() as writer:
        writer.add_space(space_info())
        writer.commit(
            space=SPACE,
            embedded=[embedded(name, 1) for name in names],
            recordings=[recording(name, title=f"T{name}") for name in names],
            files=[file(f"/m/{name}.wav", name) for name in names],
        )
    counts: list[int] = []
    assert to_numpy(select(store), tmp_path / "out", progress=counts.append) == 2500
    assert counts == [1000, 2000, 2500]
    matrix = np.load(tmp_path / "out" / "embeddings.npy")
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert [row["title"] for row in rows] == [f"T{row['recording_id']}" for row in rows]
    for at in (0, 999, 1000, 2499):
        assert np.allclose(matrix[at], embedded(rows[at]["recording_id"], 1).embeddings[0], atol=1e-6)
