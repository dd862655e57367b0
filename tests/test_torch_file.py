"""`torch_file`: what torch saved is read exactly and lazily; what is hostile or broken is refused, never run."""

import io
import pickle
import random
import struct
import subprocess
import sys
import textwrap
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hostile
from mlx_clap_convert.byte_source import FileSource
from mlx_clap_convert.errors import CheckpointError
from mlx_clap_convert.torch_file import LazyTensor, read_torch_file
from torch_writer import (
    BFloat16,
    Parameter,
    View,
    without_checksums,
    write_torch_legacy,
    write_torch_zip,
)

LAYOUTS = pytest.mark.parametrize("write", [write_torch_zip, write_torch_legacy])
DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]


class CountingSource(FileSource):
    """A file that remembers what was read of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.bytes_read = 0

    def read(self, offset: int, length: int) -> bytes:
        self.bytes_read += length
        return super().read(offset, length)


def values(tree: Any) -> Any:
    """The tree with every tensor read."""
    if isinstance(tree, dict):
        return {key: values(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(values(value) for value in tree)
    return tree.numpy() if isinstance(tree, LazyTensor) else tree


def read_bytes(path: Path, data: bytes) -> Any:
    """Write `data` to `path` and read everything in it."""
    path.write_bytes(data)
    return values(read_torch_file(path))


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back_exactly(tmp_path: Path, write: Any, dtype: str) -> None:
    array = np.random.default_rng(0).integers(0, 2, (3, 5, 2)).astype(dtype)
    write(tmp_path / "a.pt", {"a": array})
    (tensor,) = read_torch_file(tmp_path / "a.pt").values()
    assert (tensor.shape, tensor.dtype) == ((3, 5, 2), dtype)
    assert tensor.numpy().dtype == array.dtype
    np.testing.assert_array_equal(tensor.numpy(), array)


@LAYOUTS
def test_bfloat16_comes_as_float32(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "a.pt", [BFloat16(np.array([1.0, -0.15625, 1.5 * 2.0**127, np.inf], np.float32))])
    (tensor,) = read_torch_file(tmp_path / "a.pt")
    assert tensor.dtype == "bfloat16"
    assert tensor.numpy().dtype == np.float32
    np.testing.assert_array_equal(tensor.numpy(), [1.0, -0.15625, 1.5 * 2.0**127, np.inf])


@LAYOUTS
def test_views_transposes_and_expansions_of_one_storage(tmp_path: Path, write: Any) -> None:
    base = np.arange(24, dtype=np.float32)
    tree = {
        "whole": View(base, 0, (4, 6), (6, 1)),
        "transposed": View(base, 0, (6, 4), (1, 6)),
        "column": View(base, 2, (4,), (6,)),
        "expanded": View(base, 5, (3, 2), (0, 1)),
        "scalar": View(base, 23, (), ()),
        "empty": View(base, 24, (0, 3), (3, 1)),
        "one row, any stride": View(base, 6, (1, 6), (2**62, 1)),
    }
    write(tmp_path / "a.pt", tree)
    read = values(read_torch_file(tmp_path / "a.pt"))
    grid = base.reshape(4, 6)
    np.testing.assert_array_equal(read["whole"], grid)
    np.testing.assert_array_equal(read["transposed"], grid.T)
    np.testing.assert_array_equal(read["column"], grid[:, 2])
    np.testing.assert_array_equal(read["expanded"], [[5, 6]] * 3)
    np.testing.assert_array_equal(read["one row, any stride"], [grid[1]])
    assert read["scalar"] == 23
    assert read["scalar"].shape == ()
    assert read["empty"].shape == (0, 3)
    assert all(array.flags.c_contiguous for array in read.values())


@LAYOUTS
def test_tensors_without_elements_and_without_dimensions(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "a.pt", [np.zeros((2, 0, 3), np.float16), np.array(7, np.int64)])
    empty, scalar = values(read_torch_file(tmp_path / "a.pt"))
    assert (empty.shape, scalar.shape, int(scalar)) == ((2, 0, 3), (), 7)


def laion_like() -> dict[str, Any]:
    """The top level of LAION's training script: a state dict, and an AdamW optimizer with numpy numbers."""
    rng = np.random.default_rng(1)
    weight, table = rng.standard_normal((64, 32)), rng.standard_normal((500, 64))
    arrays = [array.astype(np.float32) for array in (weight, table)]
    state_dict = OrderedDict(
        [("module.weight", Parameter(arrays[0])), ("module.table", arrays[1]), ("module.tied", arrays[1])]
    )
    state_dict._metadata = OrderedDict([("", {"version": 1})])  # type: ignore[attr-defined]
    moments = {i: {"step": 15, "exp_avg": array + 1, "exp_avg_sq": array + 2} for i, array in enumerate(arrays)}
    groups = [{"lr": np.float64(1e-4), "betas": (0.9, 0.99), "n": np.int64(-3), "f": np.float32(0.5)}]
    groups[0] |= {"flag": np.bool_(True), "amsgrad": False, "params": [0, 1], "foreach": None, "big": 1 << 70}
    optimizer = {"state": moments, "param_groups": groups}
    return {"epoch": 15, "name": "HTSAT-base", "state_dict": state_dict, "optimizer": optimizer}


