"""`mlxclap doctor`: what is here, what is missing, and whether the numbers are right."""

from dataclasses import asdict

import click

from .options import Shared, shared
from .output import to_json


@click.command(short_help="Check this machine and the model's arithmetic on it.")
@click.option("--quick", is_flag=True, help="Leave out the self-checks on full-size models.")
@click.pass_context
@shared
def doctor(context: click.Context, shared: Shared, quick: bool) -> None:
    """Check this machine, the codecs, disks and models, and compare this device's numbers with the reference's.

    Full-size models are made in memory from fixed seeds and held against what the reference implementation computed
    with them, so that a GPU is judged on the real shapes; nothing is downloaded. Installed models are held against what
    their conversion stored. Exit code 1 when anything fails.
    """
    from mlx_clap_engine.doctor import examine

    failed = 0
    for finding in examine(shared.library, quick):
        failed += finding.status == "fail"
        if shared.json:
            click.echo(to_json(asdict(finding)))
            continue
        click.echo(f"{finding.status:<4}  {finding.check}: {finding.detail}")
        if finding.remedy:
            click.echo(f"      -> {finding.remedy}")
    if failed:
        shared.say(f"{failed} check(s) failed; each says what to do")
        context.exit(1)
    shared.say("no check failed")
