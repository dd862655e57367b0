"""The reference implementation (transformers' ClapModel on torch), stage by stage. Needs the parity group.

Run as a script (`make golden`) it writes the stored references of `mlx_clap.verify` anew.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

from mlx_clap.config import AudioConfig, ClapConfig, MelConfig, TextConfig
from mlx_clap.seeded import seeded_ids, seeded_sound, seeded_weights
from mlx_clap.verify import Reference, sample, with_crops
from mlx_clap_convert import configs
from mlx_clap_convert.names import to_hf

SMALL_TEXT = TextConfig(vocab_size=300, width=64, depth=2, heads=4, hidden=128, positions=130)
CONFIGS = {
    "small": ClapConfig(audio=AudioConfig(width=16, depths=(2, 2, 2, 2), heads=(2, 2, 4, 4)), text=SMALL_TEXT),
    "small-fused": ClapConfig(
        mel=MelConfig(bank="htk"),
        audio=AudioConfig(width=16, depths=(2, 1, 2, 1), heads=(2, 2, 4, 4), fusion=True),
        text=SMALL_TEXT,
    ),
    "unfused": ClapConfig(),
    "fused": ClapConfig(mel=MelConfig(bank="htk"), audio=AudioConfig(fusion=True)),
    "larger": ClapConfig(audio=AudioConfig(width=128, depths=(2, 2, 12, 2))),
}


def extractor(config: ClapConfig) -> transformers.ClapFeatureExtractor:
    """The feature extractor as the published preprocessor files configure it."""
    truncation = "fusion" if config.mel.bank == "htk" else "rand_trunc"
    return transformers.ClapFeatureExtractor(frequency_min=50, frequency_max=14000, truncation=truncation)


def reference_model(config: ClapConfig, weights: dict[str, np.ndarray]) -> transformers.ClapModel:
    """transformers' model filled with our weights, the name map run backwards."""
    model = transformers.ClapModel(transformers.ClapConfig(**configs.to_hf(config))).eval()
    result = model.load_state_dict({k: torch.tensor(v) for k, v in to_hf(weights).items()}, strict=False)
    buffers = ("position_ids", "token_type_ids", "relative_position_index", "num_batches_tracked")
    assert not result.unexpected_keys
    assert all(key.endswith(buffers) for key in result.missing_keys), result.missing_keys
    return model


def log_mel(config: ClapConfig, waveforms: np.ndarray) -> np.ndarray:
    """The real feature extractor's log-mel, float32 [B, T, M]."""
    features = extractor(config)(list(waveforms), sampling_rate=48_000, return_tensors="np")
    return np.ascontiguousarray(features["input_features"][:, 0])


@torch.no_grad()
def run(model: transformers.ClapModel, config: ClapConfig, waveforms: np.ndarray, ids: np.ndarray) -> Reference:
    """Every stage of both towers. Rows 0, 2, ... of a fused model are flagged longer."""
    mel = log_mel(config, waveforms)
    longer = np.arange(len(mel)) % 2 == 0 if config.audio.fusion else None
    features = torch.tensor(mel[:, None] if longer is None else with_crops(mel))
    audio: dict[str, np.ndarray] = {}
    text: dict[str, np.ndarray] = {}
    hooks = []

    def keep(stages: dict[str, np.ndarray], name: str):
        def hook(_module, _inputs, output):
            value = output[0] if isinstance(output, tuple) else output
            stages[name] = value.numpy()

        return hook

    encoder = model.audio_model.audio_encoder
    hooks.append(
        encoder.patch_embed.register_forward_pre_hook(
            lambda _module, inputs: audio.__setitem__("image", inputs[0][:, 0].numpy())
        )
    )
    hooks.append(encoder.patch_embed.register_forward_hook(keep(audio, "patches")))
    for i, stage in enumerate(encoder.layers):
        for j, block in enumerate(stage.blocks):
            hooks.append(block.register_forward_hook(keep(audio, f"stages.{i}.blocks.{j}")))
        if stage.downsample is not None:
            hooks.append(stage.downsample.register_forward_hook(keep(audio, f"stages.{i}.merge")))
    hooks.append(model.text_model.embeddings.register_forward_hook(keep(text, "embeddings")))
    for j, layer in enumerate(model.text_model.encoder.layer):
        hooks.append(layer.register_forward_hook(keep(text, f"layers.{j}")))

    flags = torch.zeros(len(mel), 1, dtype=torch.bool) if longer is None else torch.tensor(longer)[:, None]
    pooled = model.audio_model(input_features=features, is_longer=flags).pooler_output
    _finish(audio, pooled, model.audio_projection)
    tokens = torch.tensor(ids).long()
    pooled = model.text_model(input_ids=tokens, attention_mask=(tokens != config.text.pad_id).long()).pooler_output
    _finish(text, pooled, model.text_projection)
    for hook in hooks:
        hook.remove()
    return Reference(config, waveforms, ids, mel, longer, audio, text, versions=versions())


def _finish(stages: dict[str, np.ndarray], pooled: torch.Tensor, projection: torch.nn.Module) -> None:
    projected = projection(pooled)
    stages["pooled"], stages["projection"] = pooled.numpy(), projected.numpy()
    stages["embedding"] = torch.nn.functional.normalize(projected, dim=-1).numpy()


def versions() -> dict[str, str]:
    return {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__}


def write(name: str, folder: Path) -> None:
    """Write the stored reference `name`: every stage (sampled) of a small model, the embeddings of a full-size one."""
    config, seeds = CONFIGS[name], [0, 1]
    model = reference_model(config, seeded_weights(config))
    reference = run(model, config, np.stack([seeded_sound(seed) for seed in seeds]), seeded_ids(config))
    small = name.startswith("small")
    kept = None if small else ("pooled", "projection", "embedding")
    arrays = {
        f"{tower}/{stage}": np.ascontiguousarray(sample(stage, array))
        for tower, stages in (("audio", reference.audio), ("text", reference.text))
        for stage, array in stages.items()
        if kept is None or stage in kept
    }
    if small:
        arrays["log_mel"] = reference.log_mel
    metadata = {
        "config": json.dumps(config.to_json()),
        "sounds": json.dumps(seeds),
        "longer": json.dumps(None if reference.longer is None else reference.longer.tolist()),
        "versions": json.dumps(reference.versions),
        "command": "make golden",
    }
    path = folder / f"{name}.safetensors"
    save_file(arrays, path, metadata)
    path.chmod(0o644)  # safetensors writes it for the owner alone


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "mlx_clap" / "golden"
    target.mkdir(exist_ok=True)
    for config_name in CONFIGS:
        write(config_name, target)
        sys.stderr.write(f"wrote {config_name}\n")
