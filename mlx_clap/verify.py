"""Does this device compute the reference's numbers? One check, used by the tests, by ``make parity`` and by ``doctor``.

A `Reference` is what ``transformers`` computed for given weights: the log-mel, every stage of both towers, the
un-normalised projections and the embeddings. `check` runs our model on the same input and holds each error against a
bar. The stored references under ``golden/`` were written by the reference implementation, never by this one; their
models and sounds are seeded (`mlx_clap.seeded`), so only outputs are stored.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from .backend import mx, on_gpu
from .clap import Clap, unit
from .config import ClapConfig
from .seeded import seeded_ids, seeded_sound, seeded_weights, uniform
from .weights import matrix_names, weight_shapes

Array = NDArray[np.float32]
_SAMPLE = 2048
#: Stored references: two small models with every stage, and the released shapes with their embeddings.
SMALL, FULL_SIZE = ("small", "small-fused"), ("unfused", "fused", "larger")


@dataclass(frozen=True)
class Bars:
    """Largest errors that pass. Log-mel in dB; stages and projections relative to the reference's largest value;
    embeddings by component, or by cosine distance where the device cannot give the reference's last bits."""

    cosine_distance: float
    log_mel_loud: float | None = None
    log_mel_rest: float | None = None
    stage: float | None = None
    projection: float | None = None
    embedding: float | None = None
    end_to_end: float | None = None


#: Float32 on a CPU is held to the reference stage by stage.
CPU_FLOAT32 = Bars(
    1e-6, log_mel_loud=1e-3, log_mel_rest=0.05, stage=2e-5, projection=1e-5, embedding=2e-6, end_to_end=5e-6
)
#: Elsewhere (GPU arithmetic, rounded weights) by what a search would notice.
BY_DTYPE = {"float32": Bars(1e-5), "float16": Bars(1e-3), "bfloat16": Bars(2e-2)}


def bars_for(clap: Clap) -> Bars:
    """The bars for this model on this device: the strict ones only for float32 weights on a CPU."""
    stored = str(clap.weights["audio.projection.fc1.weight"].dtype).removeprefix("mlx.core.")
    return CPU_FLOAT32 if stored == "float32" and clap.dtype == mx.float32 and not on_gpu() else BY_DTYPE[stored]


