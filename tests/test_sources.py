"""Opening a checkpoint from wherever it is: aliases, Hub repositories and files, folders and files here."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from hub_server import COMMIT, HubServer, serve, small_files, use_hub
from mlx_clap import AskedWronglyError
from mlx_clap_convert.aliases import ALIASES, DEFAULT_ALIAS
from mlx_clap_convert.errors import CheckpointError, SourceError
from mlx_clap_convert.safetensors_file import read_safetensors
from mlx_clap_convert.sources import open_checkpoint
from torch_writer import write_torch_legacy, write_torch_zip

Tensors = dict[str, NDArray[np.float32]]
REPO = "someone/clap"
MUSIC = ALIASES["music"]


def some_tensors(*keys: str, length: int = 1000) -> Tensors:
    """Random float32 tensors under `keys`."""
    random = np.random.default_rng(len(keys))
    return {key: random.standard_normal(length, dtype=np.float32) for key in keys}


HF = some_tensors("audio_model.a", "text_model.b", "logit_scale_a")
LAION = some_tensors("audio_branch.a", "text_branch.b", "logit_scale_a")


def training_record(state: Tensors) -> dict[str, object]:
    """What LAION's training script saves: two thirds of it are AdamW's moments."""
    moments = {
        number: {"step": number, "exp_avg": value + 1, "exp_avg_sq": value + 2}
        for number, value in enumerate(state.values())
    }
    groups = [{"lr": np.float64(1e-4), "params": list(moments)}]
    optimizer = {"state": moments, "param_groups": groups}
    return {"epoch": 15, "name": "music", "state_dict": state, "optimizer": optimizer}


def save_index(folder: Path, name: str, shards: dict[str, Tensors]) -> None:
    """Write the index that names which shard holds which key."""
    where = {key: shard for shard, tensors in shards.items() for key in tensors}
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def read(source: str | Path, expected: Tensors, **options: object) -> str:
    """Open `source`, compare every tensor, and return the layout."""
    with open_checkpoint(str(source), **options) as checkpoint:  # type: ignore[arg-type]
        assert set(checkpoint.tensors) == set(expected)
        for key, value in expected.items():
            assert checkpoint.tensors[key].shape == value.shape
            np.testing.assert_array_equal(checkpoint.tensors[key].numpy(), value)
        return checkpoint.layout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder without weights."""
    return small_files(REPO, tmp_path / "local")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub that serves `tmp_path/hub`, where the tokenizer's repository is already."""
    small_files("laion/clap-htsat-unfused", tmp_path / "hub")
    with serve(tmp_path / "hub") as server:
        use_hub(monkeypatch, server, tmp_path / "home")
        yield server


# Hugging Face folders


@pytest.mark.parametrize("form", ["safetensors", "sharded safetensors", "bin", "sharded bin", "legacy bin"])
def test_a_folder_is_read_in_every_form_its_weights_come_in(folder: Path, form: str) -> None:
    first, second = {"audio_model.a": HF["audio_model.a"]}, {k: v for k, v in HF.items() if k != "audio_model.a"}
    match form:
        case "safetensors":
            save_file(HF, folder / "model.safetensors")
        case "bin":
            write_torch_zip(folder / "pytorch_model.bin", HF)
        case "legacy bin":
            write_torch_legacy(folder / "pytorch_model.bin", HF)
        case "sharded safetensors":
            save_file(first, folder / "model-00001-of-00002.safetensors")
            save_file(second, folder / "model-00002-of-00002.safetensors")
            shards = {"model-00001-of-00002.safetensors": first, "model-00002-of-00002.safetensors": second}
            save_index(folder, "model.safetensors.index.json", shards)
        case "sharded bin":
            write_torch_zip(folder / "pytorch_model-00001-of-00002.bin", first)
            write_torch_zip(folder / "pytorch_model-00002-of-00002.bin", second)
            shards = {"pytorch_model-00001-of-00002.bin": first, "pytorch_model-00002-of-00002.bin": second}
            save_index(folder, "pytorch_model.bin.index.json", shards)
    assert read(folder, HF) == "hf"


