"""The command `mlxclap`. Commands are thin: options in, one call to a plain object, rows out.

Nothing here may import MLX, LanceDB or a decoder at the top of a module: `mlxclap --help` must stay instant. Each
command imports what it needs when it runs.
"""

import io
import sys
from typing import Any

import click

from mlx_clap import __version__
from mlx_clap.errors import ClapError

from .bench import bench
from .convert import convert, models
from .doctor import doctor
from .export import export
from .index import index
from .ingest import ingest
from .library import status
from .query import query


class Failure(click.ClickException):
    """An error of ours as click prints it: one text on stderr, exit code 1 (2 when the request was at fault)."""

    def __init__(self, error: ClapError) -> None:
        super().__init__(str(error))
        self.code = error.exit_code

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # click declares a class variable
        return self.code


class Commands(click.Group):
    """A group that lists its commands in the order of work and turns errors into messages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # A path may hold bytes that are not UTF-8; they go out as they came in.
                stream.reconfigure(errors="surrogateescape")
        try:
            return super().invoke(ctx)
        except ClapError as error:
            raise Failure(error) from error
        except OSError as error:
            if error.filename is None or isinstance(error, BrokenPipeError):
                raise
            raise click.ClickException(f"{error.filename}: {error.strerror}") from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mlxclap")
def main() -> None:
    """Search and label a folder of sound by meaning, on this machine.

    Start with `mlxclap convert` (brings in a model), then `mlxclap ingest FOLDER`, then `mlxclap query --text "..."`.
    """


for command in (convert, models, ingest, query, export, index, status, doctor, bench):
    main.add_command(command)
