"""The one room that imports MLX, so that what must happen before that import happens everywhere.

The Linux CPU wheel of MLX links the reference BLAS (about 4 GFLOP/s). An OpenBLAS loaded with global symbols
before ``mlx.core`` takes its place (about 150 GFLOP/s on the same core). On macOS nothing is loaded.
"""

import ctypes
import os
import sys

_OPENBLAS_NAMES = ("libopenblas.so.0", "libopenblas.so")


def _load_openblas() -> str | None:
    """Load the system's OpenBLAS with global symbols; its file name, or None when there is none to load."""
    if sys.platform != "linux" or "mlx.core" in sys.modules:
        return None
    for name in _OPENBLAS_NAMES:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return name
    return None


#: The OpenBLAS put in front of MLX's own BLAS on Linux; None on macOS or when the system has none.
BLAS = _load_openblas()

import mlx.core as mx  # noqa: E402

#: What to type on a Linux machine where BLAS is None.
BLAS_REMEDY = "apt-get install libopenblas0-pthread   (or your distribution's OpenBLAS)"


def on_gpu() -> bool:
    """Whether MLX's default device is a GPU."""
    return mx.default_device().type == mx.DeviceType.gpu


def device_name() -> str:
    """The default device as people know it, e.g. ``Apple M2 Max (GPU)`` or ``CPU, OpenBLAS``."""
    if on_gpu():
        return f"{mx.device_info().get('device_name', 'unknown')} (GPU)"
    return f"CPU, {'OpenBLAS' if BLAS else 'built-in BLAS'}" if sys.platform == "linux" else "CPU"


def compute_dtype(storage: mx.Dtype) -> mx.Dtype:
    """The dtype to calculate in: the stored one on a GPU, float32 on a CPU (half precision is 20x slower there)."""
    return storage if on_gpu() else mx.float32


def limit_cache(n_bytes: int = 1 << 30) -> None:
    """Keep MLX's pool of freed buffers from growing without bound in long runs."""
    mx.set_cache_limit(n_bytes)


def threads() -> int:
    """How many threads the CPU's matrix products may use."""
    return int(os.environ.get("OPENBLAS_NUM_THREADS", 0)) or os.cpu_count() or 1


__all__ = ["BLAS", "BLAS_REMEDY", "compute_dtype", "device_name", "limit_cache", "mx", "on_gpu", "threads"]
