"""The whole model: sound and text -> unit vectors that may be compared by dot product."""

import math
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .backend import compute_dtype, mx, on_gpu
from .config import ClapConfig
from .errors import InputError
from .htsat import AudioTower
from .layers import Projection, Weights
from .load import read_model
from .mel import LogMel
from .roberta import TextTower
from .tokenizer import Tokenizer

Embeddings = NDArray[np.float32]


class Clap:
    """A CLAP model. Use `Clap.load`; all calls must come from one thread (MLX streams are thread-local).

    Towers are folded at first use, so that a text query never pays for the audio tower.

    Attributes:
        space: identity of the embedding space; only embeddings of equal `space` may be compared.
        batch_size: windows (or texts) the device gets at once. A CPU is fastest one by one (cache), a GPU in batches.
        dtype: what the towers calculate in: the stored dtype on a GPU, float32 on a CPU.
    """

    def __init__(
        self,
        config: ClapConfig,
        weights: Weights,
        tokenizer: Tokenizer | None = None,
        space: str = "",
        name: str = "",
    ) -> None:
        self.config, self.weights, self.tokenizer, self.space, self.name = (
            config,
            weights,
            tokenizer,
            space,
            name,
        )
        self.batch_size = 32 if on_gpu() else 1
        self.dtype = compute_dtype(weights["audio.projection.fc1.weight"].dtype)

    @classmethod
    def load(cls, folder: str | Path) -> "Clap":
        """Read a model folder strictly.

        Raises:
            ModelNotFoundError: `folder` is not there or holds no model.
            ModelFormatError: missing, unknown or misshapen weights, or unknown config keys; all are named.
        """
        path = Path(folder)
        model = read_model(path)
        return cls(model.config, model.weights, model.tokenizer, model.space, path.name)

    @property
    def embedding_dim(self) -> int:
        return self.config.embedding_dim

    @cached_property
    def log_mel(self) -> LogMel:
        """Front end: float32 [B, N] -> log-mel [B, T, M]."""
        return LogMel(self.config.mel)

    @cached_property
    def audio_tower(self) -> AudioTower:
        return AudioTower(self.weights, self.config, self.dtype)

    @cached_property
    def text_tower(self) -> TextTower:
        return TextTower(self.weights, self.config.text, self.dtype)

    @cached_property
    def audio_projection(self) -> Projection:
        return Projection(self.weights, "audio.projection", self.dtype)

    @cached_property
    def text_projection(self) -> Projection:
        return Projection(self.weights, "text.projection", self.dtype)

    @property
    def logit_scale(self) -> float:
        """Factor that turns text-audio similarity into logits (the checkpoint stores its logarithm)."""
        # float32 ends near exp(88); a checkpoint may say anything.
        return math.exp(min(np.array(self.weights["text.logit_scale"]).item(), 88.0))

    def embed_audio(self, waveforms: NDArray[np.float32]) -> Embeddings:
        """Embed windows of sound.

        Args:
            waveforms: float32 [B, window_samples], mono, 48 kHz, full scale = 1.0. Use `mlx_clap.audio` to cut windows.

        Returns:
            float32 [B, D], each row of unit length.

        Raises:
            InputError: wrong shape or dtype, or a value that is not finite.
        """
        samples = self.config.mel.window_samples
        if waveforms.ndim != 2 or waveforms.shape[1] != samples or waveforms.dtype != np.float32:
            raise InputError(
                f"expected float32 waveforms of shape [B, {samples}], got {waveforms.dtype} {list(waveforms.shape)}"
            )
        if not np.isfinite(waveforms).all():
            raise InputError("a waveform holds values that are not finite")
        out = np.empty((len(waveforms), self.embedding_dim), np.float32)
        for start in range(0, len(waveforms), self.batch_size):
            batch = waveforms[start : start + self.batch_size]
            # One shape for every batch: a new shape costs more than the rows of padding.
            padded = np.pad(batch, ((0, self.batch_size - len(batch)), (0, 0)))
            log_mel = self.log_mel(mx.array(padded))
            embedded = unit(self.audio_projection(self.audio_tower(log_mel)))
            out[start : start + len(batch)] = np.array(embedded)[: len(batch)]
        return out

    def embed_text(self, texts: list[str]) -> Embeddings:
        """Embed texts: float32 [B, D], each row of unit length. Case matters to the tokenizer, as to the reference.

        Raises:
            InputError: no texts, or something that is not a string.
        """
        if self.tokenizer is None:
            raise InputError("this model was built without a tokenizer: load it from a model folder")
        out = np.empty((len(texts), self.embedding_dim), np.float32)
        for start in range(0, max(len(texts), 1), 32):
            ids = self.tokenizer(texts[start : start + 32])
            out[start : start + 32] = np.array(unit(self.text_projection(self.text_tower(ids))))
        return out


def unit(x: mx.array) -> mx.array:
    """Rows scaled to length one, in float32."""
    x = x.astype(mx.float32)
    return x / mx.linalg.norm(x, axis=-1, keepdims=True)
