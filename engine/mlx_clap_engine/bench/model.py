"""The model alone: front end, audio tower by batch and dtype, text tower. Random input; no file and no table."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mlx_clap.backend import mx, on_gpu
from mlx_clap.clap import Clap, unit
from mlx_clap.config import ClapConfig
from mlx_clap.seeded import seeded_ids, seeded_sound

from .measure import Plan, Row, once, row, timed
from .subject import Subject

#: A short query, and the number of prompts of a middling label set.
TOKENS, TEXTS = 16, 32


def batches() -> tuple[int, ...]:
    """Batch sizes worth knowing on this device."""
    return (1, 4, 8, 16, 32, 64) if on_gpu() else (1, 4, 8)


def sounds(config: ClapConfig, n: int) -> NDArray[np.float32]:
    """float32 [n, window_samples]; a few different sounds, repeated."""
    different = np.stack([seeded_sound(seed, config.mel.window_samples) for seed in range(min(n, 4))])
    return np.resize(different, (n, config.mel.window_samples))


def token_ids(config: ClapConfig, n: int) -> NDArray[np.int32]:
    """int32 [n, TOKENS], no padding."""
    text = seeded_ids(config)[2, :TOKENS].copy()
    text[-1] = 2  # the end token
    return np.tile(text, (n, 1))


def front_end(subject: Subject, plan: Plan) -> Iterator[Row]:
    """Sound to log-mel."""
    clap = subject.clap
    for batch in (1, 4):
        waveforms = mx.array(sounds(clap.config, batch))
        seconds = timed(plan.repeats, _log_mel, clap, waveforms)
        yield row("front-end", f"batch {batch}", seconds, "window", batch, batch=batch, dtype="float32")


def audio(subject: Subject, plan: Plan) -> Iterator[Row]:
    """Log-mel to embedding by batch and dtype; then the whole way from samples in numpy to embeddings in numpy."""
    for dtype in subject.dtypes:
        clap = subject.in_dtype(dtype)
        one = _log_mel(clap, mx.array(sounds(clap.config, 1)))
        seconds = [once(embed_audio, clap, one)]
        yield row("audio", "tower, first window", seconds, "window", state="cold", batch=1, dtype=dtype)
        for batch in batches():
            log_mel = _log_mel(clap, mx.array(sounds(clap.config, batch)))
            mx.reset_peak_memory()
            seconds = timed(plan.repeats, embed_audio, clap, log_mel)
            peak = round(mx.get_peak_memory() / 1e6)
            case = f"tower, batch {batch}"
            yield row("audio", case, seconds, "window", batch, batch=batch, dtype=dtype, peak_mb=peak)
            mx.clear_cache()
        waveforms = sounds(clap.config, max(4, clap.batch_size))
        seconds = timed(plan.repeats, clap.embed_audio, waveforms)
        n = len(waveforms)
        yield row("audio", "sound to embedding", seconds, "window", n, batch=clap.batch_size, dtype=dtype)


def text(subject: Subject, plan: Plan) -> Iterator[Row]:
    """Token ids to embedding, for one query and for many texts at once."""
    for dtype in subject.dtypes:
        clap = subject.in_dtype(dtype)
        query, prompts = token_ids(clap.config, 1), token_ids(clap.config, TEXTS)
        seconds = [once(embed_text, clap, query)]
        yield row("text", f"first query of {TOKENS} tokens", seconds, "text", state="cold", batch=1, dtype=dtype)
        seconds = timed(plan.repeats, embed_text, clap, query)
        yield row("text", f"a query of {TOKENS} tokens", seconds, "text", batch=1, dtype=dtype)
        seconds = timed(plan.repeats, embed_text, clap, prompts)
        yield row("text", f"{TEXTS} texts of {TOKENS} tokens", seconds, "text", TEXTS, batch=TEXTS, dtype=dtype)


def embed_audio(clap: Clap, log_mel: mx.array) -> mx.array:
    """Log-mel [B, T, M] -> embeddings [B, D], evaluated."""
    embeddings = unit(clap.audio_projection(clap.audio_tower(log_mel)))
    mx.eval(embeddings)
    return embeddings


def embed_text(clap: Clap, ids: NDArray[np.int32]) -> mx.array:
    """Token ids [B, T] -> embeddings [B, D], evaluated."""
    embeddings = unit(clap.text_projection(clap.text_tower(ids)))
    mx.eval(embeddings)
    return embeddings


def _log_mel(clap: Clap, waveforms: mx.array) -> mx.array:
    log_mel = clap.log_mel(waveforms)
    mx.eval(log_mel)
    return log_mel
