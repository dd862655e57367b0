"""Which formats this machine reads: each is written to a temporary folder where an encoder exists, and read back."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlx_clap.audio import SAMPLE_RATE
from mlx_clap_engine.decode import open_audio
from mlx_clap_engine.encode import FORMATS, RATE, Format, can_decode, can_encode, stereo_sound, write_sound
from mlx_clap_engine.errors import DecodeError

from .finding import Finding

_SECONDS = 1.0
#: How much longer or shorter than the sound its decoded file may be: a lossy codec pads to whole frames.
_TOLERANCE_S = 0.1


def formats() -> Iterator[Finding]:
    """One finding over all formats, and one for each that cannot be read."""
    read, listed = [], []
    with tempfile.TemporaryDirectory() as folder:
        sound = stereo_sound(_SECONDS)
        for format in FORMATS:
            if not can_encode(format):
                problem = None if can_decode(format) else "no decoder"
                listed += [] if problem else [format.name]
            else:
                path = Path(folder, f"sound.{format.extension}")
                write_sound(path, sound, format)
                problem = _problem(path, len(sound) / RATE)
                read += [] if problem else [format.name]
            if problem:
                yield _unreadable(format, problem)
    if not read:
        return
    rest = f"; by their decoders alone: {', '.join(listed)}" if listed else ""
    yield Finding("codecs", "ok", f"written and read back: {', '.join(read)}{rest}")


def _problem(path: Path, seconds: float) -> str | None:
    """What is wrong with how `path` is read; None when it comes back at its length and not silent."""
    try:
        with open_audio(path) as stream:
            samples = np.concatenate(list(stream.blocks()))
    except DecodeError as error:
        return str(error)
    found = len(samples) / SAMPLE_RATE
    if abs(found - seconds) > _TOLERANCE_S:
        return f"{found:.2f} s come back instead of {seconds:.2f} s"
    return None if np.abs(samples).max() > 0.01 else "only silence comes back"


def _unreadable(format: Format, problem: str) -> Finding:
    return Finding(
        f"codec {format.name}",
        "fail",
        f".{format.extension} files are not read here: {problem}",
        "Install the published wheel of PyAV, which has all decoders: pip install --force-reinstall av",
    )
