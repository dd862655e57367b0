"""A checkpoint becomes a model: every key accounted for, every layout, and nothing unhealthy unasked."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from mlx_clap import AskedWronglyError, Clap, ModelFormatError
from mlx_clap.config import AudioConfig, ClapConfig, MelConfig
from mlx_clap.seeded import seeded_sound, seeded_weights
from mlx_clap.weights import weight_shapes
from mlx_clap_convert import configs
from mlx_clap_convert.configs import from_hf, from_laion
from mlx_clap_convert.conversion import convert
from mlx_clap_convert.errors import CheckpointError, HealthError, MappingError
from mlx_clap_convert.names import plan, source_keys, to_hf, to_laion
from mlx_clap_engine.cli import main
from small_model import CONFIG, small_checkpoint
from torch_writer import write_torch_legacy, write_torch_zip

RELEASED = {
    "unfused": ClapConfig(),
    "fused": ClapConfig(mel=MelConfig(bank="htk"), audio=AudioConfig(fusion=True)),
    "larger": ClapConfig(audio=AudioConfig(width=128, depths=(2, 2, 12, 2))),
}


@pytest.fixture(autouse=True)
def own_models(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXCLAP_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def hf_keys(config: ClapConfig, buffers: bool = True) -> set[str]:
    keys = {key for name in weight_shapes(config) for key in source_keys(name, "hf")}
    if buffers:
        keys |= {"text_model.embeddings.position_ids", "text_model.embeddings.token_type_ids"}
        keys |= {k.replace("running_mean", "num_batches_tracked") for k in keys if k.endswith("running_mean")}
        keys |= {k.removesuffix("bias_table") + "index" for k in keys if k.endswith("relative_position_bias_table")}
    return keys


@pytest.mark.parametrize(("name", "count"), [("unfused", 447), ("fused", 477), ("larger", 555)])
def test_the_map_uses_every_key_of_a_released_checkpoint(name, count):
    """The counts are those of the published files."""
    keys = hf_keys(RELEASED[name])
    assert len(keys) == count
    sources, dropped = plan(RELEASED[name], keys, "hf")
    used = [key for parts in sources.values() for key in parts]
    assert len(used) == len(set(used))
    assert set(used) | set(dropped) == keys
    assert all(dropped.values())


def test_buffers_may_be_absent():
    sources, dropped = plan(RELEASED["unfused"], hf_keys(RELEASED["unfused"], buffers=False), "hf")
    assert dropped == {} and sources


def test_a_missing_key_and_an_unknown_one_are_named():
    keys = hf_keys(CONFIG) - {"text_projection.linear1.bias"} | {"text_model.adapter.weight"}
    with pytest.raises(MappingError, match=r"text_projection\.linear1\.bias.*text_model\.adapter\.weight"):
        plan(CONFIG, keys, "hf")


def test_a_running_mean_is_never_droppable():
    keys = hf_keys(CONFIG) - {"audio_model.audio_encoder.batch_norm.running_mean"}
    with pytest.raises(MappingError, match="running_mean"):
        plan(CONFIG, keys, "hf")


def reference_embeddings(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    clap = Clap.load(folder)
    return clap.embed_text(["a dog barking", "rain"]), clap.embed_audio(np.stack([seeded_sound(0), seeded_sound(1)]))


def test_every_container_of_one_checkpoint_gives_one_space_and_one_set_of_numbers(tmp_path):
    folder = small_checkpoint(tmp_path / "safetensors")
    weights = to_hf(seeded_weights(CONFIG))
    variants = {"safetensors": folder}
    for name, write in (("zip", write_torch_zip), ("legacy", write_torch_legacy)):
        variants[name] = small_checkpoint(tmp_path / name)
        (variants[name] / "model.safetensors").unlink()
        write(variants[name] / "pytorch_model.bin", weights)
    variants["sharded"] = small_checkpoint(tmp_path / "sharded")
    (variants["sharded"] / "model.safetensors").unlink()
    halves = sorted(weights)[: len(weights) // 2], sorted(weights)[len(weights) // 2 :]
    index = {}
    for i, keys in enumerate(halves):
        shard = f"model-{i + 1:05}-of-00002.safetensors"
        save_file({k: np.asarray(weights[k]) for k in keys}, variants["sharded"] / shard)
        index |= dict.fromkeys(keys, shard)
    (variants["sharded"] / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    done = {name: convert(str(path), name=name, force=True) for name, path in variants.items()}
    assert len({d.space for d in done.values()}) == 1
    expected = reference_embeddings(done["safetensors"].path)
    for d in done.values():
        for ours, theirs in zip(reference_embeddings(d.path), expected, strict=True):
            assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("bare", [True, False])
def test_a_laion_file_gives_the_same_weights_as_its_hugging_face_conversion(tmp_path, prefix, bare):
    folder = small_checkpoint(tmp_path / "hf")
    # A LAION file does not tell its number of text heads: they are RoBERTa's, 64 wide.
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_attention_heads"] = CONFIG.text.width // 64
    (folder / "config.json").write_text(json.dumps(config))
    state = {prefix + key: array for key, array in to_laion(seeded_weights(CONFIG)).items()}
    state[prefix + "audio_branch.tscam_conv.weight"] = np.zeros((3, 128, 2, 3), np.float32)
    state[prefix + "audio_branch.logmel_extractor.melW"] = np.zeros((513, 64), np.float32)
    file = tmp_path / "model.pt"
    write_torch_zip(file, state if bare else {"epoch": 15, "name": "x", "state_dict": state})
    lines: list[str] = []
    laion = convert(str(file), name="laion", tokenizer=folder / "tokenizer.json", force=True, say=lines.append)
    assert any("tokenizer.json" in line for line in lines)
    hf = convert(str(folder), name="hf", force=True)
    assert laion.space == hf.space
    assert laion.dropped and "melW" in " ".join(laion.dropped)
    ours, theirs = reference_embeddings(laion.path), reference_embeddings(hf.path)
    assert np.abs(ours[1] - theirs[1]).max() < 1e-6
    assert np.abs(ours[0] - theirs[0]).max() < 1e-3  # LAION's text tower uses another layer-norm epsilon
    assert Clap.load(laion.path).config.text.layer_norm_eps == 1e-5


@pytest.mark.parametrize("name", RELEASED)
def test_a_laion_files_shapes_tell_its_configuration(name):
    config = RELEASED[name]
    shapes = {key: _Shape(a.shape) for key, a in to_laion(_empty_weights(config)).items()}
    expected = dataclasses.replace(config, text=dataclasses.replace(config.text, layer_norm_eps=1e-5))
    assert from_laion(shapes) == expected


class _Shape:
    dtype = "float32"

    def __init__(self, shape):
        self.shape = shape


def _empty_weights(config):
    return {
        name: np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), shape, [0] * len(shape))
        for name, shape in weight_shapes(config).items()
    }


def test_a_config_with_only_differences_is_filled_from_the_class_defaults():
    config = {
        "model_type": "clap",
        "audio_config": {"patch_embeds_hidden_size": 128, "hidden_size": 1024, "depths": [2, 2, 12, 2]},
        "_name_or_path": "x",
    }
    assert from_hf(config, None) == RELEASED["larger"]


@pytest.mark.parametrize("name", RELEASED)
def test_a_configuration_survives_the_way_through_transformers_terms(name):
    assert from_hf(configs.to_hf(RELEASED[name]), None) == RELEASED[name]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("audio_config", "hidden_act", "gelu_new"), ("audio_config", "fusion_type", "channel_map"),
     ("audio_config", "qkv_bias", False), ("text_config", "position_embedding_type", "relative_key")],
)  # fmt: skip
def test_a_value_that_is_not_implemented_is_named(section, key, value):
    with pytest.raises(CheckpointError, match=key):
        from_hf({section: {key: value}}, None)


@pytest.mark.parametrize(
    "config",
    [{"text_config": 5}, {"audio_config": {"depths": 3}}, {"text_config": {"vocab_size": None}},
     {"audio_config": {"patch_size": 0}}, {"audio_config": {"num_mel_bins": 0}}, {"projection_dim": -1}],
)  # fmt: skip
def test_a_configuration_that_makes_no_sense_is_refused(config):
    with pytest.raises(CheckpointError):
        from_hf(config, None)


@pytest.mark.parametrize("change", [{"sampling_rate": 44_100}, {"max_length_s": 7}])
def test_another_front_end_than_ten_seconds_at_48_khz_is_refused(change):
    with pytest.raises(CheckpointError, match="48000"):
        from_hf({}, change)


def test_a_name_unfit_for_a_folder_is_refused_before_any_work(tmp_path):
    with pytest.raises(AskedWronglyError, match="no name for a model"):
        convert("laion/not-asked-for", name="my model")


def test_out_never_replaces_a_folder_that_is_no_model(tmp_path):
    folder = small_checkpoint(tmp_path / "hf")
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(AskedWronglyError, match="not a model folder"):
        convert(str(folder), out=folder, force=True)
    assert (folder / "thesis.txt").exists()


def test_an_absurd_logit_scale_is_warned_of(tmp_path):
    folder = small_checkpoint(tmp_path / "hf")
    weights = load_file(folder / "model.safetensors")
    weights["logit_scale_t"] = np.full((), 5000.0, np.float32)
    save_file(weights, folder / "model.safetensors")
    done = convert(str(folder), name="m", force=True)
    assert any("logit scale" in warning for warning in done.health.warnings)


def test_the_preprocessors_own_default_of_the_lowest_frequency_is_zero():
    """A preprocessor file without the key means transformers' class default, not the released value."""
    assert from_hf({}, {"truncation": "rand_trunc"}).mel.f_min == 0.0
    assert from_hf({}, None).mel == MelConfig(bank="slaney", f_min=50.0)
    assert from_hf({"audio_config": {"enable_fusion": True}}, None).mel.bank == "htk"


