"""Source keys <-> our weight names: pure tables, total and one-to-one, for both published layouts.

``hf`` is the layout of transformers' ``ClapModel``, ``laion`` that of the original LAION checkpoints
(lukewys/laion_clap). A mapping is proved by `plan`: every weight of the model has its source keys, and every source
key is used or droppable for a stated reason. The tables say where each of our weights comes from; run backwards
(`to_hf`) they give a reference implementation our weights. Layout moves (convolutions to MLX's channels-last order,
query, key and value stacked) happen here and nowhere else.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from mlx_clap.config import ClapConfig
from mlx_clap.weights import weight_shapes

from .errors import MappingError
from .lazy_tensor import LazyTensor
from .state_dict import Layout

_HF_ENCODER = "audio_model.audio_encoder"
_HF_FUSION = f"{_HF_ENCODER}.patch_embed.fusion_model"
_LAION_FUSION = "audio_branch.patch_embed.fusion_model"

# ours -> source, first match wins; `{}` in the text rules is the source's name of the text tower.
_TEXT: list[tuple[str, str]] = [
    (r"text\.embeddings\.tokens$", "{}.embeddings.word_embeddings.weight"),
    (r"text\.embeddings\.positions$", "{}.embeddings.position_embeddings.weight"),
    (r"text\.embeddings\.token_types$", "{}.embeddings.token_type_embeddings.weight"),
    (r"text\.embeddings\.norm\.", "{}.embeddings.LayerNorm."),
    (r"text\.layers\.(\d+)\.attention\.qkv\.", r"{}.encoder.layer.\1.attention.self.qkv."),
    (r"text\.layers\.(\d+)\.attention\.out\.", r"{}.encoder.layer.\1.attention.output.dense."),
    (r"text\.layers\.(\d+)\.norm1\.", r"{}.encoder.layer.\1.attention.output.LayerNorm."),
    (r"text\.layers\.(\d+)\.norm2\.", r"{}.encoder.layer.\1.output.LayerNorm."),
    (r"text\.layers\.(\d+)\.fc1\.", r"{}.encoder.layer.\1.intermediate.dense."),
    (r"text\.layers\.(\d+)\.fc2\.", r"{}.encoder.layer.\1.output.dense."),
    (r"text\.pooler\.", "{}.pooler.dense."),
]


def _fusion(prefix: str) -> list[tuple[str, str]]:
    # The global branch starts with a pooling layer, so its indices are one higher.
    return [
        (rf"audio\.fusion\.{branch}\.{part}\.", f"{prefix}.{branch}_att.{index + offset}.")
        for branch, offset in (("local", 0), ("global", 1))
        for part, index in (("fc1", 0), ("norm1", 1), ("fc2", 3), ("norm2", 4))
    ]


_HF: list[tuple[str, str]] = [
    (r"audio\.batch_norm\.", f"{_HF_ENCODER}.batch_norm."),
    (r"audio\.patch_embed\.", f"{_HF_ENCODER}.patch_embed."),
    (r"audio\.fusion\.crop_proj\.", f"{_HF_ENCODER}.patch_embed.mel_conv2d."),
    *_fusion(_HF_FUSION),
    (
        r"audio\.stages\.(\d+)\.blocks\.(\d+)\.norm1\.",
        rf"{_HF_ENCODER}.layers.\1.blocks.\2.layernorm_before.",
    ),
    (r"audio\.stages\.(\d+)\.blocks\.(\d+)\.norm2\.", rf"{_HF_ENCODER}.layers.\1.blocks.\2.layernorm_after."),
    (
        r"audio\.stages\.(\d+)\.blocks\.(\d+)\.attention\.qkv\.",
        rf"{_HF_ENCODER}.layers.\1.blocks.\2.attention.self.qkv.",
    ),
    (
        r"audio\.stages\.(\d+)\.blocks\.(\d+)\.attention\.bias_table$",
        rf"{_HF_ENCODER}.layers.\1.blocks.\2.attention.self.relative_position_bias_table",
    ),
    (
        r"audio\.stages\.(\d+)\.blocks\.(\d+)\.attention\.out\.",
        rf"{_HF_ENCODER}.layers.\1.blocks.\2.attention.output.dense.",
    ),
    (
        r"audio\.stages\.(\d+)\.blocks\.(\d+)\.fc1\.",
        rf"{_HF_ENCODER}.layers.\1.blocks.\2.intermediate.dense.",
    ),
    (r"audio\.stages\.(\d+)\.blocks\.(\d+)\.fc2\.", rf"{_HF_ENCODER}.layers.\1.blocks.\2.output.dense."),
    (r"audio\.stages\.(\d+)\.merge\.", rf"{_HF_ENCODER}.layers.\1.downsample."),
    (r"audio\.norm\.", f"{_HF_ENCODER}.norm."),
    (r"(audio|text)\.projection\.fc([12])\.", r"\1_projection.linear\2."),
    (r"audio\.logit_scale$", "logit_scale_a"),
    (r"text\.logit_scale$", "logit_scale_t"),
    *((ours, source.format("text_model")) for ours, source in _TEXT),
]

_LAION: list[tuple[str, str]] = [
    (r"audio\.batch_norm\.", "audio_branch.bn0."),
    (r"audio\.patch_embed\.", "audio_branch.patch_embed."),
    (r"audio\.fusion\.crop_proj\.", "audio_branch.patch_embed.mel_conv2d."),
    *_fusion(_LAION_FUSION),
    (r"audio\.stages\.(\d+)\.blocks\.(\d+)\.(norm[12])\.", r"audio_branch.layers.\1.blocks.\2.\3."),
    (r"audio\.stages\.(\d+)\.blocks\.(\d+)\.attention\.qkv\.", r"audio_branch.layers.\1.blocks.\2.attn.qkv."),
    (
        r"audio\.stages\.(\d+)\.blocks\.(\d+)\.attention\.bias_table$",
        r"audio_branch.layers.\1.blocks.\2.attn.relative_position_bias_table",
    ),
    (
        r"audio\.stages\.(\d+)\.blocks\.(\d+)\.attention\.out\.",
        r"audio_branch.layers.\1.blocks.\2.attn.proj.",
    ),
    (r"audio\.stages\.(\d+)\.blocks\.(\d+)\.(fc[12])\.", r"audio_branch.layers.\1.blocks.\2.mlp.\3."),
    (r"audio\.stages\.(\d+)\.merge\.", r"audio_branch.layers.\1.downsample."),
    (r"audio\.norm\.", "audio_branch.norm."),
    (r"(audio|text)\.projection\.fc1\.", r"\1_projection.0."),
    (r"(audio|text)\.projection\.fc2\.", r"\1_projection.2."),
    (r"audio\.logit_scale$", "logit_scale_a"),
    (r"text\.logit_scale$", "logit_scale_t"),
    *((ours, source.format("text_branch")) for ours, source in _TEXT),
]

# Source keys that carry nothing the model computes with, and why.
DROPPABLE: dict[Layout, list[tuple[str, str]]] = {
    "hf": [
        (
            r"text_model\.embeddings\.(position_ids|token_type_ids)$",
            "a constant buffer, computed from the token ids",
        ),
        (r".*\.relative_position_index$", "a constant buffer, computed from the window size"),
        (r".*\.num_batches_tracked$", "a training counter of BatchNorm"),
    ],
    "laion": [
        (
            r"text_branch\.embeddings\.(position_ids|token_type_ids)$",
            "a constant buffer, computed from the token ids",
        ),
        (r".*\.relative_position_index$", "a constant buffer, computed from the window size"),
        (r".*\.num_batches_tracked$", "a training counter of BatchNorm"),
        (r".*\.attn_mask$", "a constant buffer, computed from the grid and shift"),
        (
            r"audio_branch\.(spectrogram_extractor|logmel_extractor)\.",
            "the front end's constants, computed by ours",
        ),
        (r"audio_branch\.(tscam_conv|head)\.", "the AudioSet tagging head, not part of the embedding"),
        (r"(audio|text)_transform\.", "an MLP only the training loss used"),
    ],
}

_RULES = {"hf": _HF, "laion": _LAION}


def source_keys(name: str, layout: Layout) -> tuple[str, ...]:
    """The source keys that one of our weights is made of (three where query, key and value are apart)."""
    for pattern, replacement in _RULES[layout]:
        key, n = re.subn(f"^{pattern}", replacement, name)
        if n:
            key = re.sub(r"(batch_norm|bn0|_att\.\d+)\.(mean|var)$", r"\1.running_\2", key)
            if ".self.qkv." in key:
                return tuple(key.replace(".self.qkv.", f".self.{part}.") for part in ("query", "key", "value"))
            return (key,)
    raise MappingError(f"no {layout} key is known for the weight {name}")


def plan(config: ClapConfig, keys: Iterable[str], layout: Layout) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Prove that `keys` fill a model of `config`, one to one.

    Returns:
        our name -> its source keys, and dropped source key -> why.

    Raises:
        MappingError: it names every source key that is missing, and every one that nothing uses.
    """
    present = set(keys)
    sources = {name: source_keys(name, layout) for name in weight_shapes(config)}
    used = [key for parts in sources.values() for key in parts]
    missing = sorted(set(used) - present)
    dropped, unknown = {}, []
    for key in sorted(present - set(used)):
        reason = next((why for pattern, why in DROPPABLE[layout] if re.match(pattern, key)), None)
        if reason is None:
            unknown.append(key)
        else:
            dropped[key] = reason
    if missing or unknown:
        parts = [
            f"{len(m)} {what}: {', '.join(m[:6])}{' ...' if len(m) > 6 else ''}"
            for what, m in (("missing", missing), ("unknown", unknown))
            if m
        ]
        raise MappingError(
            f"the checkpoint's {layout} keys do not match its configuration ({'; '.join(parts)}). "
            "Is it a CLAP checkpoint, and complete?"
        )
    return sources, dropped


