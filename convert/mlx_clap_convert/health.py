"""Is a converted model worth installing? A look at its embeddings, before anything is installed.

A checkpoint can be complete and well-formed and still be useless: the published ``laion/larger_clap_music`` puts
unrelated texts at a similarity near 0.999, because its text projection was never trained.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlx_clap.clap import Clap
from mlx_clap.seeded import uniform

#: Mean pairwise similarity of unrelated texts above which a model is refused. A good one lies near 0.1 to 0.4.
TEXTS_COLLAPSE = 0.8
#: The same for synthetic sounds; only warned of.
SOUNDS_COLLAPSE = 0.9
_PLAUSIBLE_LOGIT_SCALE = (1.0, 200.0)

TEXTS = (
    "a dog barking",
    "solo classical piano",
    "heavy rain on a tin roof",
    "a man speaking in German",
    "upbeat electronic dance music with synthesizers",
    "a car engine starting",
    "glass shattering on the floor",
    "a church choir singing",
    "keyboard typing",
    "an orchestra tuning up",
    "a baby crying",
    "distorted electric guitar",
)


@dataclass(frozen=True)
class Health:
    """What the look found. `problem` is a reason to refuse the model, `warnings` are not."""

    text_similarity: float
    sound_similarity: float
    logit_scale: float
    problem: str | None
    warnings: list[str]


def examine(clap: Clap) -> Health:
    """Embed fixed unrelated texts and synthetic sounds and see whether they are told apart."""
    texts = mean_similarity(clap.embed_text(list(TEXTS)))
    sounds = mean_similarity(clap.embed_audio(_sounds(clap.config.mel.window_samples, clap.config.mel.sample_rate)))
    warnings = []
    if not np.any(np.array(clap.weights["text.projection.fc1.bias"], dtype=np.float32)):
        warnings.append("the text projection's bias is all zero, as in a model that was never trained")
    if sounds > SOUNDS_COLLAPSE:
        warnings.append(f"unlike synthetic sounds have a mean similarity of {sounds:.2f}: it hardly tells sounds apart")
    low, high = _PLAUSIBLE_LOGIT_SCALE
    if not low <= clap.logit_scale <= high:
        warnings.append(f"its logit scale is {clap.logit_scale:.3g}; trained models lie between {low:g} and {high:g}")
    problem = None
    if not texts <= TEXTS_COLLAPSE:  # a NaN is a problem too
        problem = (
            f"unrelated texts have a mean similarity of {texts:.3f} (above {TEXTS_COLLAPSE}): the model cannot tell "
            "texts apart, so no search by words would work"
        )
    return Health(texts, sounds, clap.logit_scale, problem, warnings)


def mean_similarity(embeddings: NDArray[np.float32]) -> float:
    """Mean cosine similarity over all pairs of different rows [B, D]."""
    similarity = embeddings @ embeddings.T
    return float(similarity[~np.eye(len(embeddings), dtype=bool)].mean())


def _sounds(samples: int, rate: int) -> NDArray[np.float32]:
    """A tone, noise, clicks and a rising sweep: float32 [4, samples]."""
    time = np.arange(samples) / rate
    tone = 0.3 * np.sin(2 * np.pi * 440.0 * time)
    noise = 0.2 * uniform("health/noise", samples)
    clicks = np.where(np.arange(samples) % (rate // 4) < 40, 0.8, 0.0)
    sweep = 0.3 * np.sin(2 * np.pi * (100.0 * time + 200.0 * time**2))
    return np.stack([tone, noise, clicks, sweep]).astype(np.float32)
