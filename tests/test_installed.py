"""Where models live on a machine: listing, choosing, removing, and installing whole or not at all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_clap import AskedWronglyError, ModelNotFoundError
from mlx_clap_convert.errors import ConvertError
from mlx_clap_convert.installed import install_folder, installed, model_folder, models_dir, remove, resolve, use

PROVENANCE = {
    "space": "clap-general-0123456789ab",
    "source": "laion/larger_clap_general",
    "revision": "ada0c23a36c4e8582805bb38fec3905903f18b41",
    "dtype": "float16",
    "converted_at": "2026-01-02T03:04:05Z",
}


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models folder of our own."""
    monkeypatch.setenv("MLXCLAP_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def write_model(folder: Path, space: str = PROVENANCE["space"]) -> None:
    """Put the four files of a model into `folder`."""
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "weights.safetensors").write_bytes(bytes(1000))
    (folder / "provenance.json").write_text(json.dumps(PROVENANCE | {"space": space}))


def install(name: str, *, force: bool = False, space: str = PROVENANCE["space"]) -> Path:
    """Install a small model."""
    with install_folder(name, force=force) as folder:
        write_model(folder, space)
    return models_dir() / name


def hidden(models: Path) -> list[str]:
    """What lies about in the models folder under no model's name."""
    return sorted(path.name for path in models.iterdir() if path.name.startswith("."))


def test_without_the_variable_models_live_in_the_users_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLXCLAP_MODELS")
    assert models_dir().parts[-2:] == ("mlxclap", "models")


def test_an_installed_model_is_listed_with_its_provenance(models: Path) -> None:
    install("general")

    (model,) = installed()

    assert (model.name, model.path, model.space) == ("general", models / "general", PROVENANCE["space"])
    assert (model.dtype, model.source, model.revision) == ("float16", PROVENANCE["source"], PROVENANCE["revision"])
    assert (model.converted_at, model.default, model.problem) == (PROVENANCE["converted_at"], True, None)
    assert model.size_bytes == sum(path.stat().st_size for path in (models / "general").iterdir())
    assert hidden(models) == []


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "weights.safetensors").unlink(), "weights.safetensors missing"),
        (lambda folder: (folder / "provenance.json").write_bytes(b"\xff\x00{"), "provenance.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json is not a JSON object"),
        (lambda folder: (folder / "provenance.json").write_text("{}"), "names no space"),
        (lambda folder: (folder / "provenance.json").write_text("[" * 100_000), "provenance.json cannot be read"),
    ],
)
def test_a_damaged_model_is_listed_with_its_problem(damage: object, problem: str) -> None:
    assert callable(damage)
    install("sound")
    damage(install("broken"))

    by_name = {model.name: model for model in installed()}

    assert by_name["sound"].problem is None
    assert problem in (by_name["broken"].problem or "")
    assert "mlxclap models remove broken" in (by_name["broken"].problem or "")


def test_without_models_the_way_to_one_is_named(models: Path) -> None:
    with pytest.raises(
        ModelNotFoundError, match=r"`mlxclap convert` downloads laion/larger_clap_general \(776 MB\).*README"
    ):
        resolve()
    assert installed() == []
    assert not models.exists()


def test_the_only_model_is_the_default(models: Path) -> None:
    install("only")
    assert resolve() == resolve("only") == models / "only"


def test_of_several_models_one_must_be_chosen(models: Path) -> None:
    install("a")
    install("b")
    with pytest.raises(ModelNotFoundError, match=r"Installed: a, b\..*mlxclap models use a"):
        resolve()

    use("b")

    assert resolve() == models / "b"
    assert [(model.name, model.default) for model in installed()] == [("a", False), ("b", True)]


def test_removing_the_default_leaves_the_choice_open_again(models: Path) -> None:
    for name in ("a", "b", "c"):
        install(name)
    use("b")

    remove("b")

    assert [model.name for model in installed()] == ["a", "c"]
    assert not any(model.default for model in installed())
    with pytest.raises(ModelNotFoundError):
        resolve()


