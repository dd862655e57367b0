"""`mlxclap bench` makes rows that say what was measured on what. Nothing here judges a time."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_clap_engine.bench import twin
from mlx_clap_engine.bench.measure import Plan, row, timed
from mlx_clap_engine.bench.run import BENCHES, make_subject, run
from mlx_clap_engine.cli import main
from mlx_clap_engine.cli.bench import _NAMES

FIELDS = {"bench", "case", "unit", "median_ms", "min_ms", "p95_ms", "per_second", "n", "state", "batch", "dtype"} | {
    *("model", "device", "threads", "machine", "versions", "commit", "measured_at", "note")
}
TOY = Plan(repeats=1, sound_s=1.0, files=2, windows=100)


@pytest.mark.parametrize("name", [name for name in BENCHES if name != "torch"])
def test_every_bench_makes_rows_with_all_fields(name):
    rows = list(run(make_subject(None, "small"), TOY, [name]))
    assert rows
    for figure in rows:
        assert set(figure) >= FIELDS
        assert figure["bench"] == name
        assert 0 < figure["min_ms"] <= figure["median_ms"] <= figure["p95_ms"]
        assert figure["machine"]["cores"] > 0 and figure["versions"]["mlx"]
        assert json.loads(json.dumps(figure)) == figure


def test_ingest_is_told_stage_by_stage():
    rows = list(run(make_subject(None, "small"), TOY, ["ingest"]))
    assert {"scan", "decode", "embed", "write", "wait", "all"} <= {figure["case"] for figure in rows}
    assert {figure["windows"] for figure in rows} == {2}


def test_search_states_its_recall():
    rows = list(run(make_subject(None, "small"), TOY, ["search"]))
    queries = [figure for figure in rows if figure["unit"] == "query"]
    assert queries and all(figure["recall"] == 1.0 for figure in queries)
    assert {figure["state"] for figure in queries} == {"cold", "warm"}


@pytest.mark.parity
def test_pytorch_and_mlx_give_the_same_embeddings_beside_their_times():
    rows = list(run(make_subject(None, "small"), TOY, ["torch"]))
    assert len(rows) == 4
    assert all(figure["ratio"] > 0 and figure["largest_difference"] < 2e-6 for figure in rows)


def test_without_pytorch_there_is_nothing_beside(monkeypatch):
    monkeypatch.setattr(twin, "available", lambda: False)
    assert list(run(make_subject(None, "small"), TOY, ["torch"])) == []


def test_the_process_for_pytorch_imports_no_mlx():
    code = "import sys, mlx_clap_engine.bench.twin_process; sys.exit('mlx.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_json_lines_go_to_stdout_and_are_appended_to_the_file(tmp_path):
    out = tmp_path / "figures.jsonl"
    command = ["bench", "--shape", "small", "--only", "front-end", "--repeats", "2", "--json", "--out", str(out)]
    results = [CliRunner().invoke(main, [*command, "--note", "shared machine"]) for _ in range(2)]
    assert [result.exit_code for result in results] == [0, 0]
    printed = [json.loads(line) for result in results for line in result.stdout.splitlines()]
    assert printed == [json.loads(line) for line in out.read_text().splitlines()]
    assert len(printed) == 4
    assert {figure["note"] for figure in printed} == {"shared machine"}
    assert "measuring the front end" in results[0].stderr


def test_a_table_for_people(tmp_path):
    result = CliRunner().invoke(main, ["bench", "--shape", "small", "--only", "text", "--repeats", "1"])
    assert result.exit_code == 0
    assert "a query of 16 tokens" in result.stdout and "median ms" in result.stdout


def test_an_installed_model_is_measured_by_name(models):
    result = CliRunner().invoke(main, ["bench", "--model", "small", "--only", "text", "--repeats", "1", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout.splitlines()[0])["model"] == "small"


def test_model_and_shape_exclude_each_other():
    result = CliRunner().invoke(main, ["bench", "--model", "x", "--shape", "small"])
    assert result.exit_code == 2


def test_the_command_offers_every_bench():
    assert set(_NAMES) == set(BENCHES)


def test_a_row_is_per_unit_and_leaves_the_burn_in_out():
    calls: list[int] = []
    assert len(timed(3, calls.append, 1)) == 3
    assert len(calls) == 5
    figure = row("b", "c", [2.0, 4.0, 3.0], "window", 4, recall=0.9)
    assert (figure["median_ms"], figure["min_ms"], figure["n"], figure["recall"]) == (750.0, 500.0, 3, 0.9)
    assert math.isclose(figure["per_second"], 4 / 3, rel_tol=1e-2)


def test_the_table_in_the_bench_folder_is_made_from_its_results():
    script = Path(__file__).parents[1] / "bench" / "table.py"
    assert subprocess.run([sys.executable, str(script), "--check"], check=False).returncode == 0
