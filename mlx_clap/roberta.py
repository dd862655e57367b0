"""RoBERTa text tower: token ids -> pooled vector.

Reference: Liu et al. 2019, "RoBERTa"; ``ClapTextModel`` in transformers. Post-norm layers, exact GELU; the first token
is pooled through a dense layer and tanh. Dims in comments: B batch, T tokens, D width, H heads.
"""

import numpy as np
from numpy.typing import NDArray

from .backend import mx
from .config import TextConfig
from .errors import InputError
from .layers import Linear, Norm, Tap, Weights, gelu, linear, query_scale


class Layer:
    """Self-attention and MLP, each added to its input and then normalised."""

    def __init__(self, weights: Weights, name: str, config: TextConfig, dtype: mx.Dtype) -> None:
        self.heads = config.heads
        scale = query_scale(config.width, config.heads)
        qkv = weights[f"{name}.attention.qkv.weight"].astype(mx.float32) * scale[:, None]
        self.qkv = Linear(qkv, weights[f"{name}.attention.qkv.bias"] * scale, dtype)
        self.out, self.fc1, self.fc2 = (linear(weights, f"{name}.{k}", dtype) for k in ("attention.out", "fc1", "fc2"))
        self.norm1, self.norm2 = (Norm(weights, f"{name}.norm{i}", config.layer_norm_eps, dtype) for i in (1, 2))

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        batch, n, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, n, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)  # each [B, H, T, D / H]
        context = mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0, mask=mask)
        x = self.norm1(x + self.out(context.swapaxes(1, 2).reshape(batch, n, width)))
        return self.norm2(x + self.fc2(gelu(self.fc1(x))))


class TextTower:
    """Token ids int32 [B, T], padded with `pad_id` -> pooled [B, D]. Padding changes nothing: it is masked."""

    def __init__(self, weights: Weights, config: TextConfig, dtype: mx.Dtype) -> None:
        self.config, self.dtype = config, dtype
        self.tokens, self.positions = (weights[f"text.embeddings.{k}"] for k in ("tokens", "positions"))
        # Every token is of type 0.
        self.token_type = weights["text.embeddings.token_types"][0].astype(mx.float32)
        self.norm = Norm(weights, "text.embeddings.norm", config.layer_norm_eps, dtype)
        self.layers = [Layer(weights, f"text.layers.{j}", config, dtype) for j in range(config.depth)]
        self.pooler = linear(weights, "text.pooler", dtype)

    def __call__(self, ids: NDArray[np.int32], tap: Tap | None = None) -> mx.array:
        """Pooled text features [B, D].

        Args:
            tap: receives ``embeddings``, ``layers.j`` and ``pooled``.

        Raises:
            InputError: a text of more than `max_tokens` tokens or an id outside the vocabulary. MLX would gather
                whatever lies there.
        """
        config = self.config
        if ids.min() < 0 or ids.max() >= config.vocab_size:
            raise InputError(f"token ids must lie in 0 to {config.vocab_size - 1}, got {ids.min()} to {ids.max()}")
        real = ids != config.pad_id
        if real.sum(axis=1).max() > config.max_tokens:
            raise InputError(f"a text may have {config.max_tokens} tokens, got {real.sum(axis=1).max()}")
        positions = np.cumsum(real, axis=1) * real + config.pad_id
        x = mx.take(self.tokens, mx.array(ids), axis=0).astype(mx.float32)
        x = (
            x
            + mx.take(self.positions, mx.array(positions.astype(np.int32)), axis=0).astype(mx.float32)
            + self.token_type
        )
        x = self.norm(x.astype(self.dtype))
        if tap:
            tap("embeddings", x)
        # Large enough to vanish in the softmax, small enough for float16.
        mask = mx.array(np.where(real, 0.0, -3e4).astype(np.float32)).astype(self.dtype)[:, None, None, :]
        for j, layer in enumerate(self.layers):
            x = layer(x, mask)
            if tap:
                tap(f"layers.{j}", x)
        pooled = mx.tanh(self.pooler(x[:, 0]))
        if tap:
            tap("pooled", pooled)
        return pooled