def test_safetensors_are_preferred_to_pickles(folder: Path) -> None:
    save_file(HF, folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    assert read(folder, HF) == "hf"


def test_half_precision_safetensors_are_read_exactly(folder: Path) -> None:
    values = np.array([1.0, -2.5, 3.140625], np.float32)
    bfloat16 = (values.view(np.uint32) >> 16).astype(np.uint16)
    header = {
        "audio_model.a": {"dtype": "BF16", "shape": [3, 1], "data_offsets": [0, 6]},
        "text_model.b": {"dtype": "F16", "shape": [3], "data_offsets": [6, 12]},
        "text_model.ids": {"dtype": "I64", "shape": [], "data_offsets": [12, 20]},
        "__metadata__": {"format": "pt"},
    }
    text = json.dumps(header).encode()
    data = bfloat16.tobytes() + values.astype(np.float16).tobytes() + np.int64(7).tobytes()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)

    with open_checkpoint(str(folder)) as checkpoint:
        tensors = checkpoint.tensors
        assert [tensor.dtype for tensor in tensors.values()] == ["bfloat16", "float16", "int64"]
        np.testing.assert_array_equal(tensors["audio_model.a"].numpy(), values[:, None])
        np.testing.assert_array_equal(tensors["text_model.b"].numpy(), values.astype(np.float16))
        assert tensors["text_model.ids"].numpy() == 7


def test_every_file_that_was_read_is_recorded_with_its_hash(folder: Path) -> None:
    save_file(HF, folder / "model.safetensors")
    with open_checkpoint(str(folder)) as checkpoint:
        recorded = {file.name: (file.size, file.sha256) for file in checkpoint.files}
        assert (checkpoint.source, checkpoint.revision) == (str(folder), None)
        assert checkpoint.config is not None and checkpoint.config["model_type"] == "clap"
        assert checkpoint.preprocessor is not None and checkpoint.preprocessor["frequency_min"] == 50
    assert recorded == {
        name: (len(data := (folder / name).read_bytes()), hashlib.sha256(data).hexdigest())
        for name in ("config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors")
    }


def test_shards_that_do_not_match_their_index_are_refused(folder: Path) -> None:
    save_file(HF, folder / "a.safetensors")
    save_index(folder, "model.safetensors.index.json", {"a.safetensors": HF | some_tensors("audio_model.more")})
    with pytest.raises(CheckpointError, match=r"1 tensors are in no shard, first audio_model\.more"):
        read(folder, HF)
    save_index(folder, "model.safetensors.index.json", {"a.safetensors": some_tensors("text_model.b")})
    with pytest.raises(CheckpointError, match="which its index does not place there"):
        read(folder, HF)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "a\\b.safetensors", "config.json", ""])
def test_an_index_cannot_reach_outside_its_folder(folder: Path, shard: str) -> None:
    save_index(folder, "model.safetensors.index.json", {shard: HF})
    with pytest.raises(CheckpointError, match="no usable `weight_map`"):
        read(folder, HF)


def test_a_folder_without_a_config_is_refused_before_its_weights_are_read(folder: Path) -> None:
    save_file(HF, folder / "model.safetensors")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json beside its weights"):
        read(folder, HF)


def test_another_kind_of_model_is_named(folder: Path) -> None:
    save_file(HF, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="of type 'bert'"):
        read(folder, HF)


def test_a_folder_with_other_weight_files_says_which(folder: Path) -> None:
    (folder / "630k-best.pt").touch()
    with pytest.raises(CheckpointError, match=r"Name the one you want, for example .*/630k-best\.pt"):
        read(folder, HF)


