"""The names and shapes of a model's weights: what ``weights.safetensors`` holds, no more and no less.

Linear weights are ``[out, in]``, convolution weights ``[out, height, width, in]`` (MLX's order), query, key and value
are stacked in that order into one ``qkv``. `matrix_names` are those that may be stored in half precision: norms,
biases, relative-position biases and BatchNorm statistics always stay float32 (variances of a log-mel need the range).
"""

from .config import AudioConfig, ClapConfig, TextConfig

Shapes = dict[str, tuple[int, ...]]


def weight_shapes(config: ClapConfig) -> Shapes:
    """Name -> shape of every weight of a model of this configuration."""
    dim = config.embedding_dim
    shapes = _audio(config.audio, config.mel.n_mels) | _text(config.text)
    for tower, width in (("audio", config.audio.widths[-1]), ("text", config.text.width)):
        shapes |= _linear(f"{tower}.projection.fc1", dim, width) | _linear(f"{tower}.projection.fc2", dim, dim)
        shapes[f"{tower}.logit_scale"] = ()
    return shapes


def matrix_names(shapes: Shapes) -> set[str]:
    """The weights whose storage dtype a user may choose: large matrices that products run over."""
    return {
        name for name, shape in shapes.items() if len(shape) >= 2 and not name.endswith(("bias_table", "token_types"))
    }


def _linear(name: str, out: int, into: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _batch_norm(name: str, width: int) -> Shapes:
    return _norm(name, width) | {f"{name}.mean": (width,), f"{name}.var": (width,)}


def _conv(name: str, out: int, height: int, width: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, height, width, into), f"{name}.bias": (out,)}


def _audio(c: AudioConfig, n_mels: int) -> Shapes:
    shapes = _batch_norm("audio.batch_norm", n_mels)
    shapes |= _conv("audio.patch_embed.proj", c.width, c.patch_size, c.patch_size, 1)
    shapes |= _norm("audio.patch_embed.norm", c.width)
    if c.fusion:
        inner = c.width // c.fusion_reduction
        shapes |= _conv("audio.fusion.crop_proj", c.width, c.patch_size, 3 * c.patch_size, 1)
        for branch in ("audio.fusion.local", "audio.fusion.global"):
            shapes |= _linear(f"{branch}.fc1", inner, c.width) | _batch_norm(f"{branch}.norm1", inner)
            shapes |= _linear(f"{branch}.fc2", c.width, inner) | _batch_norm(f"{branch}.norm2", c.width)
    offsets = (2 * c.attention_window - 1) ** 2
    for i, (depth, heads, width) in enumerate(zip(c.depths, c.heads, c.widths, strict=True)):
        hidden = int(c.mlp_ratio * width)
        for j in range(depth):
            block = f"audio.stages.{i}.blocks.{j}"
            shapes |= _norm(f"{block}.norm1", width) | _norm(f"{block}.norm2", width)
            shapes |= _linear(f"{block}.attention.qkv", 3 * width, width) | _linear(
                f"{block}.attention.out", width, width
            )
            shapes[f"{block}.attention.bias_table"] = (offsets, heads)
            shapes |= _linear(f"{block}.fc1", hidden, width) | _linear(f"{block}.fc2", width, hidden)
        if i + 1 < len(c.depths):
            shapes |= _norm(f"audio.stages.{i}.merge.norm", 4 * width)
            shapes |= _linear(f"audio.stages.{i}.merge.reduction", 2 * width, 4 * width, bias=False)
    return shapes | _norm("audio.norm", c.widths[-1])


def _text(c: TextConfig) -> Shapes:
    shapes: Shapes = {
        "text.embeddings.tokens": (c.vocab_size, c.width),
        "text.embeddings.positions": (c.positions, c.width),
        "text.embeddings.token_types": (c.token_types, c.width),
        **_norm("text.embeddings.norm", c.width),
    }
    for j in range(c.depth):
        layer = f"text.layers.{j}"
        shapes |= _linear(f"{layer}.attention.qkv", 3 * c.width, c.width)
        shapes |= _linear(f"{layer}.attention.out", c.width, c.width) | _norm(f"{layer}.norm1", c.width)
        shapes |= _linear(f"{layer}.fc1", c.hidden, c.width) | _linear(f"{layer}.fc2", c.width, c.hidden)
        shapes |= _norm(f"{layer}.norm2", c.width)
    return shapes | _linear("text.pooler", c.width, c.width)
