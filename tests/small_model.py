"""A small CLAP model with random weights, made on the spot: as a Hugging Face checkpoint, and converted."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from mlx_clap.config import AudioConfig, ClapConfig, TextConfig
from mlx_clap.seeded import seeded_weights
from mlx_clap_convert import configs
from mlx_clap_convert.conversion import convert
from mlx_clap_convert.names import to_hf

CONFIG = ClapConfig(
    audio=AudioConfig(width=16, depths=(2, 2, 2, 2), heads=(2, 2, 4, 4)),
    text=TextConfig(vocab_size=300, width=64, depth=2, heads=4, hidden=128, positions=130),
)
NAME = "small"

_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_CORPUS = ["a dog barking in the distance", "solo piano music", "heavy rain on a tin roof", "a man speaking"]


def small_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint as transformers saves one into `folder` (made if need be); every `seed` is another space."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(configs.to_hf(CONFIG)))
    (folder / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR))
    weights = {name: np.asarray(array) for name, array in to_hf(seeded_weights(CONFIG, seed)).items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    _tokenizer(CONFIG.text.vocab_size).save(str(folder / "tokenizer.json"))
    return folder


def small_model(models_dir: Path, name: str = NAME, seed: int = 0) -> Path:
    """Convert a small checkpoint into the model folder `models_dir/name`. Its weights are random, hence by force."""
    checkpoint = small_checkpoint(models_dir.parent / f"{name}-checkpoint", seed)
    return convert(str(checkpoint), out=models_dir / name, force=True).path


_PREPROCESSOR = {
    "feature_size": 64,
    "sampling_rate": 48_000,
    "hop_length": 480,
    "max_length_s": 10,
    "fft_window_size": 1024,
    "frequency_min": 50,
    "frequency_max": 14_000,
    "truncation": "rand_trunc",
    "padding": "repeatpad",
}


def _tokenizer(vocab_size: int) -> Tokenizer:
    """A byte-level BPE with RoBERTa's special tokens at RoBERTa's places."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=_SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer
