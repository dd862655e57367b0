"""What the program stands on: system, Python, MLX and its device, disks, models, the Hub's cache."""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from mlx_clap.backend import BLAS, BLAS_REMEDY, device_name, mx, on_gpu, threads
from mlx_clap_convert.hub import endpoint
from mlx_clap_convert.installed import installed, models_dir
from mlx_clap_engine.errors import LibraryError
from mlx_clap_engine.machine import this_machine, versions
from mlx_clap_engine.store.disk import require_hard_links

from .finding import Finding

#: Less free space than this is worth a word: a checkpoint and its model take about 1.6 GB together.
_LITTLE_SPACE = 2e9


def system() -> Iterator[Finding]:
    """The machine and the versions of what is installed."""
    machine = asdict(this_machine())
    yield Finding(
        "system", "info", "{system}, {chip}, {cores} cores, {memory_gb} GB, Python {python}".format(**machine)
    )
    yield Finding("versions", "info", ", ".join(f"{name} {version}" for name, version in versions().items()))


def device() -> Iterator[Finding]:
    """Where MLX calculates, and on a Linux CPU what makes that bearable."""
    if on_gpu():
        usable = mx.device_info().get("max_recommended_working_set_size")
        memory = f", {float(usable) / 1e9:.1f} GB usable" if usable else ""
        yield Finding("device", "ok", device_name() + memory)
        return
    if sys.platform == "darwin":
        yield Finding(
            "device",
            "warn",
            "MLX finds no GPU and calculates on the CPU",
            "Use a Mac with Apple Silicon outside a virtual machine, with a Python built for arm64",
        )
        return
    yield Finding("device", "ok", f"{device_name()}, {threads()} threads")
    if BLAS:
        yield Finding("BLAS", "ok", BLAS)
    else:
        yield Finding(
            "BLAS", "warn", "MLX uses its built-in BLAS, which is about eight times slower than OpenBLAS", BLAS_REMEDY
        )
    compiler = shutil.which("g++")
    if compiler:
        yield Finding("compiler", "ok", compiler)
    else:
        yield Finding("compiler", "warn", "without g++ MLX cannot fuse kernels and is slower", "apt-get install g++")


def library(path: Path) -> Iterator[Finding]:
    """The disk of the library at `path`, which need not exist yet."""
    state = "" if path.exists() else " (not made yet)"
    try:
        require_hard_links(_existing(path))
    except LibraryError as error:
        yield Finding("library", "fail", f"{path}{state}", str(error))
        return
    yield _with_space("library", f"{path}{state}, hard links", path)


def models() -> Iterator[Finding]:
    """The models folder and each damaged model; the sound ones are named."""
    found = installed()
    for model in found:
        if model.problem:
            yield Finding(f"model {model.name}", "fail", f"{model.path}: {model.problem}", "Convert it again")
    names = [f"{m.name} (default)" if m.default else m.name for m in found if not m.problem]
    if names:
        yield _with_space("models", f"{models_dir()}: {', '.join(names)}", models_dir())
    else:
        yield Finding(
            "models", "warn", f"none in {models_dir()}", "`mlxclap convert` brings in one (a 776 MB download)"
        )


def hub() -> Iterator[Finding]:
    """Where checkpoints come from and where their downloads are kept. No request is made."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    offline = "; HF_HUB_OFFLINE is set, so nothing is downloaded" if constants.HF_HUB_OFFLINE else ""
    yield _with_space("Hugging Face Hub", f"{endpoint()}{offline}; cache {cache}", cache)


def _existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    path = path.expanduser().absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _with_space(check: str, detail: str, path: Path) -> Finding:
    folder = _existing(path)
    free = shutil.disk_usage(folder).free
    detail = f"{detail}, {free / 1e9:.1f} GB free"
    if not os.access(folder, os.W_OK):
        return Finding(check, "warn", f"{detail}, not writable", f"Make {folder} writable for you")
    if free < _LITTLE_SPACE:
        return Finding(check, "warn", detail, f"Free some space on the disk of {folder}")
    return Finding(check, "ok", detail)
