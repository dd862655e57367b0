"""Options that mean the same everywhere, as decorators."""

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click


@dataclass(frozen=True)
class Shared:
    """What every command is told: where the library is, whether a machine reads along, how much to say."""

    library: Path
    json: bool
    verbosity: int

    def say(self, text: str) -> None:
        """A line for people, on stderr; silent under -q."""
        if self.verbosity >= 0:
            click.echo(text, err=True)

    def detail(self, text: str) -> None:
        """A line only -v shows."""
        if self.verbosity > 0:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """A warning, on stderr, whatever the verbosity."""
        click.echo(f"Warning: {text}", err=True)


def default_library() -> Path:
    """The library when neither --library nor MLXCLAP_LIBRARY names one."""
    import platformdirs

    return Path(platformdirs.user_data_dir("mlxclap", False)) / "library"


def shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --library, --json, -q and -v; it receives them as its first argument of its own, a `Shared`."""

    @click.option(
        "--library",
        type=click.Path(path_type=Path),
        envvar="MLXCLAP_LIBRARY",
        help="Folder of the library [env: MLXCLAP_LIBRARY; default: mlxclap/library in your user data folder].",
    )
    @click.option("--json", "as_json", is_flag=True, help="JSON Lines on stdout, one object a row.")
    @click.option("-q", "--quiet", is_flag=True, help="Only results, warnings and errors.")
    @click.option("-v", "--verbose", count=True, help="Say more.")
    @functools.wraps(command)
    def wrapper(*args: Any, library: Path | None, as_json: bool, quiet: bool, verbose: int, **kwargs: Any) -> Any:
        # `args` is click's own context, for the few commands that ask for it.
        return command(
            *args,
            Shared((library or default_library()).expanduser().absolute(), as_json, -1 if quiet else verbose),
            **kwargs,
        )

    return wrapper


model_option = click.option(
    "--model", metavar="NAME|PATH", help="An installed model (see `mlxclap models`) or a model folder."
)


def expand(paths: tuple[str, ...]) -> list[str]:
    """Paths from the command line; `-` stands for a list on stdin, one path a line (or NUL-separated)."""
    out: list[str] = []
    for path in paths:
        if path == "-":
            data = sys.stdin.buffer.read()
            parts = data.split(b"\0" if b"\0" in data else b"\n")
            out += [os.fsdecode(part) for part in (p.rstrip(b"\r") for p in parts) if part]
        else:
            out.append(os.path.expanduser(path))
    return out
