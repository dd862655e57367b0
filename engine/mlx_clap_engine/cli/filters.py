"""--tag, --label and --filter: which recordings, the same in every command that reads a library."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def filtered(command: Command) -> Command:
    """Give a command --tag, --label and --filter (each repeatable; all must hold); it receives them as `filters`."""

    @click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Only with this tag, as genre=Jazz.")
    @click.option("--label", "labels", multiple=True, metavar="SET=VALUE", help="Only with this label, as mood=calm.")
    @click.option(
        "--filter",
        "expressions",
        multiple=True,
        metavar="EXPRESSION",
        help="Only where this holds, as 'bpm > 120 and not artist ~ \"Bach\"' (~ is contains).",
    )
    @functools.wraps(command)
    def wrapper(
        *args: Any, tags: tuple[str, ...], labels: tuple[str, ...], expressions: tuple[str, ...], **kwargs: Any
    ) -> Any:
        from ..filters import parse_filter, parse_label, parse_tag

        filters = [*map(parse_tag, tags), *map(parse_label, labels), *map(parse_filter, expressions)]
        return command(*args, filters=filters, **kwargs)

    return wrapper  # type: ignore[return-value]
