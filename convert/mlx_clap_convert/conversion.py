"""A source checkpoint -> an installed, verified model folder. The order of work, and what provenance records.

open -> configuration -> plan (every key accounted for) -> map -> health check -> write -> read back and compare ->
install
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_clap import __version__
from mlx_clap.backend import mx
from mlx_clap.clap import Clap
from mlx_clap.config import ClapConfig
from mlx_clap.load import CONFIG, PROVENANCE, TOKENIZER, WEIGHTS
from mlx_clap.seeded import seeded_sound
from mlx_clap.tokenizer import Tokenizer
from mlx_clap.weights import matrix_names, weight_shapes

from .aliases import ALIASES
from .configs import from_hf, from_laion
from .errors import CheckpointError, ConvertError, HealthError
from .health import Health, examine
from .installed import install_folder, model_folder, models_dir, require_room
from .lazy_tensor import LazyTensor
from .names import map_weights, plan
from .sources import Checkpoint, open_checkpoint
from .space import space_identity, tensor_digest

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
#: The text and the sound whose embeddings provenance keeps, so that `doctor` can hold a device against them.
CHECK_TEXT, CHECK_SOUND = "a dog barking in the distance", 2

Say = Callable[[str], None]
Embedding = NDArray[np.float32]


@dataclass(frozen=True)
class Converted:
    """What `convert` installed."""

    name: str
    path: Path
    space: str
    source: str
    revision: str | None
    dtype: str
    parameters: int
    size_bytes: int
    dropped: dict[str, str]
    health: Health


def default_name(source: str) -> str:
    """The installed name of a source unless ``--name`` says otherwise: its alias, or its last part."""
    for alias in ALIASES.values():
        if source in (alias.name, alias.repo) and (source == alias.name or alias.filename is None):
            return alias.name
    path = Path(source)
    if path.exists():
        return path.resolve().stem if path.is_file() else path.resolve().name
    return path.name.removesuffix(".pt")


def convert(
    source: str,
    *,
    name: str | None = None,
    out: Path | None = None,
    dtype: str = "float32",
    revision: str | None = None,
    tokenizer: Path | None = None,
    force: bool = False,
    say: Say = lambda _: None,
) -> Converted:
    """Bring in `source` (see `open_checkpoint`) and install it as `name`, or write it to the folder `out`.

    Args:
        dtype: how matrices are stored; norms, biases and BatchNorm statistics stay float32.
        force: install although the health check refuses, and replace a model of that name.
        say: receives a line for each step.

    Raises:
        AskedWronglyError: the name is taken or unfit, or the source is not there.
        ConvertError: its subclasses say whether the source, the file, the mapping or the model's health is at fault.
    """
    name = name or (out.name if out else default_name(source))
    target = out or models_dir() / name
    # Before anything is downloaded: a name that would be refused at the end.
    require_room(target, None if out else name, force=force)
    with open_checkpoint(source, revision=revision, tokenizer=tokenizer, force=force) as checkpoint:
        say(f"reading {checkpoint.source} ({checkpoint.layout} layout, {len(checkpoint.tensors)} tensors)")
        # Also tells which tokenizer a LAION file, which has none of its own, was given.
        say(f"files: {', '.join(file.name for file in checkpoint.files)}")
        tensors = {key.removeprefix("module."): tensor for key, tensor in checkpoint.tensors.items()}
        config = _configuration(checkpoint, tensors)
        sources, dropped = plan(config, tensors, checkpoint.layout)
        weights, digests = _mapped(config, tensors, sources)
        space = space_identity(config, digests)
        parameters = sum(array.size for array in weights.values())
        say(f"{parameters:,} values mapped, {len(dropped)} keys dropped with a reason; checking the embeddings")
        clap = Clap(config, weights, Tokenizer(checkpoint.tokenizer, config.text), space, name)
        health = examine(clap)
        for warning in health.warnings:
            say(f"warning: {warning}")
        if health.problem and not force:
            raise HealthError(
                f"{checkpoint.source} was not installed: {health.problem}. "
                "`mlxclap convert general` brings in a model that works; --force installs this one all the same"
            )
        if health.problem:
            say(f"warning: installed by force, although {health.problem}")
        expected = _check_embeddings(clap)
        del clap  # and its folded towers: with the model read back below, two copies of the weights are enough
        provenance = _provenance(checkpoint, space, dtype, parameters, dropped, health) | _fingerprint(*expected)
        installing: AbstractContextManager[Path] = (
            model_folder(out, force=force) if out else install_folder(name, force=force)
        )
        with installing as folder:
            _write(folder, config, _stored(weights, config, dtype), checkpoint.tokenizer, provenance)
            del weights
            _read_back(folder, expected, dtype)
        say(f"verified: the written model gives the same embeddings ({target})")
    size = sum(file.stat().st_size for file in target.iterdir())
    return Converted(
        name, target, space, checkpoint.source, checkpoint.revision, dtype, parameters, size, dropped, health
    )


def _configuration(checkpoint: Checkpoint, tensors: dict[str, LazyTensor]) -> ClapConfig:
    if checkpoint.layout == "laion":
        return from_laion(tensors)
    if checkpoint.config is None:
        raise CheckpointError(f"{checkpoint.source} is in Hugging Face's layout but has no config.json: put it beside")
    return from_hf(checkpoint.config, checkpoint.preprocessor)


def _mapped(
    config: ClapConfig, tensors: dict[str, LazyTensor], sources: dict[str, tuple[str, ...]]
) -> tuple[dict[str, mx.array], dict[str, bytes]]:
    """The weights in our layout, and a digest of each; one tensor at a time is held twice."""
    weights, digests = {}, {}
    for key, array in map_weights(config, tensors, sources):
        if not np.isfinite(array).all():
            raise CheckpointError(
                f"{' + '.join(sources[key])} holds values that are not finite: the checkpoint is damaged"
            )
        weights[key], digests[key] = mx.array(array), tensor_digest(key, array)
    return weights, digests


def _stored(weights: dict[str, mx.array], config: ClapConfig, dtype: str) -> Iterator[tuple[str, mx.array]]:
    """The weights as they are stored: matrices in `dtype`, the rest in float32."""
    halved = matrix_names(weight_shapes(config)) if dtype != "float32" else set()
    limit = float(np.finfo(np.float16).max)
    for key, array in weights.items():
        if key in halved and dtype == "float16" and np.array(mx.abs(array).max()) > limit:
            raise CheckpointError(
                f"{key} holds values beyond float16's range: convert with --dtype bfloat16 or float32"
            )
        yield key, array.astype(DTYPES[dtype]) if key in halved else array


def _write(
    folder: Path,
    config: ClapConfig,
    weights: Iterator[tuple[str, mx.array]],
    tokenizer: Path,
    provenance: dict[str, Any],
) -> None:
    (folder / CONFIG).write_text(json.dumps(config.to_json(), indent=2) + "\n", encoding="utf-8")
    try:
        mx.save_safetensors(str(folder / WEIGHTS), dict(weights), {"format": "mlx"})
    except RuntimeError as error:  # MLX's word for a full disk
        raise ConvertError(
            f"the weights could not be written to {folder.parent} ({error}): is the disk full?"
        ) from error
    shutil.copyfile(tokenizer, folder / TOKENIZER)
    (folder / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")


def _read_back(folder: Path, expected: tuple[Embedding, Embedding], dtype: str) -> None:
    """The folder, loaded strictly as any user will, must give the embeddings the mapped weights gave."""
    loaded = Clap.load(folder)
    allowed = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 2e-2}[dtype]
    for ours, theirs in zip(_check_embeddings(loaded), expected, strict=True):
        distance = 1.0 - float(ours @ theirs)
        if not distance <= allowed:
            raise CheckpointError(
                f"the written model differs from the checkpoint by a cosine distance of {distance:.2g} (at most "
                f"{allowed:g} passes): nothing was installed. Check the disk, or choose another --dtype"
            )


def _check_embeddings(clap: Clap) -> tuple[Embedding, Embedding]:
    sound = seeded_sound(CHECK_SOUND, clap.config.mel.window_samples)
    return clap.embed_text([CHECK_TEXT])[0], clap.embed_audio(sound[None])[0]


def _fingerprint(text: Embedding, sound: Embedding) -> dict[str, Any]:
    return {"check": {"text": CHECK_TEXT, "text_embedding": _numbers(text), "sound_embedding": _numbers(sound)}}


def _numbers(embedding: Embedding) -> list[float]:
    return [round(float(x), 8) for x in embedding]


def _provenance(
    checkpoint: Checkpoint, space: str, dtype: str, parameters: int, dropped: dict[str, str], health: Health
) -> dict[str, Any]:
    return {
        "space": space,
        "source": checkpoint.source,
        "revision": checkpoint.revision,
        "layout": checkpoint.layout,
        "files": [asdict(file) for file in checkpoint.files],
        "dtype": dtype,
        "parameters": parameters,
        "dropped": dropped,
        "health": asdict(health),
        "converter": f"mlx-clap {__version__}",
        "converted_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
