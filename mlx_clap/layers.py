"""The few building blocks both towers share, over plain arrays that were folded once at load.

A tower keeps no parameters to train, so what does not depend on the input is computed at load, in float32: a layer
norm's affine part goes into the linear layer behind it, an attention's scale into its query. These foldings are exact
in real arithmetic and move float32 results by about 1e-7.
"""

from collections.abc import Callable, Mapping

from .backend import mx

Weights = Mapping[str, mx.array]
#: Receives ``(stage name, array)`` for each stage of a tower, in the reference's layout; for checks, never in
#: production.
Tap = Callable[[str, mx.array], None]


class Linear:
    """``x @ weight.T + bias``; weight [out, in], bias [out] or None."""

    def __init__(self, weight: mx.array, bias: mx.array | None, dtype: mx.Dtype = mx.float32) -> None:
        self.weight = mx.contiguous(weight.astype(dtype))
        self.bias = None if bias is None else bias.astype(dtype)

    def __call__(self, x: mx.array) -> mx.array:
        if self.bias is None:
            return x @ self.weight.T
        return mx.addmm(self.bias, x, self.weight.T)


class Norm:
    """Layer norm over the last axis with its affine part."""

    def __init__(self, weights: Weights, name: str, eps: float, dtype: mx.Dtype) -> None:
        self.eps = eps
        self.weight, self.bias = (weights[f"{name}.{k}"].astype(dtype) for k in ("weight", "bias"))

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.layer_norm(x, self.weight, self.bias, self.eps)


def linear(weights: Weights, name: str, dtype: mx.Dtype) -> Linear:
    """The linear layer `name` as it is stored."""
    return Linear(weights[f"{name}.weight"].astype(mx.float32), weights[f"{name}.bias"], dtype)


def folded_linear(weights: Weights, norm: str, name: str, dtype: mx.Dtype, scale: mx.array | None = None) -> Linear:
    """Linear layer `name` with the affine part of the layer norm `norm` before it folded in; `scale` [out] multiplies
    rows.
    """
    weight = weights[f"{name}.weight"].astype(mx.float32)
    bias = weight @ weights[f"{norm}.bias"]
    if f"{name}.bias" in weights:
        bias = bias + weights[f"{name}.bias"]
    weight = weight * weights[f"{norm}.weight"]
    if scale is not None:
        weight, bias = weight * scale[:, None], bias * scale
    return Linear(weight, bias, dtype)


def query_scale(width: int, heads: int) -> mx.array:
    """Row factors of a stacked qkv [3 * width] that put attention's ``1 / sqrt(head size)`` into the query."""
    ones = mx.ones(2 * width)
    return mx.concatenate([mx.full((width,), (width // heads) ** -0.5), ones])


def batch_norm_affine(weights: Weights, name: str, eps: float = 1e-5) -> tuple[mx.array, mx.array]:
    """A BatchNorm in evaluation mode as ``x * scale + shift`` (both float32)."""
    scale = weights[f"{name}.weight"] * mx.rsqrt(weights[f"{name}.var"] + eps)
    return scale, weights[f"{name}.bias"] - weights[f"{name}.mean"] * scale


class Projection:
    """Pooled output -> embedding space, un-normalised: linear, ReLU, linear."""

    def __init__(self, weights: Weights, name: str, dtype: mx.Dtype) -> None:
        self.fc1, self.fc2 = (linear(weights, f"{name}.{k}", dtype) for k in ("fc1", "fc2"))

    def __call__(self, pooled: mx.array) -> mx.array:
        return self.fc2(mx.maximum(self.fc1(pooled), 0.0))


def gelu(x: mx.array) -> mx.array:
    """The exact (erf) GELU both towers use, one fused kernel; the tanh approximation is 2.8e-5 off."""
    return _fused_gelu(x)


_fused_gelu: Callable[[mx.array], mx.array] = mx.compile(
    lambda x: x * (1.0 + mx.erf(x * (2.0**-0.5))) * 0.5, shapeless=True
)
