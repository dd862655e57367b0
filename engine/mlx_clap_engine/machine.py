"""What this machine is, in the words people use for it: for the reports of `doctor` and `bench`."""

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import mlx_clap

#: The packages whose version moves results or figures.
PACKAGES = ("mlx", "mlx-clap", "numpy", "lancedb", "av", "soxr")


@dataclass(frozen=True)
class Machine:
    """`chip` by its maker's name, `cores` as the system counts them, `memory_gb` of RAM in units of 1e9 bytes."""

    chip: str
    cores: int
    memory_gb: float
    system: str
    python: str


def this_machine() -> Machine:
    """Look at the machine this process runs on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(_chip(), os.cpu_count() or 1, round(memory / 1e9, 1), _system(), platform.python_version())


def versions() -> dict[str, str]:
    """Installed version of each of `PACKAGES` that is there."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit this code was checked out at, with ``+changes`` if it was edited; None outside a checkout."""
    folder = Path(mlx_clap.__file__).parent
    # A virtual environment may lie in someone else's checkout: only one that holds this very file counts.
    if _output("git", "-C", str(folder), "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head = _output("git", "-C", str(folder), "rev-parse", "--short=12", "HEAD")
    edited = _output("git", "-C", str(folder.parent), "status", "--porcelain")
    return f"{head}+changes" if head and edited else head


def _chip() -> str:
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _system() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]} ({platform.machine()})"
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name} ({platform.machine()})"


def _output(*command: str) -> str | None:
    """What a command prints, or None when it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
