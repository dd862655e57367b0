"""README and docs say what the program says. Run as a script, this file writes the generated parts anew."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from mlx_clap_convert.aliases import ALIASES, DEFAULT_ALIAS
from mlx_clap_engine.cli import main

ROOT = Path(__file__).parents[1]
README, COMMANDS = ROOT / "README.md", ROOT / "docs" / "commands.md"
_COMMANDS = re.compile(r"<!-- commands -->\n.*?<!-- end -->", re.DOTALL)


def commands_table() -> str:
    rows = [f"| `{name}` | {command.get_short_help_str(200)} |" for name, command in main.commands.items()]
    return "\n".join(["<!-- commands -->", "| command | what it does |", "| --- | --- |", *rows, "<!-- end -->"])


def manual() -> str:
    parts = ["# Commands", "", "Written from `--help` by `python tests/test_docs.py`.", ""]
    for path, command in walk(main, ["mlxclap"]):
        settings = main.context_settings | {"terminal_width": 100}
        with click.Context(command, info_name=" ".join(path), **settings) as context:
            parts += [f"## {' '.join(path)}", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(parts)


def walk(command: click.Command, path: list[str]):
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, [*path, name])


def test_the_readmes_command_table_equals_help():
    assert commands_table() in README.read_text(encoding="utf-8")


def test_the_manual_equals_help():
    assert COMMANDS.read_text(encoding="utf-8") == manual()


@pytest.mark.parametrize("alias", ALIASES.values(), ids=str)
def test_the_readme_names_every_alias_with_its_size(alias):
    size = f"{alias.download_bytes / 1e6:.0f} MB"
    default = " (default)" if alias is DEFAULT_ALIAS else ""
    [row] = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{alias.name}`")]
    assert row.startswith(f"| `{alias.name}`{default} |") and size in row


def test_options_used_in_the_docs_exist():
    known = {opt for _, command in walk(main, []) for p in command.params for opt in (*p.opts, *p.secondary_opts)}
    for path in [README, *sorted((ROOT / "docs").glob("*.md"))]:
        for line in path.read_text(encoding="utf-8").splitlines():
            for command in re.findall(r"mlxclap [a-z][^`#]*", line):
                for option in re.findall(r"(?<!\S)--?[a-z][a-z0-9-]*", command):
                    assert option in known | {"--help"}, f"{path.name}: {line}"


def test_links_in_the_docs_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "bench").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_readmes_python_example_runs(tmp_path, models):
    from sounds import make_sound

    make_sound(tmp_path / "Music" / "a.wav", 2.0)
    [code] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    code = code.replace("path/to/model", str(models / "small"))
    prelude = "import numpy as np\nwaveforms = np.zeros((1, 480_000), np.float32) + 0.1\n"
    environment = os.environ | {"HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", prelude + code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "a.wav" in result.stdout


if __name__ == "__main__":
    README.write_text(_COMMANDS.sub(lambda _: commands_table(), README.read_text(encoding="utf-8")), encoding="utf-8")
    COMMANDS.write_text(manual(), encoding="utf-8")