def map_weights(
    config: ClapConfig, tensors: Mapping[str, LazyTensor], sources: Mapping[str, tuple[str, ...]]
) -> Iterable[tuple[str, NDArray[np.float32]]]:
    """Yield (our name, float32 array in our layout), reading one tensor at a time.

    Raises:
        MappingError: a tensor whose shape is not what the configuration asks for.
    """
    for name, shape in weight_shapes(config).items():
        parts = [np.asarray(tensors[key].numpy(), np.float32) for key in sources[name]]
        array = _to_ours(name, parts)
        if array.shape != shape:
            raise MappingError(
                f"{' + '.join(sources[name])} has shape {[p.shape for p in parts]}, "
                f"the configuration asks for {shape} ({name})"
            )
        yield name, np.ascontiguousarray(array).reshape(shape)  # numpy makes a scalar one-dimensional here


def to_hf(weights: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Our weights under transformers' keys and layout: the map run backwards."""
    return _backwards(weights, "hf")


def to_laion(weights: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Our weights under the original LAION keys and layout."""
    return _backwards(weights, "laion")


def _backwards(weights: Mapping[str, NDArray[np.float32]], layout: Layout) -> dict[str, NDArray[np.float32]]:
    out: dict[str, NDArray[np.float32]] = {}
    for name, array in weights.items():
        keys = source_keys(name, layout)
        out.update(
            zip(
                keys,
                np.split(_to_source(name, array), len(keys)) if len(keys) > 1 else [_to_source(name, array)],
                strict=True,
            )
        )
    return out


def _is_conv(name: str) -> bool:
    return name in ("audio.patch_embed.proj.weight", "audio.fusion.crop_proj.weight")


def _is_pointwise(name: str) -> bool:
    return name.startswith("audio.fusion.") and name.endswith((".fc1.weight", ".fc2.weight"))


def _to_ours(name: str, parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    array = np.concatenate(parts) if len(parts) > 1 else parts[0]
    if _is_conv(name) and array.ndim == 4:
        return array.transpose(0, 2, 3, 1)  # [out, in, h, w] -> [out, h, w, in]
    if _is_pointwise(name) and array.ndim == 4:
        return array[:, :, 0, 0]
    return array.reshape(()) if name.endswith("logit_scale") and array.size == 1 else array


def _to_source(name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    if _is_conv(name):
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2))
    return array[:, :, None, None] if _is_pointwise(name) else array