def test_a_converted_model_needs_no_conversion(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").touch()
    (tmp_path / "provenance.json").touch()
    with pytest.raises(CheckpointError, match="a converted model already"):
        read(tmp_path, HF)


# Tokenizers


def test_a_tokenizer_built_from_its_parts_gives_the_same_ids(folder: Path) -> None:
    from tokenizers import Tokenizer

    save_file(HF, folder / "model.safetensors")
    texts = [
        "a dog barking",
        "A dog barking",
        "",
        "  two  spaces ",
        "<mask> of </s> rain",
        "naïve café 狗 🎹",
        "don't\n1999",
    ]
    original = Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = [encoding.ids for encoding in original.encode_batch(texts)]
    saved = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()

    with open_checkpoint(str(folder)) as checkpoint:
        built = Tokenizer.from_file(str(checkpoint.tokenizer))
        assert [encoding.ids for encoding in built.encode_batch(texts)] == expected
        parts = json.loads(checkpoint.tokenizer.read_text())
        assert {file.name for file in checkpoint.files} >= {"vocab.json", "merges.txt"}
    assert not checkpoint.tokenizer.exists()
    for part in ("normalizer", "pre_tokenizer", "post_processor", "truncation", "padding", "added_tokens"):
        assert parts[part] == saved[part], part


def test_a_given_tokenizer_goes_before_the_folders_own(folder: Path, tmp_path: Path) -> None:
    save_file(HF, folder / "model.safetensors")
    other = small_files("other/clap", tmp_path)
    (folder / "tokenizer.json").write_text("damaged, and never read")
    for given in (other / "tokenizer.json", other):
        with open_checkpoint(str(folder), tokenizer=given) as checkpoint:
            assert checkpoint.tokenizer == other / "tokenizer.json"
    with (
        pytest.raises(AskedWronglyError, match=r"expected a tokenizer\.json"),
        open_checkpoint(str(folder), tokenizer=tmp_path),
    ):
        pass


def test_a_folder_without_a_tokenizer_says_how_to_give_one(folder: Path) -> None:
    save_file(HF, folder / "model.safetensors")
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match="--tokenizer PATH"):
        read(folder, HF)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_damaged_tokenizer_is_refused(folder: Path, content: bytes) -> None:
    save_file(HF, folder / "model.safetensors")
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a tokenizer"):
        read(folder, HF)


def test_a_tokenizer_of_another_kind_of_model_is_refused(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    save_file(HF, folder / "model.safetensors")
    Tokenizer(WordLevel({"[CLS]": 0, "[UNK]": 1}, "[UNK]")).save(str(folder / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="lacks the special tokens <s> <pad>"):
        read(folder, HF)


# Single files


def test_a_single_file_uses_the_config_and_tokenizer_beside_it(folder: Path) -> None:
    write_torch_zip(folder / "finetuned.bin", HF)
    assert read(folder / "finetuned.bin", HF) == "hf"


@pytest.mark.parametrize("form", ["training record", "bare state dict", "parallel training", "safetensors"])
def test_a_laion_file_is_read_in_every_form(folder: Path, form: str) -> None:
    path, expected = folder / "clap.pt", LAION
    if form == "safetensors":
        path = folder / "clap.safetensors"
        save_file(LAION, path)
    elif form == "parallel training":
        expected = {f"module.{key}": value for key, value in LAION.items()}
        write_torch_zip(path, training_record(expected))
    else:
        write_torch_zip(path, training_record(LAION) if form == "training record" else LAION)
    assert read(path, expected) == "laion"


def test_a_laion_file_alone_gets_the_tokenizer_it_was_trained_with(hub: HubServer, tmp_path: Path) -> None:
    write_torch_zip(tmp_path / "clap.pt", training_record(LAION))
    with open_checkpoint(str(tmp_path / "clap.pt")) as checkpoint:
        original = hub.folder / "laion--clap-htsat-unfused" / "tokenizer.json"
        assert checkpoint.tokenizer.read_bytes() == original.read_bytes()
        assert checkpoint.config is None
        assert [file.name for file in checkpoint.files] == ["clap.pt", "laion/clap-htsat-unfused/tokenizer.json"]
    assert all(
        "8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a" in request.path for request in hub.log if "/cdn/" not in request.path
    )


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"model": some_tensors("caption_encoder.base.a", "audio_encoder.base.htsat.b")}, "Microsoft CLAP"),
        ({"state_dict": some_tensors("cond_stage_model.model.audio_branch.a")}, "AudioLDM"),
        (some_tensors("bert.encoder.a"), r"not a CLAP checkpoint \(keys: bert\.encoder\.a"),
        (HF | LAION, "mixes the keys"),
        ({}, "not a CLAP checkpoint"),
        ([1, 2], "holds a list, not a state dict"),
        ({"state_dict": 5}, "`state_dict` is a int"),
        ({"audio_branch.a": 5}, r"'audio_branch\.a' is a int"),
    ],
)
def test_other_checkpoints_are_named_for_what_they_are(folder: Path, tree: object, message: str) -> None:
    write_torch_zip(folder / "other.pt", tree)
    with pytest.raises(CheckpointError, match=message):
        read(folder / "other.pt", {})