def test_the_processor_file_of_transformers_5_is_read(tmp_path):
    folder = small_checkpoint(tmp_path / "hf")
    extractor = json.loads((folder / "preprocessor_config.json").read_text()) | {"frequency_min": 0}
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": extractor, "processor_class": "x"}))
    done = convert(str(folder), name="m", force=True)
    assert Clap.load(done.path).config.mel.f_min == 0.0


def test_an_untrained_checkpoint_is_refused_and_installs_by_force(tmp_path, own_models):
    folder = _collapsed(tmp_path / "untrained")
    with pytest.raises(HealthError, match="--force"):
        convert(str(folder), name="bad")
    assert not (own_models / "bad").exists()
    lines = []
    done = convert(str(folder), name="bad", force=True, say=lines.append)
    assert done.health.text_similarity > 0.8
    assert any("bias is all zero" in line for line in lines)
    assert json.loads((own_models / "bad" / "provenance.json").read_text())["health"]["problem"]


def _collapsed(folder: Path) -> Path:
    """As `laion/larger_clap_music` was published: a text projection as transformers initialises it, after a text tower
    whose output hardly varies."""
    small_checkpoint(folder)
    weights = {name: array.copy() for name, array in load_file(folder / "model.safetensors").items()}
    weights["text_model.pooler.dense.weight"] *= 0.01
    weights["text_projection.linear1.bias"] *= 0
    save_file(weights, folder / "model.safetensors")
    return folder


