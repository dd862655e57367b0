"""The models of this machine, one folder each in the user's data folder (or `MLXCLAP_MODELS`), and the default one.

It reads a model's small JSON files and never its weights, so that listing models imports nothing heavy.
"""

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_clap.errors import AskedWronglyError, ModelNotFoundError

from .aliases import DEFAULT_ALIAS
from .atomic_folder import atomic_folder, remove_folder
from .errors import ConvertError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DEFAULT_FILE = ".default"
_FILES = ("config.json", "weights.safetensors", "tokenizer.json", "provenance.json")


@dataclass(frozen=True)
class InstalledModel:
    """A model folder as its provenance describes it; texts may be empty where `problem` is not None."""

    name: str
    path: Path
    space: str
    default: bool
    dtype: str
    source: str
    revision: str | None
    converted_at: str
    size_bytes: int
    problem: str | None = None


def models_dir() -> Path:
    """The folder that holds the models. It need not exist yet."""
    import platformdirs

    chosen = os.environ.get("MLXCLAP_MODELS")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("mlxclap", False)) / "models"


def installed() -> list[InstalledModel]:
    """Every installed model by name; a damaged folder is listed with its problem and raises nothing."""
    names = _names()
    default = _default_name(names)
    return [_describe(models_dir() / name, name == default) for name in names]


def resolve(name_or_path: str | os.PathLike[str] | None = None) -> Path:
    """The folder of an installed model, or of a model anywhere by its path; None is the default model.

    Raises:
        ModelNotFoundError: no such model, none installed at all, or several and no default.
    """
    names = _names()
    if name_or_path is None:
        return _default_model(names)
    asked = os.fspath(name_or_path)
    if asked in names:
        return models_dir() / asked
    path = Path(asked).expanduser()
    if path.is_dir():
        return path
    raise ModelNotFoundError(
        f"There is no model {asked!r}: neither an installed name nor a folder. {_what_there_is(names)}"
    )


def use(name: str) -> None:
    """Make `name` the default model.

    Raises:
        ModelNotFoundError: no installed model has that name.
    """
    _require(name)
    staged = models_dir() / f"{_DEFAULT_FILE}.{os.getpid()}"
    staged.write_text(name, encoding="utf-8")
    staged.replace(models_dir() / _DEFAULT_FILE)


def remove(name: str) -> None:
    """Delete the installed model `name`; its name is free at once.

    Raises:
        ModelNotFoundError: no installed model has that name (a path is never accepted here).
    """
    _require(name)
    remove_folder(models_dir() / name)


def require_room(target: Path, name: str | None, *, force: bool) -> None:
    """Refuse a model folder `target` that could not be installed (`name`: as the model of that name), before any work.

    Raises:
        AskedWronglyError: `name` is unfit for a folder; `target` exists and not `force`, or it is something else than a
            model folder.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise AskedWronglyError(
            f"{name!r} is no name for a model: use letters, digits, dot, dash and underscore, as in --name general"
        )
    if target.exists() and not force:
        raise AskedWronglyError(f"{target} exists already: pass --force to replace it, or choose another --name")
    # Among the models a damaged folder may be replaced too; elsewhere only what surely is a model.
    ours = name is not None or all((target / file).is_file() for file in _FILES) or _is_empty(target)
    if target.exists() and not ours:
        raise AskedWronglyError(
            f"{target} exists and is not a model folder, so it is not replaced: choose another place"
        )


@contextmanager
def install_folder(name: str, *, force: bool = False) -> Iterator[Path]:
    """Give an empty folder to write a model into; on leaving, it is the installed model `name`, whole or not at all.

    Raises:
        AskedWronglyError: as `require_room`.
        ConvertError: the disk is full, or the models folder may not be written to.
    """
    require_room(models_dir() / name, name, force=force)
    with _written(models_dir() / name) as folder:
        yield folder


@contextmanager
def model_folder(target: Path, *, force: bool = False) -> Iterator[Path]:
    """As `install_folder`, for a model folder anywhere (`--out`)."""
    require_room(target, None, force=force)
    with _written(target) as folder:
        yield folder


@contextmanager
def _written(target: Path) -> Iterator[Path]:
    try:
        with atomic_folder(target) as folder:
            yield folder
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ConvertError(f"The disk of {target.parent} is full: free some space and try again") from error
        raise ConvertError(f"The model could not be written to {target}: {error}") from error


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _names() -> list[str]:
    folder = models_dir()
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and _NAME.fullmatch(entry.name))


def _default_name(names: list[str]) -> str | None:
    """The one set by `use`, as long as it is installed; else the only one; else None."""
    try:
        chosen = (models_dir() / _DEFAULT_FILE).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        chosen = ""
    if chosen in names:
        return chosen
    return names[0] if len(names) == 1 else None


def _default_model(names: list[str]) -> Path:
    name = _default_name(names)
    if name is None:
        what = "No model is chosen." if names else "No model is installed yet."
        raise ModelNotFoundError(f"{what} {_what_there_is(names)}")
    return models_dir() / name


def _what_there_is(names: list[str]) -> str:
    if not names:
        return (
            f"`mlxclap convert` downloads {DEFAULT_ALIAS.repo} ({DEFAULT_ALIAS.download_bytes / 1e6:.0f} MB) and "
            "converts it; the README says more about models."
        )
    return (
        f"Installed: {', '.join(names)}. Name one with --model, or make one the default with "
        f"`mlxclap models use {names[0]}`."
    )


def _require(name: str) -> None:
    names = _names()
    if name not in names:
        raise ModelNotFoundError(f"No installed model is called {name!r}. {_what_there_is(names)}")


def _describe(path: Path, default: bool) -> InstalledModel:
    provenance, problem = _read_object(path / "provenance.json")
    if problem is None:
        problem = _read_object(path / "config.json")[1]
    missing = [name for name in _FILES if not (path / name).is_file()]
    if missing:
        problem = f"{', '.join(missing)} missing"
    elif problem is None and not _text(provenance, "space"):
        problem = "provenance.json names no space"
    return InstalledModel(
        name=path.name,
        path=path,
        space=_text(provenance, "space"),
        default=default,
        dtype=_text(provenance, "dtype"),
        source=_text(provenance, "source"),
        revision=_text(provenance, "revision") or None,
        converted_at=_text(provenance, "converted_at"),
        size_bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        problem=f"{problem}: convert it again, or `mlxclap models remove {path.name}`" if problem else None,
    )


def _read_object(path: Path) -> tuple[dict[str, Any], str | None]:
    """A JSON object and no problem, or an empty one and what is wrong."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"{path.name} cannot be read ({error})"
    return (value, None) if isinstance(value, dict) else ({}, f"{path.name} is not a JSON object")


def _text(provenance: dict[str, Any], key: str) -> str:
    value = provenance.get(key)
    return value if isinstance(value, str) else ""
