"""`mlxclap convert` and `mlxclap models`: bring models in, and see to those that are there."""

from pathlib import Path
from typing import Any

import click

from .options import Shared, shared
from .output import emit, size


@click.command(short_help="Bring in a model from a CLAP checkpoint.")
@click.argument("source", required=False, default="general")
@click.option("--name", help="Install under this name [default: from the source].")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Write to this folder, not to the models.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    show_default=True,
    help="How matrices are stored. A GPU also calculates in it, a CPU always in float32.",
)
@click.option("--revision", help="Commit, tag or branch of a Hub source [default: pinned for an alias, else main].")
@click.option(
    "--tokenizer",
    type=click.Path(exists=True, path_type=Path),
    help="A tokenizer.json to use instead of the source's own.",
)
@click.option("--force", is_flag=True, help="Replace a model of that name; install in spite of a failed health check.")
@shared
def convert(shared: Shared, source: str, **options: Any) -> None:
    """Convert a CLAP checkpoint into an MLX model and check it.

    SOURCE is an alias (general, unfused, fused, music-speech, music), a Hugging Face Hub id, or the path of a Hugging
    Face folder or of an original LAION .pt file. Without SOURCE: general, the best all-rounder (a 776 MB download).

    Checkpoint files are read without executing anything in them. Downloads resume; HF_HOME, HF_ENDPOINT and HF_TOKEN
    are honoured.
    """
    from mlx_clap_convert.conversion import convert as run

    done = run(source, say=shared.say, **options)
    row = {
        "name": done.name,
        "path": done.path,
        "space": done.space,
        "source": done.source,
        "revision": done.revision,
        "dtype": done.dtype,
        "parameters": done.parameters,
        "size_bytes": done.size_bytes,
        "text_similarity": done.health.text_similarity,
        "sound_similarity": done.health.sound_similarity,
        "logit_scale": done.health.logit_scale,
        "warnings": done.health.warnings,
        "problem": done.health.problem,
    }
    if shared.json:
        emit(shared, [row], [])
    else:
        click.echo(f"{done.name}: {done.parameters:,} values, {size(done.size_bytes)}, space {done.space}")
        shared.say("next: mlxclap ingest FOLDER")


@click.group(short_help="Installed models; choose the default, remove one.", invoke_without_command=True)
@click.pass_context
@shared
def models(context: click.Context, shared: Shared) -> None:
    """List the installed models, with the default marked; `use` and `remove` change that."""
    if context.invoked_subcommand is not None:
        return
    from dataclasses import asdict

    from mlx_clap_convert.installed import installed, models_dir

    rows = [asdict(model) for model in installed()]
    if not rows:
        shared.say(f"No model is installed in {models_dir()}. `mlxclap convert` brings one in (a 776 MB download).")
    for row in rows:
        if row["problem"]:
            shared.warn(f"{row['name']}: {row['problem']}")
        row["size"] = size(row["size_bytes"])
    emit(shared, rows, ["name", "default", "dtype", "size", "space", "source"])


@models.command("use")
@click.argument("name")
@shared
def use(shared: Shared, name: str) -> None:
    """Make NAME the model that is used when none is named."""
    from mlx_clap_convert.installed import use as make_default

    make_default(name)
    shared.say(f"{name} is now the default model")


@models.command("remove")
@click.argument("name")
@shared
def remove(shared: Shared, name: str) -> None:
    """Delete the installed model NAME. Libraries keep their embeddings."""
    from mlx_clap_convert.installed import remove as delete

    delete(name)
    shared.say(f"{name} was removed")