def test_weights_that_are_not_finite_are_refused_even_by_force(tmp_path):
    folder = small_checkpoint(tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    weights["audio_projection.linear1.weight"][0, 0] = np.nan
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"audio_projection\.linear1\.weight.*not finite"):
        convert(str(folder), name="nan", force=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_halves_the_file_and_keeps_the_space(tmp_path, dtype):
    folder = small_checkpoint(tmp_path / "hf")
    full = convert(str(folder), name="full", force=True)
    half = convert(str(folder), name="half", dtype=dtype, force=True)
    assert half.space == full.space
    sizes = [(d.path / "weights.safetensors").stat().st_size for d in (half, full)]
    assert sizes[0] < 0.6 * sizes[1]
    ours, theirs = (reference_embeddings(d.path)[1] for d in (half, full))
    assert ((ours * theirs).sum(-1) > 0.98).all()


def test_values_beyond_float16_are_refused_with_the_remedy(tmp_path):
    folder = small_checkpoint(tmp_path / "hf")
    weights = load_file(folder / "model.safetensors")
    weights["audio_projection.linear1.weight"][0, 0] = 1e6
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="bfloat16"):
        convert(str(folder), name="big", dtype="float16", force=True)


def test_provenance_tells_what_was_read(tmp_path):
    folder = small_checkpoint(tmp_path / "hf")
    done = convert(str(folder), name="m", force=True)
    provenance = json.loads((done.path / "provenance.json").read_text())
    files = {file["name"].split("/")[-1]: file for file in provenance["files"]}
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert files["model.safetensors"]["sha256"] == digest
    assert provenance["space"] == done.space == Clap.load(done.path).space
    assert provenance["converter"].startswith("mlx-clap")


