"""HTSAT audio tower: log-mel -> pooled vector. A Swin transformer over the log-mel folded into a square image.

Reference: Chen et al. 2022, "HTS-AT: A Hierarchical Token-Semantic Audio Transformer"; ``ClapAudioEncoder`` in
transformers. Dims in comments: B batch, T frames, M mels, S image side, N tokens, D width, W windows, L tokens a
window.
"""

import numpy as np
from numpy.typing import NDArray

from .backend import mx
from .config import AudioConfig, ClapConfig
from .fusion import Fusion
from .grid import bicubic_matrix, merge_gather, relative_index, reorder, shift_mask, window_order
from .layers import (
    Linear,
    Norm,
    Tap,
    Weights,
    batch_norm_affine,
    folded_linear,
    gelu,
    linear,
    query_scale,
)


class WindowAttention:
    """Multi-head attention inside each window; `bias` [W or 1, heads, L, L] holds relative bias and shift mask."""

    def __init__(
        self, weights: Weights, block: str, heads: int, mask: NDArray[np.float32] | None, dtype: mx.Dtype
    ) -> None:
        name = f"{block}.attention"
        table = weights[f"{name}.bias_table"]
        width = weights[f"{name}.out.weight"].shape[0]
        self.heads = heads
        self.qkv = folded_linear(weights, f"{block}.norm1", f"{name}.qkv", dtype, query_scale(width, heads))
        self.out = linear(weights, f"{name}.out", dtype)
        window = (int(table.shape[0] ** 0.5) + 1) // 2
        bias = table[mx.array(relative_index(window))].transpose(2, 0, 1)[None]  # [1, heads, L, L]
        self.bias = (bias if mask is None else bias + mx.array(mask)[:, None]).astype(dtype)

    def __call__(self, x: mx.array, tokens: int) -> mx.array:
        batch, n, width = x.shape
        qkv = self.qkv(x).reshape(batch, n // tokens, tokens, 3, self.heads, -1)
        q, k, v = qkv.transpose(3, 0, 1, 4, 2, 5)  # each [B, W, heads, L, d]
        probabilities = mx.softmax(q @ k.swapaxes(-1, -2) + self.bias, axis=-1, precise=True)
        x = (probabilities @ v).swapaxes(2, 3).reshape(batch, n, width)
        return self.out(x)


class Block:
    """Swin block: window attention and MLP, each behind a layer norm and added to its input."""

    def __init__(
        self,
        weights: Weights,
        name: str,
        heads: int,
        eps: float,
        mask: NDArray[np.float32] | None,
        dtype: mx.Dtype,
    ) -> None:
        self.eps = eps
        self.attention = WindowAttention(weights, name, heads, mask, dtype)
        self.fc1 = folded_linear(weights, f"{name}.norm2", f"{name}.fc1", dtype)
        self.fc2 = linear(weights, f"{name}.fc2", dtype)

    def __call__(self, x: mx.array, tokens: int) -> mx.array:
        x = x + self.attention(mx.fast.layer_norm(x, None, None, self.eps), tokens)
        return x + self.fc2(gelu(self.fc1(mx.fast.layer_norm(x, None, None, self.eps))))


class Merge:
    """Patch merging: four neighbours side by side, layer norm, halved to twice the width. `gather` [4 * N / 4]."""

    def __init__(self, weights: Weights, name: str, gather: NDArray[np.int32], dtype: mx.Dtype) -> None:
        self.gather = mx.array(gather)
        self.reduction = folded_linear(weights, f"{name}.norm", f"{name}.reduction", dtype)

    def __call__(self, x: mx.array) -> mx.array:
        batch, n, width = x.shape
        x = mx.take(x, self.gather, axis=1).reshape(batch, n // 4, 4 * width)
        return self.reduction(mx.fast.layer_norm(x, None, None, 1e-5))


class Stage:
    """Blocks on one token grid, then the merge to the next (None after the last stage).

    `orders[j]` is the token order block j works in; `gathers[j]` brings tokens there (None: already there).
    """

    def __init__(self, weights: Weights, config: AudioConfig, index: int, dtype: mx.Dtype) -> None:
        grid, window = config.grids[index], config.attention_window
        name, heads = f"audio.stages.{index}", config.heads[index]
        # A grid of one window has no neighbours to shift towards.
        shift = window // 2 if grid > window else 0
        self.tokens = window * window
        self.orders = [window_order(grid, window, shift * (j % 2)) for j in range(config.depths[index])]
        mask = shift_mask(grid, window, shift) if shift else None
        self.blocks = [
            Block(weights, f"{name}.blocks.{j}", heads, config.layer_norm_eps, mask if j % 2 else None, dtype)
            for j in range(config.depths[index])
        ]
        gathers = [reorder(a, b) if shift else None for a, b in zip(self.orders, self.orders[1:], strict=False)]
        self.gathers = [None, *(None if g is None else mx.array(g) for g in gathers)]
        self.merge: Merge | None = None
        if index + 1 < len(config.depths):
            target = window_order(grid // 2, window)
            self.merge = Merge(weights, f"{name}.merge", merge_gather(self.orders[-1], grid, target), dtype)


class AudioTower:
    """Log-mel float32 [B, T, M] -> pooled [B, widths[-1]]. With fusion, log-mel may be [B, 4, T, M]: overview, then
    crops.

    BatchNorm, the resize to the image and the patch embedding run in float32; the rest in `dtype`.
    """

    def __init__(self, weights: Weights, config: ClapConfig, dtype: mx.Dtype) -> None:
        self.config, self.dtype = config.audio, dtype
        audio, mel = config.audio, config.mel
        self.scale, self.shift = batch_norm_affine(weights, "audio.batch_norm")
        self.fold = audio.image_size // mel.n_mels
        self.resize = mx.array(bicubic_matrix(mel.frames, audio.image_size * self.fold))
        patch_weight = weights["audio.patch_embed.proj.weight"].astype(mx.float32)
        self.patch = Linear(patch_weight.reshape(audio.width, -1), weights["audio.patch_embed.proj.bias"])
        self.patch_norm = Norm(weights, "audio.patch_embed.norm", 1e-5, mx.float32)
        self.stages = [Stage(weights, audio, i, dtype) for i in range(len(audio.depths))]
        self.norm = Norm(weights, "audio.norm", 1e-5, dtype)
        self.fusion = Fusion(weights, audio) if audio.fusion else None

    def image(self, log_mel: mx.array) -> mx.array:
        """Log-mel [..., T, M] -> image [..., S, S]: normalised, resized in time, chunks of S frames stacked in
        frequency.
        """
        x = self.resize @ (log_mel * self.scale + self.shift)  # [..., fold * S, M]
        *lead, _, mels = x.shape
        side = self.config.image_size
        x = x.reshape(*lead, self.fold, side, mels).swapaxes(-1, -2)
        return x.reshape(*lead, self.fold * mels, side)

    def patches(self, image: mx.array) -> mx.array:
        """Image [B, S, S] -> patch tokens [B, N, D] in raster order, before their layer norm."""
        patch, grid = self.config.patch_size, self.config.grid
        x = image.reshape(-1, grid, patch, grid, patch).transpose(0, 1, 3, 2, 4)
        return self.patch(x.reshape(-1, grid * grid, patch * patch))

    def __call__(self, log_mel: mx.array, longer: NDArray[np.bool_] | None = None, tap: Tap | None = None) -> mx.array:
        """Pooled audio features [B, widths[-1]].

        Args:
            log_mel: [B, T, M], or [B, 4, T, M] where rows flagged in `longer` [B] are fused with their crops.
            tap: receives ``image``, ``patches``, ``stages.i.blocks.j``, ``stages.i.merge`` and ``pooled``.
        """
        images = self.image(log_mel if log_mel.ndim == 4 else log_mel[:, None])
        x = self.patches(images[:, 0])
        if self.fusion is not None and longer is not None and longer.any():
            rows = mx.array(np.flatnonzero(longer))
            x[rows] = self.fusion(x[rows], images[rows, 1:])
        x = self.patch_norm(x)
        if tap:
            tap("image", images[:, 0])
            tap("patches", x)
        x = mx.take(x.astype(self.dtype), mx.array(self.stages[0].orders[0]), axis=1)
        for i, stage in enumerate(self.stages):
            for j, (block, gather) in enumerate(zip(stage.blocks, stage.gathers, strict=True)):
                x = block(x if gather is None else mx.take(x, gather, axis=1), stage.tokens)
                if tap:
                    tap(f"stages.{i}.blocks.{j}", _raster(x, stage.orders[j]))
            if stage.merge is not None:
                x = stage.merge(x)
                if tap:
                    tap(f"stages.{i}.merge", _raster(x, self.stages[i + 1].orders[0]))
        pooled = self.norm(x).mean(axis=1)
        if tap:
            tap("pooled", pooled)
        return pooled


def _raster(x: mx.array, order: NDArray[np.int32]) -> mx.array:
    return mx.take(x, mx.array(np.argsort(order).astype(np.int32)), axis=1)