@LAYOUTS
def test_a_laion_checkpoint_with_optimizer_and_numpy_numbers(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "a.pt", laion_like())
    tree = read_torch_file(tmp_path / "a.pt")
    assert (tree["epoch"], tree["name"]) == (15, "HTSAT-base")
    assert list(tree["state_dict"]) == ["module.weight", "module.table", "module.tied"]
    table = laion_like()["state_dict"]["module.table"]
    np.testing.assert_array_equal(tree["state_dict"]["module.tied"].numpy(), table)
    np.testing.assert_array_equal(tree["optimizer"]["state"][1]["exp_avg_sq"].numpy(), table + 2)
    group = tree["optimizer"]["param_groups"][0]
    assert (group["lr"], group["n"], group["f"], group["flag"]) == (1e-4, -3, 0.5, True)
    assert (group["betas"], group["params"], group["big"]) == ((0.9, 0.99), [0, 1], 1 << 70)
    assert type(group["lr"]) is float


def test_numpy_1_and_torch_1_names_are_read(tmp_path: Path) -> None:
    write_torch_zip(tmp_path / "a.pt", laion_like(), old=True)
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    records.pop("version")
    data_pkl = records.pop("data.pkl").replace(b"numpy._core.multi", b"numpy.core.multi")
    assert b"cnumpy.core.multiarray\nscalar\n" in data_pkl
    tree = read_bytes(tmp_path / "b.pt", hostile.zip_of(data_pkl, **records))
    assert tree["optimizer"]["param_groups"][0]["lr"] == 1e-4


@LAYOUTS
def test_only_headers_are_read_at_first_and_only_asked_tensors_then(tmp_path: Path, write: Any) -> None:
    big = np.ones(4 << 20, np.float32)  # 16 MB, and twice that beside it as an optimizer would have
    write(tmp_path / "a.pt", {"w": big, "m": big + 1, "v": big + 2})
    source = CountingSource(tmp_path / "a.pt")
    tree = read_torch_file(source)
    assert source.bytes_read < 200_000
    tree["w"].numpy()
    assert big.nbytes <= source.bytes_read < big.nbytes + 400_000


def test_a_storage_shared_by_many_views_is_read_once(tmp_path: Path) -> None:
    flat = np.arange(1 << 18, dtype=np.float32)
    write_torch_zip(tmp_path / "a.pt", [View(flat, i * 4096, (64, 64), (64, 1)) for i in range(64)])
    source = CountingSource(tmp_path / "a.pt")
    tensors = read_torch_file(source)
    np.testing.assert_array_equal(np.concatenate([tensor.numpy().ravel() for tensor in tensors]), flat)
    assert source.bytes_read < 2 * flat.nbytes


def test_a_changed_byte_of_a_tensor_fails_its_checksum(tmp_path: Path) -> None:
    data = bytearray(hostile.saved(tmp_path / "a.pt", {"a": np.zeros(4000, np.float32), "b": np.ones(3)}))
    data[data.index(b"\0" * 4000) + 2000] ^= 1
    (tmp_path / "a.pt").write_bytes(data)
    tree = read_torch_file(tmp_path / "a.pt")
    np.testing.assert_array_equal(tree["b"].numpy(), 1)
    with pytest.raises(CheckpointError, match=r"a\.pt is damaged: record 'data/0' .* CRC-32.*Fetch"):
        tree["a"].numpy()


