"""A checkpoint's description -> `ClapConfig`.

Hugging Face configs come in two kinds: full ones with dozens of dead keys, and ones that hold only what differs from
the class defaults. So unknown keys are ignored and every missing key takes transformers' class default, while a
*value* this port does not implement is an error. LAION ``.pt`` files carry no config: their tensors' shapes tell.
"""

import re
from collections.abc import Mapping
from typing import Any

from mlx_clap.audio import SAMPLE_RATE, WINDOW_SAMPLES
from mlx_clap.config import AudioConfig, ClapConfig, MelConfig, TextConfig
from mlx_clap.errors import ModelFormatError

from .errors import CheckpointError
from .lazy_tensor import LazyTensor

# Class defaults of transformers' ClapTextConfig, ClapAudioConfig, ClapConfig and ClapFeatureExtractor.
_TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 50265,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "layer_norm_eps": 1e-12,
}
_AUDIO_DEFAULTS: dict[str, Any] = {
    "window_size": 8,
    "num_mel_bins": 64,
    "spec_size": 256,
    "patch_size": 4,
    "depths": [2, 2, 6, 2],
    "num_attention_heads": [4, 8, 16, 32],
    "enable_fusion": False,
    "patch_embeds_hidden_size": 96,
    "mlp_ratio": 4.0,
    "aff_block_r": 4,
    "layer_norm_eps": 1e-5,
}
_EXTRACTOR_DEFAULTS: dict[str, Any] = {
    "feature_size": 64,
    "sampling_rate": 48_000,
    "hop_length": 480,
    "max_length_s": 10,
    "fft_window_size": 1024,
    "frequency_min": 0,  # the class default; every published preprocessor_config.json says 50
    "frequency_max": 14_000,
    "truncation": "fusion",
    "padding": "repeatpad",
    "top_db": None,
}
# Values this port implements; anything else under these keys would be silently wrong.
_ONLY: dict[str, dict[str, tuple[Any, ...]]] = {
    "text_config": {
        "hidden_act": ("gelu",),
        "position_embedding_type": ("absolute",),
        "projection_hidden_act": ("relu",),
        "is_decoder": (False,),
    },
    "audio_config": {
        "hidden_act": ("gelu",),
        "qkv_bias": (True,),
        "patch_embed_input_channels": (1,),
        "enable_patch_layer_norm": (True,),
        "flatten_patch_embeds": (True,),
        "fusion_type": (None, "aff_2d"),
        "projection_hidden_act": ("relu",),
    },
    "preprocessor_config.json": {
        "padding": ("repeatpad",),
        "top_db": (None,),
        "truncation": ("rand_trunc", "fusion"),
    },
}


def from_hf(config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None) -> ClapConfig:
    """Read a Hugging Face ``config.json`` and ``preprocessor_config.json`` (None: LAION's published front end).

    Raises:
        CheckpointError: another model type, or a value this port does not implement (named).
    """
    try:
        return _from_hf(config, preprocessor)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError, AttributeError, ModelFormatError) as error:
        raise CheckpointError(f"the checkpoint's configuration makes no sense ({error}): download it again") from error


def _from_hf(config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None) -> ClapConfig:
    if config.get("model_type", "clap") != "clap":
        raise CheckpointError(f"this is a checkpoint of type {config['model_type']!r}; only CLAP (`clap`) is read")
    text = {**_TEXT_DEFAULTS, **_section(config, "text_config")}
    audio = {**_AUDIO_DEFAULTS, **_section(config, "audio_config")}
    patch = _single(audio["patch_size"])
    if _single(audio.get("patch_stride", patch)) != patch:
        raise CheckpointError(f"patch_stride {audio['patch_stride']} differs from patch_size {patch}: not implemented")
    fusion = bool(audio["enable_fusion"])
    return ClapConfig(
        mel=_mel(preprocessor, fusion, int(audio["num_mel_bins"])),
        audio=AudioConfig(
            width=int(audio["patch_embeds_hidden_size"]),
            depths=tuple(audio["depths"]),
            heads=tuple(audio["num_attention_heads"]),
            image_size=int(audio["spec_size"]),
            patch_size=patch,
            attention_window=int(audio["window_size"]),
            mlp_ratio=float(audio["mlp_ratio"]),
            layer_norm_eps=float(audio["layer_norm_eps"]),
            fusion=fusion,
            fusion_reduction=int(audio["aff_block_r"]),
        ),
        text=TextConfig(
            vocab_size=int(text["vocab_size"]),
            width=int(text["hidden_size"]),
            depth=int(text["num_hidden_layers"]),
            heads=int(text["num_attention_heads"]),
            hidden=int(text["intermediate_size"]),
            positions=int(text["max_position_embeddings"]),
            token_types=int(text["type_vocab_size"]),
            pad_id=int(text["pad_token_id"]),
            layer_norm_eps=float(text["layer_norm_eps"]),
        ),
        embedding_dim=int(config.get("projection_dim", 512)),
    )


