"""Attentional feature fusion (AFF): a long sound's overview and three of its crops -> one set of patch tokens.

Reference: Dai et al. 2021, "Attentional Feature Fusion"; ``ClapAudioAFFBlock`` and ``ClapAudioPatchEmbed`` in
transformers. With x the overview and r the crops: ``w = sigmoid(local(x + r) + global(mean(x + r)))``, ``2xw + 2r(1 -
w)``.
"""

from .backend import mx
from .config import AudioConfig
from .layers import Linear, Weights, batch_norm_affine


class _Gate:
    """Two pointwise convolutions with BatchNorm, each folded into one linear layer. Float32 throughout."""

    def __init__(self, weights: Weights, name: str) -> None:
        self.fc1, self.fc2 = (self._folded(weights, f"{name}.fc{i}", f"{name}.norm{i}") for i in (1, 2))

    @staticmethod
    def _folded(weights: Weights, fc: str, norm: str) -> Linear:
        scale, shift = batch_norm_affine(weights, norm)
        weight = weights[f"{fc}.weight"].astype(mx.float32)
        return Linear(weight * scale[:, None], weights[f"{fc}.bias"] * scale + shift)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(mx.maximum(self.fc1(x), 0.0))


class Fusion:
    """Callable: overview tokens [B, T, D] and crop images [B, 3, S, S] -> fused tokens [B, T, D] (raster order)."""

    def __init__(self, weights: Weights, config: AudioConfig) -> None:
        self.config = config
        self.crop_weight = weights["audio.fusion.crop_proj.weight"].astype(mx.float32)  # [D, p, 3p, 1]
        self.crop_bias = weights["audio.fusion.crop_proj.bias"]
        self.local_gate = _Gate(weights, "audio.fusion.local")
        self.global_gate = _Gate(weights, "audio.fusion.global")

    def crop_tokens(self, crops: mx.array) -> mx.array:
        """Crop images [B, 3, S, S] -> tokens [B, grid * grid, D]: the crops side by side, zeros in the rest of each
        row.
        """
        patch, grid, width = self.config.patch_size, self.config.grid, self.config.width
        batch, n, side, _ = crops.shape
        x = mx.conv2d(crops.reshape(batch * n, side, side, 1), self.crop_weight, stride=(patch, 3 * patch))
        x = x + self.crop_bias  # [B * 3, grid, grid // 3, D]
        x = x.reshape(batch, n, grid, -1, width).transpose(0, 2, 1, 3, 4).reshape(batch, grid, -1, width)
        x = mx.pad(x, [(0, 0), (0, 0), (0, grid - x.shape[2]), (0, 0)])
        return x.reshape(batch, grid * grid, width)

    def __call__(self, tokens: mx.array, crops: mx.array) -> mx.array:
        local = self.crop_tokens(crops)
        total = tokens + local
        gate = mx.sigmoid(self.local_gate(total) + self.global_gate(total.mean(axis=1, keepdims=True)))
        return 2.0 * (tokens * gate + local * (1.0 - gate))
