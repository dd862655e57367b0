"""Reads a model folder strictly: nothing is guessed, defaulted or ignored. `Clap.load` builds the model from it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .backend import mx
from .config import ClapConfig
from .errors import ModelFormatError, ModelNotFoundError
from .tokenizer import Tokenizer
from .weights import weight_shapes

CONFIG, WEIGHTS, TOKENIZER, PROVENANCE = (
    "config.json",
    "weights.safetensors",
    "tokenizer.json",
    "provenance.json",
)
_STORAGE = (mx.float32, mx.float16, mx.bfloat16)
_SHOWN = 8


def read_json(path: Path) -> Any:
    """Parse a JSON file of a model folder.

    Raises:
        ModelFormatError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFormatError(f"{path} is missing: convert the model again") from error
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{path} cannot be read ({error}): convert the model again") from error


def check_weights(weights: dict[str, mx.array], config: ClapConfig, where: str) -> None:
    """Hold names, shapes and dtypes against the configuration.

    Raises:
        ModelFormatError: it lists what is missing, unknown or misshapen.
    """
    shapes = weight_shapes(config)
    missing, unknown = sorted(set(shapes) - set(weights)), sorted(set(weights) - set(shapes))
    misshapen = [
        f"{name} {tuple(weights[name].shape)} instead of {shape}"
        for name, shape in shapes.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    odd = [
        f"{name} {weights[name].dtype}" for name in shapes if name in weights and weights[name].dtype not in _STORAGE
    ]
    problems = [
        f"{kind}: {', '.join(names[:_SHOWN])}" + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for kind, names in (
            ("missing", missing),
            ("unknown", unknown),
            ("misshapen", misshapen),
            ("not float", odd),
        )
        if names
    ]
    if problems:
        raise ModelFormatError(f"the weights in {where} do not fit its configuration; {'; '.join(problems)}")


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder holds, checked. The weights are read when they are first used."""

    config: ClapConfig
    weights: dict[str, mx.array]
    tokenizer: Tokenizer
    space: str


def read_model(folder: Path) -> ModelFolder:
    """See `Clap.load` for what is raised."""
    if not folder.is_dir():
        raise ModelNotFoundError(f"no model folder at {folder}: make one with `mlxclap convert`")
    if not (folder / CONFIG).exists():
        raise ModelNotFoundError(
            f"{folder} holds no {CONFIG}, so it is not a converted model: run `mlxclap convert {folder}` "
            "if it is a checkpoint"
        )
    config = ClapConfig.from_json(read_json(folder / CONFIG))
    provenance = read_json(folder / PROVENANCE)
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelFormatError(f"{path} is missing: convert the model again")
    try:
        weights = mx.load(str(path))
    except RuntimeError as error:
        raise ModelFormatError(f"{path} is damaged ({error}): convert the model again") from error
    assert isinstance(weights, dict)
    check_weights(weights, config, str(path))
    tokenizer = Tokenizer(folder / TOKENIZER, config.text)
    space = provenance.get("space") if isinstance(provenance, dict) else None
    if not isinstance(space, str) or not space:
        raise ModelFormatError(f"{folder / PROVENANCE} does not name the model's space: convert the model again")
    return ModelFolder(config, weights, tokenizer, space)
