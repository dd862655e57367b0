"""Writing: one writer at a time, whole commits, no duplicates, and what happens when the disk is full."""

import dataclasses
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from mlx_clap_engine.errors import LibraryBusyError, LibraryError, SpaceError
from mlx_clap_engine.store import writer as writer_module
from mlx_clap_engine.store.library import Store
from mlx_clap_engine.store.schema import FILES, RECORDINGS, windows_table
from mlx_clap_engine.store.writer import MANY_FRAGMENTS, Writer
from store_samples import SPACE, embedded, failure, file, label, recording, space_info

HOLDER = """
import sys, time
from mlx_clap_engine.store.library import Store
with Store.open(sys.argv[1]).writer():
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "library", create=True)
    with store.writer() as writer:
        writer.add_space(space_info())
    return store


def put(writer: Writer, *names: str) -> int:
    return writer.commit(
        space=SPACE,
        embedded=[embedded(name) for name in names],
        recordings=[recording(name) for name in names],
        files=[file(f"/m/{name}.wav", name) for name in names],
    )


def test_a_second_writer_is_told_which_process_is_writing_and_a_dead_one_frees_the_library(store: Store) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, store.path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "writing\n"
        with pytest.raises(LibraryBusyError, match=rf"process {holder.pid} \(since 20"), store.writer():
            pass
        assert Store.open(store.path).counts().files == 0  # readers are not kept out
    finally:
        holder.kill()
        holder.communicate()
    with store.writer() as writer:
        assert put(writer, "a") == 1


def test_two_writers_in_one_process_exclude_each_other(store: Store) -> None:
    with store.writer() as writer:
        with pytest.raises(LibraryBusyError, match=f"process {os.getpid()} "), store.writer():
            pass
        put(writer, "a")
    with store.writer() as writer:
        assert put(writer, "a", "b") == 1


def test_a_recording_is_embedded_once_however_often_it_is_given(store: Store) -> None:
    with store.writer() as writer:
        assert put(writer, "a", "a", "b") == 2
        assert put(writer, "b", "c") == 1
    counts = store.counts()
    assert (counts.files, counts.recordings, counts.means[SPACE], counts.windows[SPACE]) == (3, 3, 3, 9)


def test_a_row_given_again_is_replaced_by_the_last(store: Store) -> None:
    with store.writer() as writer:
        put(writer, "a")
        writer.commit(recordings=[recording("a", title="one"), recording("a", title="two")])
        writer.commit(files=[dataclasses.replace(file("/m/a.wav", "a"), size=5)])
    assert store.recordings()["title"].to_pylist() == ["two"]
    assert [row.size for row in store.files()] == [5]


def test_a_failure_goes_when_its_file_is_tried_again(store: Store) -> None:
    odd = "/m/\udce9' OR '1'='1"
    with store.writer() as writer:
        writer.commit(failures=[failure(odd), failure("/m/b.mp3"), failure("/m/b.mp3", "worse")])
        assert {row.path: row.error for row in store.failures()} == {odd: "not audio", "/m/b.mp3": "worse"}
        writer.commit(retried=[odd])
    assert [row.path for row in store.failures()] == ["/m/b.mp3"]


def test_forgetting_a_file_keeps_its_recording(store: Store) -> None:
    with store.writer() as writer:
        put(writer, "a", "b")
        writer.forget(["/m/a.wav", "/nowhere"])
    assert store.paths_by_recording() == {"b": ["/m/b.wav"]}
    assert store.embedded_ids(SPACE) == {"a", "b"}


def test_a_value_that_cannot_be_stored_stops_the_whole_commit_and_nothing_else(store: Store) -> None:
    with store.writer() as writer:
        with pytest.raises(LibraryError, match="column 'year' cannot hold a value"):
            writer.commit(space=SPACE, embedded=[embedded("a")], recordings=[recording("a", year=10**12)])
        with pytest.raises(LibraryError, match="column 'codec' needs a value"):
            writer.commit(space=SPACE, embedded=[embedded("a")], recordings=[recording("a", codec=None)])
        with pytest.raises(SpaceError, match="embeddings of 8 numbers"):
            writer.commit(space=SPACE, embedded=[embedded("a", dim=8)], recordings=[recording("a")])
        with pytest.raises(SpaceError, match="no space other"):
            writer.commit(space="other", embedded=[embedded("a")])
        assert store.counts().windows[SPACE] == store.counts().recordings == 0
        assert put(writer, "b") == 1


def test_the_first_space_is_the_default_until_another_is_chosen(store: Store) -> None:
    with store.writer() as writer:
        writer.add_space(space_info("second-1", dim=8))
        writer.add_space(space_info("second-1", dim=8))
        assert [(info.space, info.default) for info in store.spaces()] == [("second-1", False), (SPACE, True)]
        writer.set_default_space("second-1")
        with pytest.raises(SpaceError, match="no space third"):
            writer.set_default_space("third")
        with pytest.raises(SpaceError, match="with 8 numbers a window"):
            writer.add_space(space_info("second-1", dim=16))
    default = store.default_space()
    assert default is not None
    assert default.space == "second-1"


def test_two_spaces_hold_the_same_recording_side_by_side(store: Store) -> None:
    with store.writer() as writer:
        put(writer, "a")
        writer.add_space(space_info("second-1", dim=8))
        assert writer.commit(space="second-1", embedded=[embedded("a", dim=8)]) == 1
    assert store.counts().means == {SPACE: 1, "second-1": 1}


def test_a_machine_replaces_its_own_labels_and_never_a_persons(store: Store) -> None:
    def labels() -> set[tuple[str, str, str]]:
        rows = store.labels("genre").to_pylist()
        return {(row["recording_id"], row["source"], row["label"]) for row in rows}

    with store.writer() as writer:
        writer.write_labels("genre", "human", [label("a", "Jazz", source="human")])
        writer.write_labels("genre", "zero-shot", [label("a", "Rock"), label("b", "Pop"), label("c", "Pop")])
        writer.write_labels("genre", "zero-shot", [label("a", "Folk"), label("a", "Blues")], about=["b"])
        assert labels() == {("a", "human", "Jazz"), ("a", "zero-shot", "Folk"), ("a", "zero-shot", "Blues"),
                            ("c", "zero-shot", "Pop")}  # fmt: skip
        writer.write_labels("genre", "zero-shot", [], about=["a", "c"])
        assert labels() == {("a", "human", "Jazz")}
        with pytest.raises(LibraryError, match="'human' was given with those of set 'genre' from 'knn'"):
            writer.write_labels("genre", "knn", [label("a", "Jazz", source="human")])
    assert store.labels("genre", ids=["b"]).num_rows == 0


def test_many_small_commits_are_compacted_on_the_way(store: Store) -> None:
    with store.writer() as writer:
        for i in range(MANY_FRAGMENTS + 5):
            put(writer, f"r{i}")
        for name in (windows_table(SPACE), RECORDINGS, FILES):
            stats = store.connection.table(name).stats()
            assert stats["fragment_stats"]["num_fragments"] < 10, name  # type: ignore[index]
        assert writer.compact() == []
    assert store.counts().windows[SPACE] == 3 * (MANY_FRAGMENTS + 5)


def test_every_file_of_a_commit_is_on_the_disk_when_it_returns(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: set[int] = set()
    fsync = os.fsync

    def watched(handle: int) -> None:
        flushed.add(os.fstat(handle).st_ino)
        fsync(handle)

    def files() -> set[Path]:
        return {path for path in store.path.rglob("*") if path.is_file() and path.suffix != ".json"}

    with store.writer() as writer:
        put(writer, "a")
        before = files()
        monkeypatch.setattr(os, "fsync", watched)
        put(writer, "b")
        new = files() - before
    assert len(new) >= 12  # data, transaction and manifest of four tables
    assert {path.stat().st_ino for path in new | {path.parent for path in new}} <= flushed


def test_old_states_go_when_they_outweigh_the_table(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def states() -> int:
        return len(list((store.path / "files.lance" / "_versions").glob("*.manifest")))

    monkeypatch.setattr(writer_module, "WORTH_FREEING", 0)
    with store.writer() as writer:
        for i in range(10):
            put(writer, "a", f"r{i}")
        assert writer.compact() == []  # they are too young: readers may still be at them
        assert states() > 10
        monkeypatch.setattr(writer_module, "KEEP_STATES", timedelta(milliseconds=1))
        assert FILES in writer.compact()
        assert states() <= 2
    assert store.counts().files == 11


def test_a_reader_under_way_is_not_disturbed_by_compaction(store: Store) -> None:
    with store.writer() as writer:
        for i in range(20):
            put(writer, f"r{i}")
        stream = store.stream_windows(SPACE)
        seen = len(next(stream)[0])
        put(writer, "late")
        writer.optimize(windows_table(SPACE))
        assert seen + sum(len(rows) for rows, _ in stream) == 60


def test_an_error_of_the_callers_leaves_the_library_clean(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), store.writer() as writer:
        put(writer, "a")
        raise KeyboardInterrupt
    assert (store.path / "writer.lock").read_text() == ""


FILLER = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from store_samples import SPACE, embedded, file, recording
from mlx_clap_engine.errors import LibraryError
from mlx_clap_engine.store.library import Store

limit = int(sys.argv[3])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
with Store.open(sys.argv[1]).writer() as writer:
    for n in range(1000):
        windows = 50 if n < 3 else 5000 * n
        try:
            writer.commit(space=SPACE, embedded=[embedded(f"r{n}", windows)], recordings=[recording(f"r{n}")],
                          files=[file(f"/m/{n}.wav", f"r{n}")])
        except LibraryError as error:
            print("refused", error, flush=True)
            break
        print("done", n, flush=True)
    try:
        writer.commit(files=[file("/m/late.wav", "r0")])
    except LibraryError as error:
        print("then", error, flush=True)
"""


def test_a_full_disk_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    # A real small disk where the system lets us mount one, else a limit on the size of a file.
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    mounted = sys.platform == "linux" and os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0
    try:
        store = Store.open(folder / "library", create=True)
        with store.writer() as writer:
            writer.add_space(space_info())
        limit = "0" if mounted else "200000"
        command = [sys.executable, "-c", FILLER, store.path, Path(__file__).parent, limit]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        committed = [int(line.split()[1]) for line in lines if line.startswith("done")]
        assert len(committed) >= 3
        assert "is full. All that was committed before is safe" in lines[-2]
        assert "an earlier write" in lines[-1]
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
        store = Store.open(store.path)
        assert store.embedded_ids(SPACE) == {f"r{n}" for n in committed}
        assert {row.path for row in store.files()} == {f"/m/{n}.wav" for n in committed}
        with store.writer() as writer:
            assert put(writer, "next") == 1
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
