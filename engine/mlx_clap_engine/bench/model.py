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
        seconds = timed(lambda given=waveforms: mx.eval(clap.log_mel(given)), plan.repeats)  # type: ignore[misc]
        yield row("front-end", f"batch {batch}", seconds, "window", batch, batch=batch, dtype="float32")


def audio(subject: Subject, plan: Plan) -> Iterator[Row]:
    """Log-mel to embedding by batch and dtype; then the whole way from samples in numpy to embeddings in numpy."""
    for dtype in subject.dtypes:
        clap = subject.in_dtype(dtype)
        first = mx.array(clap.log_mel(mx.array(sounds(clap.config, 1))))
        mx.eval(first)
        seconds = [once(lambda: mx.eval(_embed_audio(clap, first)))]
        yield row("audio", "tower, first window", seconds, "window", state="cold", batch=1, dtype=dtype)
        for batch in batches():
            log_mel = clap.log_mel(mx.array(sounds(clap.config, batch)))
            mx.eval(log_mel)
            mx.reset_peak_memory()
            seconds = timed(lambda given=log_mel: mx.eval(_embed_audio(clap, given)), plan.repeats)  # type: ignore[misc]
            peak = round(mx.get_peak_memory() / 1e6)
            case = f"tower, batch {batch}"
            yield row("audio", case, seconds, "window", batch, batch=batch, dtype=dtype, peak_mb=peak)
            mx.clear_cache()
        waveforms = sounds(clap.config, max(8, clap.batch_size))
        seconds = timed(lambda: clap.embed_audio(waveforms), max(2, plan.repeats // 3), burn_in=1)
        yield row("audio", "sound to embedding", seconds, "window", len(waveforms), batch=clap.batch_size, dtype=dtype)


def text(subject: Subject, plan: Plan) -> Iterator[Row]:
    """Token ids to embedding, for one query and for many texts at once."""
    for dtype in subject.dtypes:
        clap = subject.in_dtype(dtype)
        query, prompts = token_ids(clap.config, 1), token_ids(clap.config, TEXTS)
        seconds = [once(lambda: mx.eval(_embed_text(clap, query)))]
        yield row("text", f"first query of {TOKENS} tokens", seconds, "text", state="cold", batch=1, dtype=dtype)
        seconds = timed(lambda: mx.eval(_embed_text(clap, query)), plan.repeats)
        yield row("text", f"a query of {TOKENS} tokens", seconds, "text", batch=1, dtype=dtype)
        seconds = timed(lambda: mx.eval(_embed_text(clap, prompts)), plan.repeats)
        yield row("text", f"{TEXTS} texts of {TOKENS} tokens", seconds, "text", TEXTS, batch=TEXTS, dtype=dtype)


def _embed_audio(clap: Clap, log_mel: mx.array) -> mx.array:
    return unit(clap.audio_projection(clap.audio_tower(log_mel)))


def _embed_text(clap: Clap, ids: NDArray[np.int32]) -> mx.array:
    return unit(clap.text_projection(clap.text_tower(ids)))
