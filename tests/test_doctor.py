"""`mlxclap doctor`: it sees what is wrong, says what to do, and sees nothing wrong where all is well."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

from mlx_clap.backend import mx
from mlx_clap_convert.installed import installed
from mlx_clap_engine import decode_ffmpeg
from mlx_clap_engine.cli import main
from mlx_clap_engine.doctor import arithmetic, codecs, surroundings
from mlx_clap_engine.doctor.finding import guarded
from mlx_clap_engine.encode import FORMATS


def run_doctor(library: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["doctor", "--quick", "--library", str(library), *options])


def statuses(findings) -> dict[str, str]:
    return {finding.check: finding.status for finding in findings}


@pytest.fixture
def copied_model(models, tmp_path, monkeypatch) -> Path:
    """A models folder of this test's own, with one sound model in it."""
    folder = tmp_path / "models"
    shutil.copytree(models / "small", folder / "mine")
    monkeypatch.setenv("MLXCLAP_MODELS", str(folder))
    return folder / "mine"


def test_a_sound_machine_passes_every_check(models, tmp_path):
    result = run_doctor(tmp_path / "library", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0, result.output
    assert all(set(row) == {"check", "status", "detail", "remedy"} for row in rows)
    checks = {row["check"]: row["status"] for row in rows}
    assert "fail" not in checks.values()
    assert {"system", "versions", "device", "codecs", "library", "models", "Hugging Face Hub"} <= set(checks)
    assert checks["arithmetic, small float32"] == checks["model small"] == "ok"
    assert not (tmp_path / "library").exists()  # looking changes nothing


def test_the_report_for_people_names_each_check_once_on_its_line(models, tmp_path):
    result = run_doctor(tmp_path)
    assert result.exit_code == 0
    assert sum(line.startswith("ok    codecs: ") for line in result.stdout.splitlines()) == 1
    assert "no check failed" in result.stderr


def test_a_damaged_model_fails_with_its_name_and_a_remedy(copied_model, tmp_path):
    (copied_model / "weights.safetensors").unlink()
    result = run_doctor(tmp_path)
    assert result.exit_code == 1
    line = next(line for line in result.stdout.splitlines() if line.startswith("fail"))
    assert "model mine" in line and "weights.safetensors missing" in line
    assert "-> Convert it again" in result.stdout


def test_a_model_whose_weights_changed_since_its_conversion_fails(copied_model):
    weights = load_file(copied_model / "weights.safetensors")
    weights["text.projection.fc2.bias"] = weights["text.projection.fc2.bias"] + np.float32(0.5)
    save_file(weights, copied_model / "weights.safetensors")
    (model,) = installed()
    (finding,) = arithmetic.installed_model(model)
    assert finding.status == "fail"
    assert "cosine distance to its conversion: text" in finding.detail and finding.remedy


def test_weights_that_cannot_be_read_fail_without_ending_the_report(copied_model, tmp_path):
    weights = copied_model / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    result = run_doctor(tmp_path, "--json")
    rows = {row["check"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert result.exit_code == 1
    assert rows["model mine"]["status"] == "fail" and "damaged" in rows["model mine"]["detail"]
    assert rows["arithmetic, small float32"]["status"] == "ok"


def test_a_model_agrees_with_itself_on_the_cpu_whatever_the_default_device(copied_model):
    (model,) = installed()
    text = "a dog barking"
    here = arithmetic._embeddings(model, text)
    device = mx.default_device()
    assert arithmetic.against_cpu(model, here, text).status == "ok"
    assert mx.default_device() == device
    other = {"text": here["sound"], "sound": here["text"]}
    assert arithmetic.against_cpu(model, other, text).status == "fail"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_arithmetic_of_this_device_is_judged_in_each_dtype(dtype):
    finding = arithmetic.against_reference("small", dtype)
    assert finding.status == "ok"
    assert "transformers" in finding.detail


def test_wrong_arithmetic_fails_and_names_the_worst_quantity(monkeypatch):
    monkeypatch.setattr("mlx_clap.mel.FLOOR", 1e-6)
    finding = arithmetic.against_reference("small", "float32")
    assert finding.status == "fail"
    assert "log-mel" in finding.detail and finding.remedy


def test_every_format_is_written_and_read_back():
    (finding,) = codecs.formats()
    assert finding.status == "ok"
    assert all(format.name in finding.detail for format in FORMATS)


def test_a_format_that_is_not_read_is_named(monkeypatch):
    monkeypatch.setitem(decode_ffmpeg._OPTIONS, "format_whitelist", "wav,flac")
    found = statuses(codecs.formats())
    assert found["codec AAC"] == "fail" and found["codecs"] == "ok"
    assert "codec WAV" not in found


def test_no_model_is_a_warning_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXCLAP_MODELS", str(tmp_path / "none"))
    (finding,) = surroundings.models()
    assert finding.status == "warn" and "mlxclap convert" in (finding.remedy or "")


def test_a_folder_nothing_can_be_written_to_is_no_place_for_a_library():
    (finding,) = surroundings.library(Path("/proc/1/library"))
    assert finding.status == "fail" and "--library" in (finding.remedy or "")


def test_one_broken_part_becomes_a_finding():
    def look():
        raise RuntimeError("the device went away")

    (finding,) = guarded("device", look)
    assert (finding.check, finding.status, finding.detail) == ("device", "fail", "the device went away")