def corrupt(kind: str, good: bytes) -> bytes:
    """A safetensors file gone wrong."""
    length = int.from_bytes(good[:8], "little")
    header, data = json.loads(good[8 : 8 + length]), good[8 + length :]
    first, last = sorted(header, key=lambda key: header[key]["data_offsets"])[:: len(header) - 1]
    match kind:
        case "empty":
            return b""
        case "truncated":
            return good[:-4]
        case "longer":
            return good + b"\0"
        case "git-lfs pointer":
            return b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
        case "absurd header":
            return (2**62).to_bytes(8, "little") + good[8:]
        case "not json":
            return good[:8] + b"x" * length + data
        case "deep json":
            return (200_000).to_bytes(8, "little") + b"[" * 200_000 + data
        case "overlap":
            header[last]["data_offsets"] = header[first]["data_offsets"]
        case "negative":
            header[first]["data_offsets"] = [-4000, 0]
        case "negative shape":
            header[first]["shape"] = [-1000]
        case "boolean shape":
            header[first]["shape"] = [True, 1000]
        case "wrong shape":
            header[first]["shape"] = [10**30]
        case "no offsets":
            del header[first]["data_offsets"]
        case "unknown dtype":
            header[first]["dtype"] = "F8_E4M3"
        case _:
            raise AssertionError(kind)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "kind",
    "empty,truncated,longer,git-lfs pointer,absurd header,not json,deep json,overlap,negative,negative shape,"
    "boolean shape,wrong shape,no offsets,unknown dtype".split(","),
)
def test_a_damaged_safetensors_file_is_refused_with_its_name(folder: Path, kind: str) -> None:
    save_file(HF, folder / "model.safetensors")
    (folder / "model.safetensors").write_bytes(corrupt(kind, (folder / "model.safetensors").read_bytes()))
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors.*git lfs pull" if "lfs" in kind else r"model\.safetensors"
    ):
        read(folder, HF)


