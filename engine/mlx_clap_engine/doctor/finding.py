"""One line of the doctor's report."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from mlx_clap.errors import ClapError

Status = Literal["ok", "info", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """`check` says what was looked at, `detail` what was found; `remedy` what to do where all is not well."""

    check: str
    status: Status
    detail: str
    remedy: str | None = None


def guarded(check: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of `look`; what it raises becomes a failed finding, so that one broken part hides no other."""
    try:
        yield from look()
    except Exception as error:
        # The text of other errors (a KeyError's is just the key) says little without their name.
        speaks = isinstance(error, ClapError | OSError | RuntimeError)
        text = str(error) if speaks else f"{type(error).__name__}: {error}"
        yield Finding(check, "fail", text, "Mend this, then run `mlxclap doctor` again")
