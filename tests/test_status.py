"""`mlxclap status`: figures that are true, and a next step that makes sense."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlx_clap_engine.cli import main
from mlx_clap_engine.status import Reason, describe, folder_bytes, reasons
from mlx_clap_engine.store import index
from mlx_clap_engine.store.library import Store
from store_samples import DIM, SPACE, WHEN, embedded, failure, file, label, recording, space_info


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "library", create=True)
    with store.writer() as writer:
        writer.add_space(space_info())
        writer.add_space(space_info("other-1", dim=4, created_at=WHEN + timedelta(days=1)))
        writer.commit(
            space=SPACE,
            embedded=[embedded("a"), embedded("b", 4), embedded("quiet", silent=(0, 1, 2))],
            recordings=[
                recording("a", duration_s=3600.0),
                recording("b", duration_s=1800.0, codec="mp3"),
                recording("quiet", silent=True),
            ],
            files=[file("/m/a.wav", "a"), file("/n/a.wav", "a"), file("/m/b.mp3", "b"), file("/m/q.wav", "quiet")],
            failures=[
                failure("/m/x.mp3", "/m/x.mp3 holds no readable audio (bad header)."),
                failure("/m/y\udcff.mp3", "/m/y\udcff.mp3 holds no readable audio (bad header)."),
                failure("/m/z.m4p", "/m/z.m4p is protected by DRM."),
            ],
        )
        writer.write_labels("genre", "human", [label("a", "Jazz", "human")])
    return store


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["status", *map(str, arguments)])


def test_every_figure_is_counted(store: Store) -> None:
    found = describe(store)
    assert (found.recordings, found.files, found.silent, found.failures, found.labels) == (3, 4, 1, 3, 1)
    assert found.hours == pytest.approx(1.508)
    assert found.formats == {"flac": 2, "mp3": 1}
    assert [(s.space, s.default, s.dim, s.recordings, s.windows, s.windows_indexed) for s in found.spaces] == [
        (SPACE, True, DIM, 3, 10, 0),
        ("other-1", False, 4, 0, 0, 0),
    ]
    assert found.size_bytes == folder_bytes(store.path) > 1000
    assert found.next == [
        "mlxclap status --failures   (every file that could not be read, and why)",
        'mlxclap query --text "a dog barking"',
    ]


def test_equal_reasons_are_counted_together_whatever_the_file(store: Store) -> None:
    assert reasons(store.failures()) == [
        Reason("holds no readable audio (bad header).", 2),
        Reason("is protected by DRM.", 1),
    ]
    many = [failure(f"/m/{i}", f"/m/{i}: reason {i % 7} {'x' * 500}") for i in range(20)]
    assert len(reasons(many)) == 5
    assert all(len(found.reason) == 160 for found in reasons(many))


def test_json_is_one_object(store: Store) -> None:
    result = run("--json", "--library", store.path)
    found = json.loads(result.stdout)
    assert (found["recordings"], found["spaces"][0]["windows"]) == (3, 10)
    assert found["failure_reasons"][0] == {"reason": "holds no readable audio (bad header).", "files": 2}


def test_people_are_told_in_lines(store: Store) -> None:
    lines = run("--library", store.path).stdout.splitlines()
    assert lines[0].startswith(f"library     {store.path} (")
    assert lines[1] == "recordings  3 in 4 files, 1.51 hours of sound, 1 silent throughout"
    assert lines[2] == "formats     flac 2, mp3 1"
    assert "            2 x holds no readable audio (bad header)." in lines
    assert any(line.split() == [SPACE, "small", "yes", "3", "10", "10", "s", "no"] for line in lines)
    assert lines[-1].strip() == 'mlxclap query --text "a dog barking"'


def test_all_failures_may_be_listed(store: Store) -> None:
    result = run("--failures", "--json", "--library", store.path)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["path"] for row in found] == ["/m/x.mp3", "/m/y\udcff.mp3", "/m/z.m4p"]
    assert (found[2]["stage"], found[2]["failed_at"][:10]) == ("decode", "2026-03-01")
    table = run("--failures", "--library", store.path).stdout.splitlines()
    assert table[0].split() == ["path", "stage", "error"]
    assert len(table) == 4


def test_an_empty_library_says_ingest(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "library", create=True)
    found = describe(store)
    assert (found.recordings, found.hours, found.spaces, found.formats) == (0, 0.0, [], {})
    assert found.next == ["mlxclap ingest FOLDER"]
    assert run("--library", store.path).exit_code == 0
    assert "no file has failed" in run("--failures", "--library", store.path).stderr


def test_a_large_library_without_an_index_is_told_of_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "INDEX_FROM", 10)
    assert any(step.startswith("mlxclap index") for step in describe(store).next)


def test_no_library_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    result = run("--library", tmp_path / "none")
    assert result.exit_code == 1
    assert "mlxclap ingest" in result.stderr
