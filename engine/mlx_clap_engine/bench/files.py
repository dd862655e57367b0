"""What touches files: decoding by format, and a real ingest stage by stage. All in a temporary folder."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_clap.backend import on_gpu
from mlx_clap_engine.decode import open_audio
from mlx_clap_engine.encode import FORMATS, can_encode, stereo_sound, write_sound
from mlx_clap_engine.ingest import Ingest, Summary
from mlx_clap_engine.store.library import Store

from .measure import Plan, Row, row, timed
from .model import sounds
from .subject import Subject

#: A GPU is through with `Plan.files` before anything has warmed up.
_MORE_FOR_A_GPU = 4


def decode(_: Subject, plan: Plan) -> Iterator[Row]:
    """File to 48 kHz mono, in one thread; the second is one of sound, so `per_second` is times real time."""
    sound = stereo_sound(plan.sound_s)
    with tempfile.TemporaryDirectory() as folder:
        for format in filter(can_encode, FORMATS):
            path = Path(folder, f"{format.name}.{format.extension}")
            write_sound(path, sound, format)
            seconds = timed(plan.repeats, _drain, path)
            case = f"{format.name} (.{format.extension}), 44.1 kHz stereo"
            yield row("decode", case, seconds, "second of sound", plan.sound_s)


def ingest(subject: Subject, plan: Plan) -> Iterator[Row]:
    """One run over files of mixed formats: what each stage took of it, by window.

    `decode` sums over threads and overlaps with `embed` and `write`; `wait` is the embedding thread idle.
    """
    files = plan.files * (_MORE_FOR_A_GPU if on_gpu() else 1)
    formats = [format for format in FORMATS if can_encode(format)]
    with tempfile.TemporaryDirectory() as folder:
        music = Path(folder, "music")
        music.mkdir()
        for i in range(files):
            format = formats[i % len(formats)]
            write_sound(music / f"{i:03}.{format.extension}", stereo_sound(plan.sound_s, seed=i), format)
        for dtype in subject.dtypes:
            clap = subject.in_dtype(dtype)
            clap.embed_audio(sounds(clap.config, 1))  # folds the tower
            summary = Ingest(Store.open(Path(folder, dtype), create=True), clap).run([music])
            yield from _stages(summary, {"dtype": dtype, "batch": clap.batch_size, "windows": summary.windows})


def _stages(summary: Summary, about: dict[str, Any]) -> Iterator[Row]:
    for stage, seconds in summary.stages.items():
        yield row("ingest", stage, [seconds], "window", summary.windows, **about)
    yield row("ingest", "all", [summary.elapsed_s], "window", summary.windows, **about)
    yield row("ingest", "all, by sound", [summary.elapsed_s], "second of sound", summary.audio_s, **about)


def _drain(path: Path) -> None:
    with open_audio(path) as stream:
        for _ in stream.blocks():
            pass
