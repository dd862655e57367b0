"""Does this device compute the model's numbers? Stored references first, then every installed model against itself.

The bars are those of `mlx_clap.verify`: stage by stage for float32 on a CPU, by cosine distance elsewhere.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_clap.backend import mx, on_gpu
from mlx_clap.clap import Clap
from mlx_clap.load import PROVENANCE, read_json
from mlx_clap.seeded import seeded_sound
from mlx_clap.verify import BY_DTYPE, check, seeded_clap, stored_reference
from mlx_clap_convert.conversion import CHECK_SOUND, DTYPES
from mlx_clap_convert.installed import InstalledModel

from .finding import Finding

Embeddings = dict[str, NDArray[np.float32]]


def references(names: Iterable[str]) -> Iterator[Finding]:
    """Seeded models of the stored references `names`, in every dtype this device calculates in."""
    for name in names:
        for dtype in ("float32", "float16") if on_gpu() else ("float32",):
            yield against_reference(name, dtype)
            mx.clear_cache()


def against_reference(name: str, dtype: str) -> Finding:
    """One seeded model, stored in `dtype`, against what transformers computed with the same weights."""
    reference = stored_reference(name)
    checks = check(seeded_clap(reference.config, DTYPES[dtype]), reference)
    # A NaN is worse than any number.
    worst = max(checks, key=lambda c: c.error / c.bar if math.isfinite(c.error) else math.inf)
    failed = [c for c in checks if not c.ok]
    title = f"arithmetic, {name} {dtype}"
    where = f"{worst.name} off by {worst.error:.1e}, {worst.bar:.0e} allowed"
    source = f"transformers {reference.versions['transformers']}"
    if failed:
        detail = f"{len(failed)} of {len(checks)} quantities are not those of {source}; the worst: {where}"
        return Finding(title, "fail", detail, _remedy(dtype))
    return Finding(title, "ok", f"{len(checks)} quantities equal {source}; the nearest to its bar: {where}")


def installed_model(model: InstalledModel) -> Iterator[Finding]:
    """An installed model against the embeddings its conversion stored and, on a GPU, against this machine's CPU.

    Raises:
        ModelFormatError: the model cannot be loaded.
    """
    provenance = read_json(model.path / PROVENANCE)
    stored: dict[str, Any] = provenance.get("check") or {}
    if not stored:
        yield Finding(
            f"model {model.name}", "info", "its conversion stored no embeddings to compare with", "Convert it again"
        )
        return
    here = _embeddings(model, stored["text"])
    expected = {kind: np.array(stored[f"{kind}_embedding"], np.float32) for kind in here}
    yield _compared(model, here, expected, "its conversion")
    if on_gpu():
        yield against_cpu(model, here, stored["text"])


def against_cpu(model: InstalledModel, here: Embeddings, text: str) -> Finding:
    """`here`, the embeddings of `text` and of the check sound, against those this machine's CPU gives."""
    with mx.stream(mx.cpu):
        there = _embeddings(model, text)
    return _compared(model, here, there, "the CPU")


def _embeddings(model: InstalledModel, text: str) -> Embeddings:
    clap = Clap.load(model.path)
    sound = seeded_sound(CHECK_SOUND, clap.config.mel.window_samples)
    return {"text": clap.embed_text([text])[0], "sound": clap.embed_audio(sound[None])[0]}


def _compared(model: InstalledModel, here: Embeddings, there: Embeddings, other: str) -> Finding:
    bar = BY_DTYPE[model.dtype].cosine_distance
    # Half the squared distance of unit vectors is their cosine distance, without its rounding.
    distances = {kind: float(np.square(here[kind] - there[kind]).sum(dtype=np.float64)) / 2 for kind in here}
    found = ", ".join(f"{kind} {distance:.1e}" for kind, distance in distances.items())
    title, detail = f"model {model.name}", f"cosine distance to {other}: {found}, {bar:.0e} allowed"
    if all(distance <= bar for distance in distances.values()):
        return Finding(title, "ok", detail)
    return Finding(title, "fail", detail, f"{_remedy(model.dtype)}. If the arithmetic checks pass, convert it again")


def _remedy(dtype: str) -> str:
    if on_gpu() and dtype == "float32":
        return (
            "Run `MLX_ENABLE_TF32=0 mlxclap doctor`: if that passes, this GPU rounds float32 products and the variable "
            "should stay set; if not, upgrade mlx and report this with the output of `mlxclap doctor --json`"
        )
    return "Upgrade mlx; if that does not help, report this with the output of `mlxclap doctor --json`"