def test_a_taken_name_is_not_replaced_unasked(tmp_path, own_models):
    folder = small_checkpoint(tmp_path / "hf")
    convert(str(folder), name="m", force=True)
    result = CliRunner().invoke(main, ["convert", str(folder), "--name", "m"])
    assert result.exit_code == 2
    assert "--force" in result.stderr and "--name" in result.stderr


def test_convert_prints_one_json_object(tmp_path):
    folder = small_checkpoint(tmp_path / "hf")
    result = CliRunner().invoke(main, ["convert", str(folder), "--force", "--json", "-q"])
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)
    assert row["name"] == "hf" and row["parameters"] > 10_000 and Path(row["path"]).is_dir()


def damaged(path: Path, **change) -> None:
    weights = load_file(path / "weights.safetensors")
    for name, array in change.items():
        if array is None:
            del weights[name.replace("__", ".")]
        else:
            weights[name.replace("__", ".")] = array
    save_file(weights, path / "weights.safetensors")


def test_loading_is_strict(tmp_path):
    folder = small_checkpoint(tmp_path / "hf")
    path = convert(str(folder), name="m", force=True).path
    zeros = np.zeros(3, np.float32)
    damaged(path, audio__norm__weight=None, surprise=zeros, text__pooler__bias=zeros)
    with pytest.raises(ModelFormatError, match=r"missing: audio\.norm\.weight.*unknown: surprise.*text\.pooler\.bias"):
        Clap.load(path)


@pytest.mark.parametrize("change", [{"colour": "red"}, {"embedding_dim": "many"}, {"format": 99}])
def test_an_odd_model_config_is_refused_by_name(tmp_path, change):
    folder = small_checkpoint(tmp_path / "hf")
    path = convert(str(folder), name="m", force=True).path
    config = json.loads((path / "config.json").read_text()) | change
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFormatError, match=next(iter(change))):
        Clap.load(path)


def test_a_kill_during_convert_leaves_no_model(tmp_path, own_models):
    folder = small_checkpoint(tmp_path / "hf")
    code = (
        "import os, mlx_clap_convert.conversion as c\n"
        "c._read_back = lambda *a: os.kill(os.getpid(), 9)\n"  # dies with everything written, nothing installed
        f"c.convert({str(folder)!r}, name='m', force=True)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, check=False)
    assert result.returncode == -9
    listing = CliRunner().invoke(main, ["models", "--json"])
    assert listing.stdout == ""
    assert convert(str(folder), name="m", force=True).path.is_dir()
    assert [p.name for p in own_models.iterdir() if not p.name.startswith(".default")] == ["m"]


def test_models_lists_uses_and_removes(tmp_path):
    for name, seed in (("one", 0), ("two", 1)):
        convert(str(small_checkpoint(tmp_path / name, seed)), name=name, force=True)
    run = CliRunner()
    assert run.invoke(main, ["models", "use", "two"]).exit_code == 0
    rows = [json.loads(line) for line in run.invoke(main, ["models", "--json"]).stdout.splitlines()]
    assert [(row["name"], row["default"]) for row in rows] == [("one", False), ("two", True)]
    assert all(row["space"] and row["path"] for row in rows)
    assert run.invoke(main, ["models", "remove", "one"]).exit_code == 0
    assert run.invoke(main, ["models", "remove", "one"]).exit_code == 1
    rows = [json.loads(line) for line in run.invoke(main, ["models", "--json"]).stdout.splitlines()]
    assert [row["name"] for row in rows] == ["two"]
