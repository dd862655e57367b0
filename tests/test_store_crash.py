"""kill -9 at random moments, and what a power cut does to files: nothing half is ever seen, and ingest can go on."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from mlx_clap_engine.errors import LibraryError
from mlx_clap_engine.store.library import Store
from mlx_clap_engine.store.schema import FILES, means_table, windows_table
from store_samples import SPACE, embedded, file, recording, space_info

KILLS = 12

# Imports once, then forks a committing child whenever it is asked to; it says when that child has died.
NURSERY = """
import os, sys
sys.path.insert(0, sys.argv[2])
from store_samples import SPACE, embedded, file, recording
from mlx_clap_engine.store.library import Store

def commit_until_killed():
    store = Store.open(sys.argv[1])
    with store.writer() as writer:
        done = store.embedded_ids(SPACE)
        print("ready", os.getpid(), flush=True)
        for n in range(100_000):
            names = [f"r{n}-{i}" for i in range(8)]
            if done.issuperset(names):
                continue
            writer.commit(space=SPACE, embedded=[embedded(name, 1 + n % 5) for name in names],
                          recordings=[recording(name) for name in names],
                          files=[file(f"/m/{name}.wav", name) for name in names])
            print("done", n, flush=True)

for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        commit_until_killed()
    os.waitpid(child, 0)
    print("\\ndead", flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "library", create=True)
    with store.writer() as writer:
        writer.add_space(space_info())
    return store


def put(store: Store, *names: str, die: bool = False) -> None:
    """One commit; with `die` the mark of an unfinished writer is left, as if the power had gone right after."""
    with store.writer() as writer:
        writer.commit(
            space=SPACE,
            embedded=[embedded(name) for name in names],
            recordings=[recording(name) for name in names],
            files=[file(f"/m/{name}.wav", name) for name in names],
        )
        writer.broken = die


def assert_whole(store: Store) -> set[str]:
    """Every recording has all its windows once, its mean, its row and its file; returns the recordings."""
    windows: Counter[tuple[str, int]] = Counter()
    for rows, _ in store.stream_windows(SPACE, include_silent=True):
        windows.update(zip(rows["recording_id"].to_pylist(), rows["index"].to_pylist(), strict=True))
    assert set(windows.values()) <= {1}
    per_recording = Counter(name for name, _ in windows)
    expected = {}
    for rows, _ in store.stream_means(SPACE, ["recording_id", "n_windows"], include_silent=True):
        expected |= dict(zip(rows["recording_id"].to_pylist(), rows["n_windows"].to_pylist(), strict=True))
    assert per_recording == expected
    counts = store.counts()
    assert counts.windows[SPACE] == len(windows)
    assert counts.means[SPACE] == counts.recordings == len(expected)
    assert set(store.recordings()["recording_id"].to_pylist()) == set(expected)
    assert set(store.paths_by_recording()) <= set(expected)
    return set(expected)


def test_kill_9_at_any_moment_loses_no_commit_and_leaves_no_half_recording(store: Store) -> None:
    rng = random.Random(7)
    logged: set[int] = set()
    command = [sys.executable, "-c", NURSERY, store.path, Path(__file__).parent]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        for _ in range(KILLS):
            nursery.stdin.write("go\n")
            nursery.stdin.flush()
            word, child = nursery.stdout.readline().split()
            assert word == "ready"
            logged |= {int(nursery.stdout.readline().split()[1]) for _ in range(rng.randint(0, 3))}
            time.sleep(rng.uniform(0.0, 0.1))
            os.kill(int(child), signal.SIGKILL)
            while (line := nursery.stdout.readline()) != "dead\n":
                logged |= {int(line.split()[1])} if line.startswith("done ") else set()
            store = Store.open(store.path)
            present = assert_whole(store)
            names = {f"r{n}-{i}" for n in logged for i in range(8)}
            assert names <= present
            assert {f"/m/{name}.wav" for name in names} <= {row.path for row in store.files()}
            assert len(present) % 8 == 0
        nursery.stdin.close()
    assert len(logged) > KILLS
    assert not [path for path in store.path.rglob("*") if path.name.startswith(".tmp") or "#" in path.name]


DAMAGES = ["empty manifest", "zeroed manifest", "empty data", "half data", "zeroed data", "no data"]
TABLES = [windows_table(SPACE), "recordings", means_table(SPACE), FILES]


@pytest.fixture(scope="module")
def unfinished_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings `a` and `b`, and `c` whose writer did not live to end."""
    store = Store.open(tmp_path_factory.mktemp("unfinished") / "library", create=True)
    with store.writer() as writer:
        writer.add_space(space_info())
    put(store, "a", "b")
    put(store, "c", die=True)
    return store.path


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "damage", ["empty manifest", "zeroed manifest", "empty data", "half data", "zeroed data", "no data"]
)
def test_what_a_power_cut_damaged_is_taken_back_whole(
    unfinished_library: Path, tmp_path: Path, table: str, damage: str
) -> None:
    library = shutil.copytree(unfinished_library, tmp_path / "library")  # keeps the times of files
    what, where = damage.split()
    folder = library / f"{table}.lance"
    if where == "manifest":
        victim = min((folder / "_versions").glob("*.manifest"))  # named downwards from 2^64
    else:
        victim = max((folder / "data").glob("*.lance"), key=lambda path: path.stat().st_mtime_ns)
    size = victim.stat().st_size
    match what:
        case "empty":
            victim.write_bytes(b"")
        case "half":
            victim.write_bytes(victim.read_bytes()[: size // 2])
        case "zeroed":
            victim.write_bytes(bytes(size))
        case "no":
            victim.unlink()
    store = Store.open(library)
    present = assert_whole(store)
    assert present == ({"a", "b", "c"} if table == FILES else {"a", "b"})
    assert {row.path for row in store.files()} == {"/m/a.wav", "/m/b.wav"}
    put(store, "c")
    assert assert_whole(store) == {"a", "b", "c"}
    assert "/m/c.wav" in {row.path for row in store.files()}


def test_a_power_cut_during_the_making_of_a_space_is_mended(store: Store) -> None:
    with store.writer() as writer:
        writer.add_space(space_info("second-1", dim=8))
        writer.broken = True
    [manifest] = (store.path / "means_second-1.lance" / "_versions").glob("*.manifest")
    manifest.write_bytes(b"")
    with Store.open(store.path).writer() as writer:
        assert writer.commit(space="second-1", embedded=[embedded("a", dim=8)], recordings=[recording("a")]) == 1


def test_a_library_that_cannot_be_written_to_is_read_without_repair(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "a", die=True)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert Store.open(store.path).embedded_ids(SPACE) == {"a"}


def test_damage_without_a_crash_is_an_error_that_says_what_to_do(store: Store) -> None:
    put(store, "a")
    for data in (store.path / "files.lance" / "data").glob("*"):
        data.write_bytes(b"")
    with pytest.raises(LibraryError, match=r"could not be read: .*backup.*mlxclap ingest.*never changed"):
        list(store.files())