@dataclass
class Reference:
    """What the reference implementation computed.

    `waveforms` [B, N] gave `log_mel` [B, T, M]; from `log_mel` (with `with_crops` where `longer` is given) came the
    audio stages, from `ids` [C, L] the text stages. Stage arrays are [B, ...], or `sampled` ones [B, k].
    """

    config: ClapConfig
    waveforms: Array
    ids: NDArray[np.int32]
    log_mel: Array | None
    longer: NDArray[np.bool_] | None
    audio: dict[str, Array]
    text: dict[str, Array]
    sampled: bool = False
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One comparison: `error` must not exceed `bar`."""

    name: str
    error: float
    bar: float

    @property
    def ok(self) -> bool:
        return bool(self.error <= self.bar)  # a NaN fails


def with_crops(log_mel: Any) -> Any:
    """Log-mel [B, T, M] -> [B, 4, T, M] as fused models take it: the overview, then three 'crops' (here: rotations)."""
    module = mx if isinstance(log_mel, mx.array) else np
    return module.stack([log_mel, *(module.roll(log_mel, shift, axis=1) for shift in (100, 300, 500))], axis=1)


def sample(name: str, array: Array) -> Array:
    """A fixed pseudo-random choice of at most 2048 values of each row: [B, ...] -> [B, k]."""
    flat = np.asarray(array, np.float32).reshape(len(array), -1)
    n = flat.shape[1]
    if n <= _SAMPLE:
        return flat
    at = ((uniform(f"sample/{name}", _SAMPLE).astype(np.float64) + 1.0) / 2.0 * n).astype(np.int64)
    return flat[:, at]


def check(clap: Clap, reference: Reference, bars: Bars | None = None) -> list[Check]:
    """Compare `clap` with `reference` in every quantity both the reference and the bars have."""
    return list(_checks(clap, reference, bars or bars_for(clap)))


def _checks(clap: Clap, reference: Reference, bars: Bars) -> Iterator[Check]:
    log_mel = _rows(clap, clap.log_mel, reference.waveforms)
    if reference.log_mel is not None and bars.log_mel_loud is not None and bars.log_mel_rest is not None:
        loud, rest = log_mel_errors(log_mel, reference.log_mel)
        yield Check("log-mel, within 80 dB of the loudest bin", loud, bars.log_mel_loud)
        yield Check("log-mel, elsewhere above -90 dB", rest, bars.log_mel_rest)
    for source in (["log-mel"] if reference.log_mel is not None else []) + ["sound"]:
        features = reference.log_mel if source == "log-mel" else log_mel
        ours = _audio_stages(clap, features, reference.longer)
        yield from _compare("audio", ours, reference.audio, reference.sampled, bars, end_to_end=source == "sound")
    yield from _compare("text", _text_stages(clap, reference.ids), reference.text, reference.sampled, bars)


def log_mel_errors(ours: Array, reference: Array) -> tuple[float, float]:
    """Largest error in dB (within 80 dB of each frame's loudest bin, elsewhere above -90 dB)."""
    error = np.abs(ours - reference)
    loud = reference > reference.max(axis=-1, keepdims=True) - 80.0
    rest = ~loud & (reference > -90.0)
    return float(error[loud].max()), float(error[rest].max()) if rest.any() else 0.0


def _compare(
    tower: str, ours: dict[str, Array], theirs: dict[str, Array], sampled: bool, bars: Bars, end_to_end: bool = False
) -> Iterator[Check]:
    for stage, expected in theirs.items():
        got = sample(stage, ours[stage]) if sampled else ours[stage]
        error = float(np.abs(got - expected).max())
        relative = error / float(np.abs(expected).max())
        if stage == "embedding":
            suffix = ", from the sound" if end_to_end else ""
            bar = bars.end_to_end if end_to_end else bars.embedding
            if bar is not None:
                yield Check(f"{tower} embedding{suffix}", error, bar)
            distance = float((1.0 - (got.astype(np.float64) * expected).sum(-1)).max())
            yield Check(f"{tower} embedding{suffix}, cosine distance", distance, bars.cosine_distance)
        elif not end_to_end and (bar := bars.projection if stage == "projection" else bars.stage) is not None:
            yield Check(f"{tower} {stage}", relative, bar)


def _rows(clap: Clap, function: Any, rows: Array) -> Array:
    """Apply `function` row by row: checks run on the one batch shape every machine can hold."""
    return np.concatenate([np.array(function(mx.array(row[None]))) for row in rows])


def _audio_stages(clap: Clap, log_mel: Any, longer: NDArray[np.bool_] | None) -> dict[str, Array]:
    def run(features: mx.array, flags: NDArray[np.bool_] | None, tap: Any) -> None:
        pooled = clap.audio_tower(features, flags, tap)
        _tap_projection(clap.audio_projection(pooled), tap)

    features = log_mel if longer is None else with_crops(log_mel)
    return _collect(
        lambda i, tap: run(mx.array(features[i : i + 1]), None if longer is None else longer[i : i + 1], tap),
        len(log_mel),
    )


def _text_stages(clap: Clap, ids: NDArray[np.int32]) -> dict[str, Array]:
    return _collect(
        lambda i, tap: _tap_projection(clap.text_projection(clap.text_tower(ids[i : i + 1], tap)), tap), len(ids)
    )


def _tap_projection(projection: mx.array, tap: Any) -> None:
    tap("projection", projection)
    tap("embedding", unit(projection))


def _collect(run: Any, rows: int) -> dict[str, Array]:
    stages: dict[str, list[Array]] = {}
    for i in range(rows):
        run(i, lambda name, array: stages.setdefault(name, []).append(np.array(array.astype(mx.float32))))
    return {name: np.concatenate(parts) for name, parts in stages.items()}


def stored_reference(name: str) -> Reference:
    """One of the references under ``golden/`` (`SMALL` and `FULL_SIZE` name them)."""
    path = resources.files("mlx_clap") / "golden" / f"{name}.safetensors"
    with resources.as_file(path) as file, safe_open(file, framework="numpy") as stored:
        metadata = stored.metadata()
        arrays = {key: stored.get_tensor(key) for key in stored.keys()}
    config = ClapConfig.from_json(json.loads(metadata["config"]))
    seeds = json.loads(metadata["sounds"])
    longer = json.loads(metadata["longer"])
    return Reference(
        config=config,
        waveforms=np.stack([seeded_sound(seed) for seed in seeds]),
        ids=seeded_ids(config),
        log_mel=arrays.get("log_mel"),
        longer=None if longer is None else np.array(longer),
        audio={key.removeprefix("audio/"): a for key, a in arrays.items() if key.startswith("audio/")},
        text={key.removeprefix("text/"): a for key, a in arrays.items() if key.startswith("text/")},
        sampled=True,
        versions=json.loads(metadata["versions"]),
    )


def seeded_clap(config: ClapConfig, dtype: mx.Dtype = mx.float32) -> Clap:
    """The model the stored references were computed with: seeded weights, no tokenizer; stored in `dtype`."""
    halved = matrix_names(weight_shapes(config)) if dtype != mx.float32 else set()
    weights = {
        name: mx.array(array).astype(dtype) if name in halved else mx.array(array)
        for name, array in seeded_weights(config).items()
    }
    return Clap(config, weights, name="seeded")
