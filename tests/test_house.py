"""Who may import whom, and that `mlxclap --help` stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "mlx_clap": ROOT / "mlx_clap",
    "mlx_clap_convert": ROOT / "convert" / "mlx_clap_convert",
    "mlx_clap_engine": ROOT / "engine" / "mlx_clap_engine",
}
MAY_IMPORT = {
    "mlx_clap": {"mlx_clap"},
    "mlx_clap_convert": {"mlx_clap", "mlx_clap_convert"},
    "mlx_clap_engine": {"mlx_clap", "mlx_clap_convert", "mlx_clap_engine"},
}
# library -> the only files (or folders) that may import it
ROOMS = {
    "mlx": {"mlx_clap/backend.py"},
    "lancedb": {"engine/mlx_clap_engine/store"},
    "av": {"engine/mlx_clap_engine/decode_ffmpeg.py", "engine/mlx_clap_engine/encode.py"},
    "soundfile": {"engine/mlx_clap_engine/decode_sndfile.py", "engine/mlx_clap_engine/encode.py"},
    "huggingface_hub": {"convert/mlx_clap_convert", "engine/mlx_clap_engine/doctor"},
    "pickle": set(),
    "torch": {"engine/mlx_clap_engine/bench"},
    "transformers": {"engine/mlx_clap_engine/bench"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def sources() -> list[tuple[str, Path]]:
    return [(name, path) for name, folder in PACKAGES.items() for path in folder.rglob("*.py")]


def test_dependencies_point_one_way():
    wrong = [
        f"{path.relative_to(ROOT)} imports {found}"
        for name, path in sources()
        for found in imports(path) & set(PACKAGES)
        if found not in MAY_IMPORT[name]
    ]
    assert wrong == []


@pytest.mark.parametrize("library", ROOMS)
def test_a_library_is_imported_in_its_own_room_only(library):
    wrong = [
        str(path.relative_to(ROOT))
        for _, path in sources()
        if library in imports(path) and not any(str(path.relative_to(ROOT)).startswith(room) for room in ROOMS[library])
    ]
    assert wrong == []


HEAVY = (
    "mlx",
    "numpy",
    "lancedb",
    "pyarrow",
    "av",
    "soundfile",
    "soxr",
    "huggingface_hub",
    "tokenizers",
    "rich",
    "torch",
)


@pytest.mark.parametrize("arguments", [["--help"], ["query", "--help"], ["ingest", "--help"], ["models"]])
def test_help_imports_nothing_heavy(arguments, tmp_path):
    code = (
        "import sys\n"
        "from mlx_clap_engine.cli import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])\n"
    )
    environment = {"MLXCLAP_MODELS": str(tmp_path), "PATH": "/usr/bin:/bin"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_importing_the_model_package_does_not_import_mlx():
    code = "import sys, mlx_clap; print('mlx.core' in sys.modules, mlx_clap.Clap.__name__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "Clap"]
