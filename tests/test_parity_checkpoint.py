"""What transformers saves, converted, gives what transformers computes: the whole path, texts and sounds in."""

import os
from pathlib import Path

import numpy as np
import pytest

from mlx_clap import Clap
from mlx_clap.seeded import seeded_sound, seeded_weights
from mlx_clap_convert.conversion import convert
from small_model import small_checkpoint

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

TEXTS = [
    "a dog barking",
    "A dog barking",
    "",
    "upbeat electronic dance music with synthesizers and drum machines",
    "Müller spielt Geige, ¿qué tal? 日本語 🎷 <mask> <s>",
    "   leading and trailing spaces  ",
    "word " * 200,
]


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A randomised model as `save_pretrained` and `torch.save` write it, with a processor beside it."""
    monkeypatch.setenv("MLXCLAP_MODELS", str(tmp_path / "models"))
    import torch
    from transformers import ClapProcessor, PreTrainedTokenizerFast

    import reference

    config = reference.CONFIGS["small"]
    model = reference.reference_model(config, seeded_weights(config))
    tokenizer_file = small_checkpoint(tmp_path / "tokenizer") / "tokenizer.json"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file), pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=128
    )
    processor = ClapProcessor(feature_extractor=reference.extractor(config), tokenizer=tokenizer)
    folder = tmp_path / "saved"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    binary = tmp_path / "binary"
    binary.mkdir()
    for path in folder.iterdir():
        if path.suffix == ".json":
            (binary / path.name).write_bytes(path.read_bytes())
    torch.save(model.state_dict(), binary / "pytorch_model.bin")
    return model, processor, folder, binary


@pytest.mark.parametrize("container", ["safetensors", "torch.save"])
def test_a_saved_checkpoint_converts_and_embeds_as_transformers_does(saved, container):
    import torch

    model, processor, folder, binary = saved
    done = convert(str(folder if container == "safetensors" else binary), name="converted", force=True)
    clap = Clap.load(done.path)
    sounds = np.stack([seeded_sound(seed) for seed in range(3)])
    short = sounds[0][:150_000]
    with torch.no_grad():
        features = processor(audio=[*sounds, short], sampling_rate=48_000, return_tensors="pt")
        features = {key: value for key, value in features.items() if key in ("input_features", "is_longer")}
        audio = model.get_audio_features(**features).pooler_output.numpy()
        tokens = processor.tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
        tokens = {key: tokens[key] for key in ("input_ids", "attention_mask")}
        text = model.get_text_features(**tokens).pooler_output.numpy()
    from mlx_clap.audio import repeat_pad

    assert np.abs(clap.embed_audio(np.stack([*sounds, repeat_pad(short)])) - audio).max() < 5e-6
    assert np.abs(clap.embed_text(TEXTS) - text).max() < 5e-6


def test_the_released_tokenizer_gives_the_ids_transformers_gives():
    hub = os.environ.get("MLXCLAP_TEST_HUB_FILES")
    if not hub:
        pytest.skip("the released tokenizer files are not here (MLXCLAP_TEST_HUB_FILES)")
    from transformers import AutoTokenizer

    from mlx_clap.config import TextConfig
    from mlx_clap.tokenizer import Tokenizer

    folder = Path(hub) / "laion--clap-htsat-unfused"
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer(folder / "tokenizer.json", TextConfig())
    texts = [*TEXTS, "word " * 900]
    expected = theirs(texts, padding=True, truncation=True, max_length=512, return_tensors="np")["input_ids"]
    got = ours(texts)
    assert got.shape[1] <= 512
    assert np.array_equal(got[:, : expected.shape[1]], expected)
    assert list(ours(["a dog barking"])[0][:5]) == [0, 102, 2335, 35828, 2]
    assert list(ours([""])[0][:3]) == [0, 2, 1]