def to_hf(config: ClapConfig) -> dict[str, Any]:
    """Our configuration in transformers' terms: the content of a ``config.json`` that `from_hf` reads back."""
    audio, text = config.audio, config.text
    return {
        "model_type": "clap",
        "projection_dim": config.embedding_dim,
        "audio_config": {
            "patch_embeds_hidden_size": audio.width,
            "hidden_size": audio.widths[-1],
            "depths": list(audio.depths),
            "num_attention_heads": list(audio.heads),
            "enable_fusion": audio.fusion,
            "aff_block_r": audio.fusion_reduction,
            "spec_size": audio.image_size,
            "patch_size": audio.patch_size,
            "window_size": audio.attention_window,
            "mlp_ratio": audio.mlp_ratio,
            "layer_norm_eps": audio.layer_norm_eps,
            "num_mel_bins": config.mel.n_mels,
        },
        "text_config": {
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "num_hidden_layers": text.depth,
            "num_attention_heads": text.heads,
            "intermediate_size": text.hidden,
            "max_position_embeddings": text.positions,
            "type_vocab_size": text.token_types,
            "pad_token_id": text.pad_id,
            "layer_norm_eps": text.layer_norm_eps,
        },
    }


def _section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    values = dict(config.get(name) or {})
    _check_values(values, name)
    return values


def _check_values(values: Mapping[str, Any], where: str) -> None:
    for key, allowed in _ONLY[where].items():
        if key in values and values[key] not in allowed:
            wanted = " or ".join(repr(v) for v in allowed)
            raise CheckpointError(f"{where} has {key} = {values[key]!r}; this converter implements only {wanted}")


def _single(value: Any) -> int:
    """A size given as one number or as equal height and width."""
    sizes = set(value) if isinstance(value, list | tuple) else {value}
    if len(sizes) != 1:
        raise CheckpointError(f"patches must be square, got {value}")
    return int(sizes.pop())


def _mel(preprocessor: Mapping[str, Any] | None, fusion: bool, n_mels: int) -> MelConfig:
    if preprocessor is None:
        return MelConfig(bank="htk" if fusion else "slaney", n_mels=n_mels)
    values = {**_EXTRACTOR_DEFAULTS, **preprocessor}
    _check_values(values, "preprocessor_config.json")
    rate, seconds = int(values["sampling_rate"]), float(values["max_length_s"])
    if (rate, seconds) != (SAMPLE_RATE, WINDOW_SAMPLES / SAMPLE_RATE):
        raise CheckpointError(
            f"this model hears {seconds:g} s windows at {rate} Hz; only 10 s at 48000 Hz, as all released CLAP models, "
            "is implemented"
        )
    if int(values["feature_size"]) != n_mels:
        raise CheckpointError(f"the preprocessor makes {values['feature_size']} mels, the model takes {n_mels}")
    return MelConfig(
        # The bank follows the truncation policy, also for short sounds.
        bank="htk" if values["truncation"] == "fusion" else "slaney",
        sample_rate=rate,
        window_samples=round(seconds * rate),
        n_fft=int(values["fft_window_size"]),
        hop=int(values["hop_length"]),
        n_mels=n_mels,
        f_min=float(values["frequency_min"]),
        f_max=float(values["frequency_max"]),
    )


def from_laion(tensors: Mapping[str, LazyTensor]) -> ClapConfig:
    """Infer the configuration of a LAION ``.pt`` from its tensors' shapes (prefix ``module.`` already removed).

    The text tower's layer norms use eps 1e-5, as LAION's own code does (transformers' conversions use 1e-12, which
    moves an embedding's components by up to 9e-5).

    Raises:
        CheckpointError: a tensor that tells the shape is missing, or its heads do not divide.
    """

    def shape(key: str) -> tuple[int, ...]:
        if key not in tensors:
            raise CheckpointError(f"not a complete LAION CLAP checkpoint: {key} is missing")
        return tuple(tensors[key].shape)

    def count(pattern: str) -> int:
        found = {int(m[1]) for key in tensors if (m := re.match(pattern, key))}
        return max(found) + 1 if found else 0

    blocks = r"audio_branch\.layers\.{}\.blocks\.(\d+)\."
    depths = tuple(count(blocks.format(i)) for i in range(count(r"audio_branch\.layers\.(\d+)\.")))
    table = "audio_branch.layers.{}.blocks.0.attn.relative_position_bias_table"
    heads = tuple(shape(table.format(i))[1] for i in range(len(depths)))
    width, _, patch, _ = shape("audio_branch.patch_embed.proj.weight")
    fusion = "audio_branch.patch_embed.mel_conv2d.weight" in tensors
    vocab_size, text_width = shape("text_branch.embeddings.word_embeddings.weight")
    n_mels = shape("audio_branch.bn0.weight")[0]
    reduction = width // shape("audio_branch.patch_embed.fusion_model.local_att.0.weight")[0] if fusion else 4
    return ClapConfig(
        mel=_mel(None, fusion, n_mels),
        audio=AudioConfig(
            width=width,
            depths=depths,
            heads=heads,
            patch_size=patch,
            attention_window=(int(shape(table.format(0))[0] ** 0.5) + 1) // 2,
            mlp_ratio=shape("audio_branch.layers.0.blocks.0.mlp.fc1.weight")[0] / width,
            fusion=fusion,
            fusion_reduction=reduction,
        ),
        text=TextConfig(
            vocab_size=vocab_size,
            width=text_width,
            depth=count(r"text_branch\.encoder\.layer\.(\d+)\."),
            heads=max(1, text_width // 64),
            hidden=shape("text_branch.encoder.layer.0.intermediate.dense.weight")[0],
            positions=shape("text_branch.embeddings.position_embeddings.weight")[0],
            token_types=shape("text_branch.embeddings.token_type_embeddings.weight")[0],
            layer_norm_eps=1e-5,
        ),
        embedding_dim=shape("audio_projection.2.weight")[0],
    )
