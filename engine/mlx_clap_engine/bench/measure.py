"""How a figure is made: burnt in, timed, and told as median, minimum and p95 of n runs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec

import numpy as np

Row = dict[str, Any]
P = ParamSpec("P")
_BURN_IN = 2


@dataclass(frozen=True)
class Plan:
    """How much to measure. `sound_s` is the length of a made sound, `files` their number in ingest, `windows` the size
    of the library that is searched."""

    repeats: int = 10
    sound_s: float = 60.0
    files: int = 12
    windows: int = 100_000


def timed(repeats: int, run: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> list[float]:
    """Seconds of each of `repeats` calls, after two that are not counted. `run` must finish its work before it returns:
    MLX is lazy."""
    for _ in range(_BURN_IN):
        run(*args, **kwargs)
    return [once(run, *args, **kwargs) for _ in range(repeats)]


def once(run: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    run(*args, **kwargs)
    return time.perf_counter() - began


def row(
    bench: str,
    case: str,
    seconds: Sequence[float],
    unit: str,
    units: float = 1.0,
    *,
    state: Literal["warm", "cold"] = "warm",
    batch: int | None = None,
    dtype: str | None = None,
    **more: Any,
) -> Row:
    """One figure.

    Args:
        seconds: of each run; a run works off `units` of `unit` (windows, texts, seconds of sound ...).
        state: cold is the first use of something, warm all later ones.
        more: what else belongs to this figure (recall, a ratio, peak memory).
    """
    ms = np.asarray(seconds) * 1e3 / units
    median = float(np.median(ms))
    return {
        "bench": bench,
        "case": case,
        "unit": unit,
        "median_ms": round(median, 4),
        "min_ms": round(float(ms.min()), 4),
        "p95_ms": round(float(np.percentile(ms, 95)), 4),
        "per_second": round(1e3 / median, 2),
        "n": len(ms),
        "state": state,
        "batch": batch,
        "dtype": dtype,
        **more,
    }