def test_a_file_whose_checksums_were_switched_off_is_read(tmp_path: Path) -> None:
    array = np.arange(5, dtype=np.float32)
    data = without_checksums(hostile.saved(tmp_path / "a.pt", {"a": array}))
    np.testing.assert_array_equal(read_bytes(tmp_path / "b.pt", data)["a"], array)


def test_64_bit_sizes_and_offsets_in_the_directory_are_read(tmp_path: Path) -> None:
    array = np.arange(5, dtype=np.float32)
    good = hostile.saved(tmp_path / "a.pt", {"a": array})
    start, end = good.index(b"PK\1\2"), good.index(b"PK\6\6")
    directory, at = b"", start
    while at < end:  # every size and offset moves to a zip64 extra field, as beyond 4 GiB
        entry = bytearray(good[at : at + 46])
        stored, size, name_length = struct.unpack_from("<2LH", entry, 20)
        (offset,) = struct.unpack_from("<L", entry, 42)
        entry[20:28] = entry[42:46] * 0 + b"\xff" * 8
        entry[30:32], entry[42:46] = struct.pack("<H", 28), b"\xff" * 4
        name = good[at + 46 : at + 46 + name_length]
        directory += bytes(entry) + name + struct.pack("<2H3Q", 1, 24, size, stored, offset)
        at += 46 + name_length
    ends = bytearray(good[end:])
    ends[40:48] = struct.pack("<Q", len(directory))
    ends[56 + 8 : 56 + 16] = struct.pack("<Q", start + len(directory))
    ends[76 + 8 : 76 + 20] = b"\xff" * 12  # counts, length, offset: see the 64-bit record
    wide = good[:start] + directory + bytes(ends)
    np.testing.assert_array_equal(read_bytes(tmp_path / "b.pt", wide)["a"], array)


