"""Opening, making and reading a library."""

import os
import subprocess
import sys
from pathlib import Path

import lancedb
import numpy as np
import pytest

from mlx_clap_engine.errors import FilterError, LibraryError, SpaceError
from mlx_clap_engine.filters import Compare, parse_filter, parse_label, parse_tag
from mlx_clap_engine.store.library import ISIN_LIMIT, Store
from mlx_clap_engine.store.schema import SCHEMAS, windows_table
from store_samples import DIM, SPACE, WHEN, embedded, failure, file, label, recording, space_info, unit_vectors


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three recordings: `a` under two paths, `b` with one silent window, `quiet` without a sound."""
    store = Store.open(tmp_path / "library", create=True)
    with store.writer() as writer:
        writer.add_space(space_info())
        writer.commit(
            space=SPACE,
            embedded=[embedded("a"), embedded("b", windows=4, silent=(1,)), embedded("quiet", silent=(0, 1, 2))],
            recordings=[
                recording("a", genre="Jazz", bpm=120.0, year=1959, artist="O'Brien"),
                recording("b", genre="Drum & Bass", bpm=174.0, artist='Über "X" \\ Co'),
                recording("quiet", silent=True),
            ],
            files=[file("/m/b.wav", "b"), file("/m/a2.wav", "a"), file("/m/a1.wav", "a"), file("/m/q.wav", "quiet")],
            failures=[failure("/m/broken\udcff.mp3", "bad \udcff bytes")],
        )
    return store


def test_a_folder_that_is_no_library_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match=f"no library at {tmp_path}.*mlxclap ingest"):
        Store.open(tmp_path)


def test_a_library_is_never_made_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(b"")
    with pytest.raises(LibraryError, match=r"not empty \(it holds 'song.wav'\)"):
        Store.open(tmp_path, create=True)
    assert os.listdir(tmp_path) == ["song.wav"]


@pytest.mark.parametrize("name", ["a b", "x#y", "q?z", "per%20cent", "Ünï", "a:b", "memory:", "back\\slash", "quo'te"])
def test_a_library_may_live_in_a_folder_of_any_name_that_is_text(tmp_path: Path, name: str) -> None:
    store = Store.open(tmp_path / name / "library", create=True)
    with store.writer() as writer:
        writer.commit(failures=[failure("/f")])
    assert (tmp_path / name / "library" / "failures.lance").is_dir()
    assert Store.open(tmp_path / name / "library").counts().failures == 1


@pytest.mark.parametrize("name", ["new\nline", "\udcff"])
def test_a_folder_whose_name_is_not_text_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LibraryError, match="characters that are not text"):
        Store.open(tmp_path / name, create=True)
    assert os.listdir(tmp_path) == []


def test_a_library_whose_making_was_interrupted_is_made_again(tmp_path: Path) -> None:
    Store.open(tmp_path, create=True)
    for name in ("spaces", "failures"):
        (tmp_path / f"{name}.lance").rename(tmp_path.parent / name)
    assert Store.open(tmp_path, create=True).counts().files == 0


def test_a_disk_without_hard_links_is_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(LibraryError, match=r"no hard links.*exFAT.*--library"):
        Store.open(tmp_path / "library", create=True)
    assert os.listdir(tmp_path / "library") == []


def test_a_newer_schema_is_refused_with_both_versions(tmp_path: Path) -> None:
    Store.open(tmp_path, create=True)
    schema = SCHEMAS["spaces"].with_metadata({b"mlxclap.schema_version": b"2"})
    lancedb.connect(str(tmp_path)).create_table("spaces", schema=schema, mode="overwrite")
    with pytest.raises(LibraryError, match=r"schema version 2; this mlxclap knows version 1\. Upgrade"):
        Store.open(tmp_path)


def test_a_missing_table_is_named(store: Store) -> None:
    (store.path / "files.lance").rename(store.path.parent / "gone")
    with pytest.raises(LibraryError, match="lacks its table 'files'"):
        list(store.files())


def test_what_was_written_comes_back(store: Store) -> None:
    store = Store.open(store.path)
    assert store.spaces() == [space_info(default=True)]
    assert sorted(store.files(), key=lambda row: row.path)[0] == file("/m/a1.wav", "a")
    [failed] = store.failures()
    assert failed == failure("/m/broken\udcff.mp3", "bad ? bytes")
    table = store.recordings(["b", "nobody"])
    assert table.num_rows == 1
    assert table["ingested_at"][0].as_py() == WHEN
    assert table["artist"][0].as_py() == 'Über "X" \\ Co'
    assert store.recordings(columns=["bpm"]).column_names == ["bpm"]
    counts = store.counts()
    assert (counts.files, counts.recordings, counts.failures) == (4, 3, 1)
    assert (counts.windows, counts.means) == ({SPACE: 10}, {SPACE: 3})


def test_one_sound_under_two_paths_is_one_recording(store: Store) -> None:
    assert store.paths_by_recording() == {"a": ["/m/a1.wav", "/m/a2.wav"], "b": ["/m/b.wav"], "quiet": ["/m/q.wav"]}
    assert store.paths_by_recording(["b"]) == {"b": ["/m/b.wav"]}
    assert store.paths_by_recording([]) == {}


def test_a_wholly_silent_recording_is_done_but_in_no_answer(store: Store) -> None:
    assert store.embedded_ids(SPACE) == {"a", "b", "quiet"}
    vector = embedded("quiet").mean()
    assert {row["recording_id"] for row in store.nearest(SPACE, "means", vector, 10)} == {"a", "b"}
    assert "quiet" not in {row["recording_id"] for row in store.nearest(SPACE, "windows", vector, 20)}
    [(means, _)] = store.stream_means(SPACE)
    assert sorted(means["recording_id"].to_pylist()) == ["a", "b"]


def test_windows_stream_with_their_vectors_and_without_silence(store: Store) -> None:
    [(rows, vectors)] = store.stream_windows(SPACE, columns=["recording_id", "index", "start_s"])
    assert rows.schema.names == ["recording_id", "index", "start_s"]
    found = {(row["recording_id"], row["index"]): vector for row, vector in zip(rows.to_pylist(), vectors, strict=True)}
    assert sorted(found) == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 2), ("b", 3)]
    np.testing.assert_array_equal(found["b", 2], embedded("b", windows=4).embeddings[2])
    [(rows, _)] = store.stream_windows(SPACE, ids=["quiet"], include_silent=True)
    assert rows["index"].to_pylist() == [0, 1, 2]
    assert list(store.stream_windows(SPACE, ids=[])) == []


def test_the_vectors_of_a_stream_are_not_copied(store: Store) -> None:
    [(_, vectors)] = store.stream_windows(SPACE, ids=["a"])
    assert not vectors.flags.owndata
    assert not vectors.flags.writeable


def test_nearest_gives_cosine_similarity_most_similar_first(store: Store) -> None:
    vector = unit_vectors(1, seed=5)[0]
    rows = store.nearest(SPACE, "windows", vector, 4)
    every = {("a", i): v for i, v in enumerate(embedded("a").embeddings)}
    every |= {("b", i): v for i, v in enumerate(embedded("b", 4).embeddings) if i != 1}
    expected = sorted(every, key=lambda key: -float(every[key] @ vector))[:4]
    assert [(row["recording_id"], row["index"]) for row in rows] == expected
    for row in rows:
        assert row["similarity"] == pytest.approx(float(every[row["recording_id"], row["index"]] @ vector), abs=1e-6)
        assert row["end_s"] == row["start_s"] + 10


@pytest.mark.parametrize("kind", ["windows", "means"])
def test_a_restriction_gives_the_same_rows_however_long_it_is(store: Store, kind: str) -> None:
    vector = unit_vectors(1, seed=6)[0]
    short = store.nearest(SPACE, kind, vector, 5, ids=["b", "quiet"])  # type: ignore[arg-type]
    padding = [f"nobody-{i}" for i in range(ISIN_LIMIT)]
    long = store.nearest(SPACE, kind, vector, 5, ids=["b", "quiet", *padding])  # type: ignore[arg-type]
    assert {row["recording_id"] for row in short} == {"b"}
    similarities = [row.pop("similarity") for row in short]
    assert similarities == pytest.approx([row.pop("similarity") for row in long], abs=1e-6)
    assert short == long
    assert store.recordings(["b", *padding])["recording_id"].to_pylist() == ["b"]


def test_a_space_that_is_not_there_is_an_error_that_lists_those_that_are(store: Store) -> None:
    with pytest.raises(SpaceError, match=f"no embeddings in space other.*it has: {SPACE}"):
        store.nearest("other", "means", unit_vectors(1)[0], 1)
    with pytest.raises(SpaceError, match=f"of {DIM} numbers"):
        store.nearest(SPACE, "means", unit_vectors(1, dim=8)[0], 1)


def test_a_reader_sees_what_is_committed_after_it_opened(store: Store) -> None:
    reader = Store.open(store.path)
    with store.writer() as writer:
        writer.commit(space=SPACE, embedded=[embedded("c")], recordings=[recording("c")], files=[file("/c", "c")])
        assert "c" in reader.embedded_ids(SPACE)
        assert "/c" in {row.path for row in reader.files()}


def test_windows_of_a_commit_under_way_are_seen_by_nobody(store: Store) -> None:
    table = lancedb.connect(str(store.path)).open_table(windows_table(SPACE))
    rows = table.search().where("recording_id = 'a'").limit(None).to_arrow()
    table.add(rows.set_column(0, "recording_id", [["half"] * rows.num_rows]))
    vector = embedded("a").embeddings[0]
    assert {row["recording_id"] for row in store.nearest(SPACE, "windows", vector, 2)} <= {"a", "b"}
    assert len(store.nearest(SPACE, "windows", vector, 20)) == 6
    seen = {name for batch, _ in store.stream_windows(SPACE) for name in batch["recording_id"].to_pylist()}
    assert seen == {"a", "b"}


def test_filters_match_without_regard_to_case_and_missing_values_match_only_the_complement(store: Store) -> None:
    def matching(text: str) -> set[str] | None:
        return store.matching([parse_filter(text)])

    assert store.matching([]) is None
    assert matching("genre = jAZZ") == {"a"}
    assert matching("artist ~ über") == {"b"}
    assert matching("artist ~ ÜBER") == {"b"}
    assert matching("bpm > 120") == {"b"}
    assert matching("bpm >= 120 and year <= 1959") == {"a"}
    assert matching("genre != Jazz") == matching("not genre = Jazz") == {"b", "quiet"}
    assert matching("not (bpm > 1)") == {"quiet"}
    assert matching("year = 1959 or duration_s < 1") == {"a"}
    assert store.matching([parse_tag("genre=Drum & Bass"), parse_filter("bpm<200")]) == {"b"}
    assert store.matching([parse_tag("genre=Jazz"), parse_filter("bpm>150")]) == set()


@pytest.mark.parametrize(
    "value",
    ["x' OR 1=1 --", "' OR ''='", "%", "_", "\\", "'", '"', "'; DROP TABLE recordings; --", "*", "\x00", "NULL"],
)
def test_no_value_is_ever_read_as_sql(store: Store, value: str) -> None:
    for column in ("genre", "artist", "comment"):
        expected = {"a"} if column == "artist" and value == "'" else set()
        expected |= {"b"} if column == "artist" and value in ('"', "\\") else set()
        assert store.matching([Compare(column, "=", value)]) == set()
        assert store.matching([Compare(column, "~", value)]) == expected
    with pytest.raises(FilterError, match="no column"):
        store.matching([Compare("1=1 OR genre", "=", value)])
    assert store.counts().recordings == 3


def test_a_label_filter_believes_a_person_before_a_machine(store: Store) -> None:
    with store.writer() as writer:
        writer.write_labels("genre", "zero-shot", [label("a", "Rock"), label("b", "Rock"), label("quiet", "Jazz")])
        writer.write_labels("genre", "human", [label("a", "Jazz", source="human")])
        writer.write_labels("genre", "knn", [label("b", "Pop", source="knn", start_s=0.0, end_s=5.0)])
    assert store.matching([parse_label("genre=rock")]) == {"b"}
    assert store.matching([parse_label("genre=Jazz")]) == {"a", "quiet"}
    assert store.matching([parse_label("genre=Pop")]) == set()
    with pytest.raises(FilterError, match=r"set 'mood' \(sets in this library: genre\)"):
        store.matching([parse_label("mood=calm")])


def test_the_open_file_limit_is_raised(tmp_path: Path) -> None:
    program = (
        "import resource, sys; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1];"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard));"
        "from mlx_clap_engine.store.library import Store; Store.open(sys.argv[1], create=True);"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 256)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