def test_a_model_anywhere_is_found_by_its_path(tmp_path: Path) -> None:
    with model_folder(tmp_path / "elsewhere") as folder:
        write_model(folder)
    assert resolve(tmp_path / "elsewhere") == resolve(str(tmp_path / "elsewhere")) == tmp_path / "elsewhere"


def test_an_unknown_name_lists_what_there_is() -> None:
    install("general")
    for act in (resolve, use, remove):
        with pytest.raises(ModelNotFoundError, match=r"'generl'.*Installed: general"):
            act("generl")


@pytest.mark.parametrize("path", ["../outside", ".", "..", "", "a/../../outside", "/tmp"])
def test_nothing_outside_the_models_folder_is_removed(tmp_path: Path, path: str) -> None:
    install("a")
    (tmp_path / "outside").mkdir()
    with pytest.raises(ModelNotFoundError):
        remove(path)
    assert (tmp_path / "outside").is_dir() and resolve("a").is_dir()


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../a", "a b", "-x"])
def test_a_name_unfit_for_a_folder_is_refused(name: str) -> None:
    with pytest.raises(AskedWronglyError, match="is no name for a model"), install_folder(name):
        pass


def test_an_installed_name_is_replaced_only_by_force(models: Path) -> None:
    install("general", space="old")
    with pytest.raises(AskedWronglyError, match=r"general exists already: pass --force"):
        install("general", space="new")
    assert installed()[0].space == "old"

    install("general", space="new", force=True)

    assert installed()[0].space == "new"
    assert hidden(models) == []


def test_force_does_not_replace_a_folder_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "song.wav").write_bytes(b"RIFF")
    with pytest.raises(AskedWronglyError, match="not a model folder"), model_folder(tmp_path / "music", force=True):
        pass
    assert (tmp_path / "music" / "song.wav").exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_installation_leaves_all_as_it_was(models: Path, error: type[BaseException]) -> None:
    install("general", space="old")

    with pytest.raises(error), install_folder("general", force=True) as folder:
        write_model(folder, "new")
        raise error

    assert [model.space for model in installed()] == ["old"]
    assert hidden(models) == []


def test_a_models_folder_that_may_not_be_made_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MLXCLAP_MODELS", str(tmp_path / "file" / "models"))
    with pytest.raises(ConvertError, match="could not be written"):
        install("general")


def kill_while_installing(name: str) -> None:
    """Run an installation in another process and kill it there, half-way."""
    code = (
        "import os, signal; from mlx_clap_convert.installed import install_folder\n"
        f"with install_folder({name!r}, force=True) as folder:\n"
        "    (folder / 'config.json').write_text('{')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL


def test_a_killed_installation_is_never_visible_and_is_cleaned_up_by_the_next(models: Path) -> None:
    install("general", space="old")

    for name in ("general", "other"):
        kill_while_installing(name)
        assert [(model.name, model.space) for model in installed()] == [("general", "old")]
        assert len(hidden(models)) == 1

    install("third")

    assert hidden(models) == []
    assert [model.name for model in installed()] == ["general", "third"]


def test_a_kill_while_one_model_replaces_another_loses_neither(models: Path) -> None:
    # The moment between the two renames: the old folder is aside, the new one not yet in its place.
    install("general", space="old")
    (models / "general").rename(models / ".mlxclap-replaced-general-abc123")

    install("other")

    assert {model.name: model.space for model in installed()}["general"] == "old"
    assert hidden(models) == []


def test_work_in_progress_of_another_run_is_left_alone(models: Path) -> None:
    with install_folder("slow") as slow:
        write_model(slow)
        code = (
            "from mlx_clap_convert.installed import install_folder\n"
            "with install_folder('quick') as folder: (folder / 'config.json').write_text('{}')\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
        assert slow.is_dir()
    assert {model.name for model in installed()} == {"quick", "slow"}


def test_listing_models_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mlx_clap_convert.installed import installed; installed()\n"
        "print([m for m in ('mlx', 'numpy', 'huggingface_hub', 'tokenizers', 'lancedb') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
