"""PyTorch beside MLX: the same weights in transformers' ClapModel, the same input, runs alternated A B A B.

PyTorch is no dependency: without it (and transformers) there is nothing to compare. It runs in a process of its own,
because the OpenBLAS that MLX needs on Linux would take the place of PyTorch's own products in this one. On a Mac both
run on the GPU.
"""

import importlib.util
import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_clap.backend import mx, on_gpu, threads
from mlx_clap.clap import unit
from mlx_clap_convert.names import to_hf
from mlx_clap_engine.errors import EngineError

from . import twin_process
from .measure import Plan, Row, once, row
from .model import sounds, token_ids
from .subject import Subject

_BURN_IN = 2


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
        theirs.send((clap.config, to_hf(weights), on_gpu()))
        about = _receive(theirs)
        for batch in (1, 8):
            log_mel = clap.log_mel(mx.array(sounds(clap.config, batch)))
            given = np.array(log_mel)
            ours = lambda m=log_mel: unit(clap.audio_projection(clap.audio_tower(m)))  # noqa: E731
            yield _compared(f"audio tower, batch {batch}", batch, "window", ours, theirs, ("audio", given), plan, about)
        for batch in (1, 32):
            ids = token_ids(clap.config, batch)
            ours = lambda i=ids: unit(clap.text_projection(clap.text_tower(i)))  # noqa: E731
            yield _compared(f"text tower, batch {batch}", batch, "text", ours, theirs, ("text", ids), plan, about)
        theirs.send(None)
        process.join(30)
    finally:
        process.kill()


def _compared(
    case: str,
    batch: int,
    unit_name: str,
    ours: Callable[[], mx.array],
    theirs: Connection,
    request: tuple[str, NDArray[Any]],
    plan: Plan,
    about: dict[str, Any],
) -> Row:
    mlx_seconds, torch_seconds = [], []
    for i in range(_BURN_IN + plan.repeats):
        a = once(lambda: mx.eval(ours()))
        theirs.send(request)
        b, embeddings = _receive(theirs)
        if i >= _BURN_IN:
            mlx_seconds.append(a)
            torch_seconds.append(b)
    ratio = statistics.median(a / b for a, b in zip(mlx_seconds, torch_seconds, strict=True))
    return row(
        "torch",
        case,
        torch_seconds,
        unit_name,
        batch,
        batch=batch,
        dtype="float32",
        mlx_median_ms=round(statistics.median(mlx_seconds) * 1e3 / batch, 4),
        ratio=round(ratio, 3),
        largest_difference=float(f"{np.abs(np.array(ours()) - embeddings).max():.2g}"),
        mlx_threads=threads(),
        **about,
    )


def _receive(connection: Connection) -> Any:
    try:
        answer = connection.recv()
    except EOFError as error:
        raise EngineError(
            "the process that runs PyTorch ended early (its own message is above; out of memory, perhaps). "
            "`mlxclap bench` with --only leaves it out"
        ) from error
    return answer
