"""PyTorch beside MLX: the same weights in transformers' ClapModel, the same input, runs alternated A B A B.

PyTorch is no dependency: without it (and transformers) there is nothing to compare. It runs in a process of its own,
because the OpenBLAS that MLX needs on Linux would take the place of PyTorch's own products in this one. On a Mac both
run on the GPU.
"""

import importlib.util
import multiprocessing
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_clap.backend import mx, on_gpu
from mlx_clap_convert.names import to_hf
from mlx_clap_engine.errors import EngineError

from . import twin_process
from .measure import Plan, Row, row
from .model import TEXTS, embed_audio, embed_text, sounds, token_ids
from .subject import Subject

Times = NDArray[np.float64]

_BURN_IN = 2
#: Threads of a BLAS spin for a while after their work, on the cores that the other one needs.
_PAUSE_S = 0.1


def available() -> bool:
    """Whether PyTorch and transformers are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))


def torch(subject: Subject, plan: Plan) -> Iterator[Row]:
    """Both towers in float32: PyTorch's times, MLX's median beside them, and `ratio`, the median of MLX / PyTorch.

    Nothing where PyTorch is not installed.
    """
    if not available():
        return
    clap = subject.in_dtype("float32")
    weights = {name: np.array(w.astype(mx.float32)) for name, w in clap.weights.items()}
    theirs, child = multiprocessing.Pipe()
    # spawn: a forked child would inherit this process's BLAS and threads.
    process = multiprocessing.get_context("spawn").Process(target=twin_process.serve, args=(child,), daemon=True)
    process.start()
    child.close()
    try:
        about = _ask(theirs, (clap.config, to_hf(weights), on_gpu()))
        for batch in (1, 8):
            log_mel = clap.log_mel(mx.array(sounds(clap.config, batch)))
            ours = partial(embed_audio, clap, log_mel)
            found = _alternated(ours, theirs, ("audio", np.array(log_mel)), plan.repeats)
            yield _row(f"audio tower, batch {batch}", "window", batch, *found, about)
        for batch in (1, TEXTS):
            ids = token_ids(clap.config, batch)
            found = _alternated(partial(embed_text, clap, ids), theirs, ("text", ids), plan.repeats)
            yield _row(f"text tower, batch {batch}", "text", batch, *found, about)
        theirs.send(None)
        process.join(30)
    finally:
        process.kill()


def _alternated(
    ours: Callable[[], mx.array], theirs: Connection, request: tuple[str, NDArray[Any]], repeats: int
) -> tuple[Times, Times, float]:
    """Times [n, 2] of MLX and of PyTorch, run in turn: on the clock, and of CPU over all threads; and how far apart
    their embeddings are."""
    mlx, torch = [], []
    for _ in range(_BURN_IN + repeats):
        time.sleep(_PAUSE_S)
        clock, cpu = time.perf_counter(), time.process_time()
        embeddings = ours()
        mlx.append((time.perf_counter() - clock, time.process_time() - cpu))
        time.sleep(_PAUSE_S)
        seconds, reference = _ask(theirs, request)
        torch.append(seconds)
    difference = float(np.abs(np.array(embeddings) - reference).max())
    return np.array(mlx[_BURN_IN:]), np.array(torch[_BURN_IN:]), difference


def _row(case: str, unit: str, batch: int, mlx: Times, torch: Times, difference: float, about: dict[str, Any]) -> Row:
    """PyTorch's figure with MLX's median and the ratios beside it."""
    ratio, cpu_ratio = (round(float(r), 3) for r in np.median(mlx / torch, axis=0))
    return row(
        "torch",
        case,
        torch[:, 0].tolist(),
        unit,
        batch,
        batch=batch,
        dtype="float32",
        mlx_median_ms=round(float(np.median(mlx[:, 0])) * 1e3 / batch, 4),
        ratio=ratio,
        # On a busy machine, with one thread each, this is the ratio to trust; on a GPU it means nothing.
        cpu_ratio=None if on_gpu() else cpu_ratio,
        largest_difference=float(f"{difference:.1e}"),
        **about,
    )


def _ask(theirs: Connection, request: object) -> Any:
    try:
        theirs.send(request)
        return theirs.recv()
    except (EOFError, BrokenPipeError) as error:
        raise EngineError(
            "the process that runs PyTorch ended early; its own message stands above, if it had any (when memory ran "
            "out it has none). `mlxclap bench --only NAME` leaves it out"
        ) from error