def test_a_file_that_is_not_there_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pt cannot be read: No such file"):
        read_torch_file(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is not a file"):
        read_torch_file(tmp_path)


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    write_torch_zip(tmp_path / "a.pt", {"a": np.ones(1000)})
    tensor = read_torch_file(tmp_path / "a.pt")["a"]
    (tmp_path / "a.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="became shorter"):
        tensor.numpy()


def test_programs_are_refused_by_name_and_do_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "a.pt"
    for name, pickled in hostile.programs(marker).items():
        for data in (hostile.zip_of(pickled), hostile.legacy_of(pickled)):
            with pytest.raises(CheckpointError, match="was refused"):
                pytest.fail(f"{name} was read: {read_bytes(path, data)}")
            assert not marker.exists(), name
    with pytest.raises(CheckpointError, match=r"names '(posix|nt)\.system'"):
        read_bytes(path, hostile.zip_of(hostile.programs(marker)["os.system"]))


def test_reading_imports_executes_and_starts_nothing(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir()
    bad.mkdir()
    write_torch_zip(good / "zip.pt", laion_like())
    write_torch_legacy(good / "legacy.pt", laion_like())
    for i, pickled in enumerate(hostile.programs(tmp_path / "marker").values()):
        (bad / f"{i}.pt").write_bytes(hostile.zip_of(pickled))
    script = """
        import sys
        from pathlib import Path
        from mlx_clap_convert.errors import CheckpointError
        from mlx_clap_convert.torch_file import read_torch_file
        good, bad = (sorted(Path(folder).iterdir()) for folder in sys.argv[1:])
        def read(path):
            try:
                tree = read_torch_file(path)
                tree["state_dict"]["module.weight"].numpy()
            except CheckpointError:
                return "refused"
            return "read"
        assert [read(path) for path in good] == ["read"] * 2  # whatever numpy imports late, it has now
        seen = []
        sys.addaudithook(lambda event, _: seen.append(event))
        assert [read(path) for path in good + bad] == ["read"] * 2 + ["refused"] * len(bad)
        running = {"import", "exec", "compile", "pickle.find_class", "os.system", "os.exec", "os.posix_spawn"}
        assert "open" in seen and not running & {*seen} and "subprocess.Popen" not in seen, set(seen)
        assert "torch" not in sys.modules
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(good), str(bad)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("group", ["twisted_pickles", "bad_tensors", "broken_zips", "other_files"])
def test_broken_files_are_refused_with_their_name_in_little_time_and_memory(tmp_path: Path, group: str) -> None:
    path = tmp_path / "a.pt"
    make = getattr(hostile, group)
    files = make() if group == "twisted_pickles" else make(tmp_path / "made.pt")
    if group == "twisted_pickles":
        legacy = {f"{name}, legacy": hostile.legacy_of(data) for name, data in files.items()}
        files = {name: hostile.zip_of(data) for name, data in files.items()} | legacy
    for name, data in files.items():
        path.write_bytes(data)
        started = time.monotonic()
        with pytest.raises(CheckpointError, match=r"a\.pt (is|was|begins|does|cannot)"):
            pytest.fail(f"{name} was read: {values(read_torch_file(path))}")
        assert time.monotonic() - started < 10, name


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "is empty"),
        ("Git LFS pointer", "is a Git LFS pointer.*git lfs pull"),
        ("web page", "is a web page"),
        ("XML error", "is a web page"),
        ("text", "does not begin like"),
        ("tar", "is a tar archive"),
        ("safetensors", "is a safetensors file"),
        ("bare pickle", "is a bare pickle"),
        ("empty zip", "is an empty or partial zip"),
    ],
)
def test_another_kind_of_file_is_called_what_it_is(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_bytes(tmp_path / "a.pt", hostile.other_files(tmp_path / "made.pt")[kind])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("TorchScript", "TorchScript"),
        ("compressed", "compressed"),
        ("encrypted", "encrypted"),
        ("overlapping", "overlap"),
        ("a record twice", "'data/0' twice"),
        ("big-endian", "big-endian"),
        ("no data.pkl", "no data.pkl"),
        ("storage too short", "has 4 bytes for 3 elements of int64"),
        ("a million million records", "claims"),
        ("one part of several", "split over several"),
        ("padding into the next record", "runs into the next"),
        ("absurd data.pkl", "its pickle is 17,825,792 bytes"),
    ],
)
def test_a_zip_is_refused_for_the_right_reason(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_bytes(tmp_path / "a.pt", hostile.broken_zips(tmp_path / "made.pt")[kind])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("too many steps", "more than 500,000 steps"),
        ("too much memory", "remembers more than 200,000"),
        ("a text of 2 GB", "a text of 2,147,483,648 bytes"),
        ("SETITEMS without a value", "key without a value"),
        ("a list in itself", "contains itself"),
        ("list bomb", "unfolds to more than"),
        ("a class as data", "holds a 'collections.OrderedDict' as data"),
    ],
)
def test_a_pickle_is_refused_for_the_right_reason(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_bytes(tmp_path / "a.pt", hostile.zip_of(hostile.twisted_pickles()[kind]))


def test_a_newer_pickle_protocol_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="protocol 4"):
        read_bytes(tmp_path / "a.pt", hostile.zip_of(pickle.dumps({}, 4)))


@LAYOUTS
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "a.pt", {"a": np.arange(8, dtype=np.float32)})
    good = (tmp_path / "a.pt").read_bytes()
    for length in range(0, len(good), 3):
        with pytest.raises(CheckpointError):
            pytest.fail(f"{length} bytes were read: {read_bytes(tmp_path / 'b.pt', good[:length])}")


@LAYOUTS
def test_random_damage_gives_a_result_or_a_checkpoint_error_never_more(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "a.pt", laion_like())
    good = (tmp_path / "a.pt").read_bytes()
    head = good[:6000] if write is write_torch_legacy else good
    pickle_at = head.index(b"OrderedDict")
    rng = random.Random(7)
    refused = 0
    tracemalloc.start()
    for _ in range(400):
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 2, 8])):
            # Half of the damage goes where the structure is: the pickle and the ends of the file.
            places = [
                rng.randrange(len(data)),
                pickle_at + rng.randrange(2000),
                rng.randrange(100),
                -1 - rng.randrange(900),
            ]
            data[rng.choice(places)] = rng.randrange(256)
        if write is write_torch_zip:
            data = bytearray(without_checksums(bytes(data)))  # or damage would get no further than them
        if rng.random() < 0.1:
            del data[rng.randrange(len(data)) :]
        try:
            read_bytes(tmp_path / "b.pt", bytes(data))
        except CheckpointError:
            refused += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 100 < refused < 400  # the damage was neither harmless nor always caught at the door
    assert peak < 200 << 20


@pytest.mark.parity
@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_itself_saved_is_read_exactly(tmp_path: Path, legacy: bool) -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.Linear(8, 4)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=np.float64(1e-3))
    model(torch.randn(2, 1, 3, 3)).sum().backward()
    optimizer.step()
    base = torch.randn(6, 8)
    tensors: dict[str, Any] = {str(dtype): (base * 3).to(dtype) for dtype in (torch.bfloat16, torch.bool)}
    tensors |= {name: (base * 3).to(getattr(torch, name)) for name in DTYPES}
    tensors |= {"t": base.t(), "slice": base[1:4, 2:7:2], "expand": base[:1].expand(5, 8), "scalar": base[2, 3]}
    tensors |= {"parameter": torch.nn.Parameter(base), "empty": base[:0], "size": base.shape}
    tree = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "tensors": tensors}
    torch.save(tree, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    assert_same(read_torch_file(tmp_path / "a.pt"), tree)


def assert_same(read: Any, saved: Any) -> None:
    """`read` (ours) equals `saved` (torch's), leaf by leaf."""
    if isinstance(saved, dict):
        assert list(read) == list(saved)
        for key in saved:
            assert_same(read[key], saved[key])
    elif isinstance(saved, list | tuple):
        assert len(read) == len(saved)
        for ours, theirs in zip(read, saved, strict=True):
            assert_same(ours, theirs)
    elif hasattr(saved, "stride"):
        assert f"torch.{read.dtype}" == str(saved.dtype)
        expected = saved.detach().float() if read.dtype == "bfloat16" else saved.detach()
        assert read.numpy().dtype == expected.numpy().dtype
        np.testing.assert_array_equal(read.numpy(), expected.numpy(), strict=True)
    else:
        assert read == saved


@pytest.mark.parity
def test_our_writer_writes_torchs_own_bytes(tmp_path: Path) -> None:
    import torch

    arrays = {"w": np.arange(24, dtype=np.float32).reshape(4, 6), "n": np.array(3), "e": np.ones((2, 0))}
    arrays |= {"h": np.ones(3, np.float16), "b": np.array([True, False]), "d": np.ones(2)}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tensors["e"] = torch.ones(2, 0, dtype=torch.float64)  # NumPy has other strides where nothing is

    def tree(leaves: dict[str, Any], transposed: Any, wrap: Any) -> dict[str, Any]:
        state_dict = OrderedDict(
            {k: leaf for k, leaf in leaves.items() if k != "d"}, tied=leaves["w"], t=transposed, p=wrap(leaves["d"])
        )
        state_dict._metadata = OrderedDict([("", {"version": 1})])  # type: ignore[attr-defined]
        return {"epoch": 3, "lr": np.float64(0.1), "state_dict": state_dict, "l": [1, 2.5, None, True, (300,)]}

    ours = tree(arrays, View(arrays["w"], 0, (6, 4), (1, 6)), Parameter)
    theirs = tree(tensors, tensors["w"].t(), lambda tensor: torch.nn.Parameter(tensor, True))
    torch.save(theirs, tmp_path / "a.pt")
    expected = bytearray((tmp_path / "a.pt").read_bytes())
    write_torch_zip(tmp_path / "a.pt", ours)
    actual = bytearray((tmp_path / "a.pt").read_bytes())
    for data in (expected, actual):  # the one record that is a digest, and its checksum in two places
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            digest = archive.read("a/.data/serialization_id")
        at, listed = data.index(digest), data.rindex(b"PK\1\2")
        data[at : at + 48] = b"0" * 48
        data[listed + 16 : listed + 20] = b"0000"
    assert actual == expected

    write_torch_legacy(tmp_path / "b.pt", ours)
    loaded = torch.load(tmp_path / "b.pt", weights_only=False)
    assert_same(read_torch_file(tmp_path / "b.pt"), loaded)
    assert torch.equal(loaded["state_dict"]["t"], tensors["w"].t())
