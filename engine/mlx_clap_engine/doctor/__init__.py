"""`mlxclap doctor`: is everything here that the program needs, and does this device compute the model's numbers?

Every part is looked at even when another is broken. Nothing is changed and no request goes out to the network.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mlx_clap.verify import FULL_SIZE, SMALL
from mlx_clap_convert.installed import installed

from . import arithmetic, codecs, surroundings
from .finding import Finding, guarded


def examine(library: Path, quick: bool = False) -> Iterator[Finding]:
    """Look at everything, the slow parts last.

    Args:
        library: the library's folder; it need not exist.
        quick: leave the full-size references out, about 5 s each on a CPU.
    """
    yield from guarded("system", surroundings.system)
    yield from guarded("device", surroundings.device)
    yield from guarded("codecs", codecs.formats)
    yield from guarded("library", partial(surroundings.library, library))
    yield from guarded("models", surroundings.models)
    yield from guarded("Hugging Face Hub", surroundings.hub)
    for name in SMALL if quick else (*SMALL, *FULL_SIZE):
        yield from guarded(f"arithmetic, {name}", partial(arithmetic.references, [name]))
    for model in installed():
        if not model.problem:
            yield from guarded(f"model {model.name}", partial(arithmetic.installed_model, model))


__all__ = ["Finding", "examine"]