def test_random_damage_to_a_safetensors_file_never_raises_anything_else(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file(some_tensors("audio_model.a", "text_model.b", length=20), path)
    good, random = path.read_bytes(), np.random.default_rng(1)
    refused = 0
    for _ in range(400):
        bad = bytearray(good)
        for place in random.integers(0, 200, random.integers(1, 4)):
            bad[place] = random.integers(0, 256)
        path.write_bytes(bad)
        try:
            for tensor in read_safetensors(path).values():
                tensor.numpy()
        except CheckpointError:
            refused += 1
    assert refused > 200


# What the argument means


def test_a_path_that_is_not_there_lists_what_could_be_meant(tmp_path: Path) -> None:
    for source in (
        str(tmp_path / "nothing"),
        "./nothing",
        "nothing",
        "nothing.pt",
        "a/b/c",
        "~/nothing/here",
        "~nobody-at-all/x",
        "a" * 5000,
    ):
        with pytest.raises(AskedWronglyError, match=r"no file or folder .* no Hub id .* alias \(general, unfused"):
            read(source, {})


def test_an_unknown_hub_id_says_that_it_is_no_path_either(hub: HubServer) -> None:
    with pytest.raises(SourceError, match=r"no repository some/where.*no file or folder 'some/where' here either"):
        read("some/where", {})


def test_an_alias_that_cannot_be_fetched_is_not_taken_for_a_path(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"laion/larger_clap_general could not be fetched.*stopped\.$"):
        read("general", {})


def test_without_a_network_a_checkpoint_comes_whole_from_the_cache_or_not_at_all(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = hub.folder / "laion--clap-htsat-unfused" / "pytorch_model.bin"
    write_torch_zip(weights, HF)
    hub.behaviour.wrong_bytes.add(weights.name)
    for endpoint in (hub.url, "http://127.0.0.1:9"):  # config and tokenizer arrive, the weights do not
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        with pytest.raises(
            SourceError, match=r"not the file the Hub announced|clap-htsat-unfused could not be fetched"
        ):
            read("unfused", HF)
    hub.behaviour.wrong_bytes.clear()
    for endpoint in (hub.url, "http://127.0.0.1:9"):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        assert read("unfused", HF) == "hf"


def test_an_alias_that_is_also_a_folder_must_be_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small_files("music", tmp_path)
    save_file(HF, tmp_path / "music" / "model.safetensors")
    with pytest.raises(AskedWronglyError, match=r"write \./music for what is here, or lukewys/laion_clap"):
        read("music", HF)
    assert read("./music", HF) == "hf"


def test_a_revision_makes_no_sense_for_a_path(folder: Path) -> None:
    with pytest.raises(AskedWronglyError, match="--revision is for Hub sources"):
        read(folder, HF, revision="main")


def test_the_broken_upload_is_refused_by_name_unless_forced(hub: HubServer) -> None:
    with pytest.raises(SourceError, match=r"laion/larger_clap_music is a bad upload.*mlxclap convert music"):
        read("laion/larger_clap_music", {})
    assert hub.log == []
    target = small_files("laion/larger_clap_music", hub.folder)
    save_file(HF, target / "model.safetensors")
    assert read("laion/larger_clap_music", HF, force=True) == "hf"


def test_aliases_are_pinned_to_commits() -> None:
    assert DEFAULT_ALIAS.name == "general"
    assert all(len(alias.revision) == 40 and int(alias.revision, 16) for alias in ALIASES.values())


# The Hub


def test_of_a_repository_only_the_needed_files_are_downloaded(hub: HubServer) -> None:
    target = small_files(REPO, hub.folder)
    save_file(HF, target / "model.safetensors")
    for name in ("pytorch_model.bin", "tf_model.h5", "README.md"):
        (target / name).write_bytes(b"not needed")

    with open_checkpoint(REPO) as checkpoint:
        np.testing.assert_array_equal(checkpoint.tensors["text_model.b"].numpy(), HF["text_model.b"])
        assert (checkpoint.source, checkpoint.revision) == (REPO, COMMIT)
        files = [file.name for file in checkpoint.files]
    fetched = {request.path.rpartition("/")[2] for request in hub.log if request.method == "GET" and request.sent} - {
        "main"
    }
    assert fetched == {"config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors", "clap"}
    assert files == [
        f"{REPO}/{n}" for n in ("config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors")
    ]


def test_an_alias_is_downloaded_at_its_pinned_commit(hub: HubServer) -> None:
    write_torch_zip(hub.folder / "laion--clap-htsat-unfused" / "pytorch_model.bin", HF)
    with open_checkpoint("unfused") as checkpoint:
        assert checkpoint.revision == ALIASES["unfused"].revision
        assert checkpoint.source == "laion/clap-htsat-unfused"
        assert set(checkpoint.tensors) == set(HF)


def test_a_sharded_repository_is_downloaded_whole(hub: HubServer) -> None:
    target = small_files(REPO, hub.folder)
    shards = {
        "model-1.safetensors": {"audio_model.a": HF["audio_model.a"]},
        "model-2.safetensors": dict(list(HF.items())[1:]),
    }
    for name, tensors in shards.items():
        save_file(tensors, target / name)
    save_index(target, "model.safetensors.index.json", shards)
    assert read(REPO, HF) == "hf"


def test_a_mistake_in_the_config_costs_no_download_of_weights(hub: HubServer) -> None:
    target = small_files(REPO, hub.folder)
    save_file(HF, target / "model.safetensors")
    (target / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(CheckpointError, match="of type 'whisper'"):
        read(REPO, HF)
    assert hub.sent("model.safetensors") == 0


def serve_music(hub: HubServer, *, legacy: bool = False) -> tuple[Tensors, Path]:
    """Serve LAION's training file under the name the alias `music` has: 12 MB, two thirds of it optimizer."""
    state = {f"module.audio_branch.layer{n}": LAION["audio_branch.a"].repeat(50) + n for n in range(20)}
    target = hub.folder / MUSIC.repo.replace("/", "--")
    target.mkdir()
    path = target / str(MUSIC.filename)
    (write_torch_legacy if legacy else write_torch_zip)(path, training_record(state))
    return state, path


def test_of_a_training_file_only_the_needed_ranges_are_downloaded(hub: HubServer, tmp_path: Path) -> None:
    state, path = serve_music(hub)

    with open_checkpoint("music") as checkpoint:
        assert checkpoint.layout == "laion"
        for key, value in state.items():
            np.testing.assert_array_equal(checkpoint.tensors[key].numpy(), value)
        recorded = checkpoint.files[0]
        assert (checkpoint.source, checkpoint.revision) == (f"{MUSIC.repo}/{MUSIC.filename}", MUSIC.revision)
    assert (recorded.name, recorded.size, recorded.sha256) == (
        f"{MUSIC.repo}/{MUSIC.filename}",
        path.stat().st_size,
        None,
    )
    assert recorded.note == "file hash not verified; CRC-32 of each record read was checked"
    assert sum(value.nbytes for value in state.values()) <= hub.sent(path.name) <= 0.4 * path.stat().st_size
    assert not list((tmp_path / "home").rglob(path.name))


@pytest.mark.parametrize("reason", ["no ranges", "not a zip"])
def test_where_ranges_do_not_serve_the_whole_file_is_downloaded(hub: HubServer, reason: str) -> None:
    state, path = serve_music(hub, legacy=reason == "not a zip")
    hub.behaviour.no_ranges = reason == "no ranges"

    assert read("music", state) == "laion"

    assert hub.sent(path.name) >= path.stat().st_size
    with open_checkpoint("music") as checkpoint:
        assert checkpoint.files[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_training_file_that_is_in_the_cache_is_not_fetched_again(hub: HubServer) -> None:
    state, path = serve_music(hub)
    hub.behaviour.no_ranges = True
    read("music", state)
    sent = hub.sent(path.name)
    hub.behaviour.no_ranges = False

    assert read("music", state) == "laion"

    assert hub.sent(path.name) == sent


def test_a_connection_dropped_amid_a_range_is_taken_up_again(hub: HubServer) -> None:
    state, path = serve_music(hub)
    hub.behaviour.drop_after[path.name] = 30_000
    assert read("music", state) == "laion"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SourceError])
def test_an_interrupted_reading_of_ranges_is_taken_up_by_the_next(
    hub: HubServer, tmp_path: Path, error: type[BaseException]
) -> None:
    state, path = serve_music(hub)
    with pytest.raises(error), open_checkpoint("music") as checkpoint:
        for key in list(state)[:15]:
            checkpoint.tensors[key].numpy()
        raise error
    before = hub.sent(path.name)
    assert before > 15 * 200_000

    assert read("music", state) == "laion"

    assert 5 * 200_000 <= hub.sent(path.name) - before <= 6.5 * 200_000
    assert not list((tmp_path / "home").rglob("*.mlxclap-*"))


@pytest.mark.parametrize("damage", ["end cut off", "byte changed", "garbage"])
def test_a_damaged_spool_costs_only_what_was_damaged(hub: HubServer, tmp_path: Path, damage: str) -> None:
    state, path = serve_music(hub)
    with pytest.raises(KeyboardInterrupt), open_checkpoint("music") as checkpoint:
        for tensor in checkpoint.tensors.values():
            tensor.numpy()
        raise KeyboardInterrupt
    (spool,) = (tmp_path / "home").rglob("*.mlxclap-ranges")
    good = spool.read_bytes()
    changed = good[:-1000] + bytes([good[-1000] ^ 1]) + good[-999:]
    spool.write_bytes({"end cut off": good[:-1000], "byte changed": changed, "garbage": b"x" * 5000}[damage])
    before = hub.sent(path.name)

    assert read("music", state) == "laion"

    assert damage == "garbage" or hub.sent(path.name) - before < 600_000


def test_any_training_file_on_the_hub_can_be_named(hub: HubServer) -> None:
    state, path = serve_music(hub)
    assert read(f"{MUSIC.repo}/{path.name}", state) == "laion"
    with pytest.raises(SourceError, match=rf"no file other\.pt, only {path.name}\."):
        read(f"{MUSIC.repo}/other.pt", state)
    with pytest.raises(CheckpointError, match=rf"for example {MUSIC.repo}/{path.name}"):
        read(MUSIC.repo, state)


def test_the_server_serves_the_published_files_where_they_are_given(hub: HubServer) -> None:
    published = os.environ.get("MLXCLAP_TEST_HUB_FILES")
    config = json.loads((hub.folder / "laion--clap-htsat-unfused" / "config.json").read_text())
    assert config["text_config"]["vocab_size"] == (50265 if published else 300)
