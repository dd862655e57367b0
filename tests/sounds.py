"""Real sound files of any format for tests: synthesised, then written by FFmpeg (Vorbis by libsndfile)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

Kind = Literal["tone", "noise", "chord", "silence"]

# What `make_sound` writes for an extension when no codec is named. Every one can be read back by the decoder.
CODECS = {
    "wav": "pcm_s16le",
    "rf64": "pcm_s16le",
    "w64": "pcm_s16le",
    "aiff": "pcm_s16be",
    "aifc": "pcm_s16le",
    "caf": "pcm_s16le",
    "au": "pcm_s16be",
    "flac": "flac",
    "wv": "wavpack",
    "tta": "tta",
    "mp3": "libmp3lame",
    "ogg": "vorbis",
    "opus": "libopus",
    "m4a": "aac",
    "aac": "aac",
    "wma": "wmav2",
    "mp4": "aac",
    "mka": "flac",
    "mkv": "aac",
    "webm": "libopus",
    "ac3": "ac3",
}
# FFmpeg would take the first format a codec lists, which may be 8 or 24 bits.
_SAMPLE_FORMATS = {"flac": "s16", "alac": "s16p", "wavpack": "s16p", "tta": "s16"}
_MUXERS = {
    "aac": "adts",
    "aifc": "aiff",
    "m4a": "ipod",
    "mka": "matroska",
    "mkv": "matroska",
    "rf64": "wav",
    "wma": "asf",
}
_MUXER_OPTIONS = {"rf64": {"rf64": "always"}, "aiff": {"write_id3v2": "1"}}


def synthesise(
    seconds: float, kind: Kind = "tone", *, seed: int = 0, rate: int = 44_100, channels: int = 2
) -> NDArray[np.float32]:
    """float32 [round(seconds * rate), channels], peaks under 0.5; every seed and channel sounds different."""
    n = round(seconds * rate)
    rng = np.random.default_rng(seed)
    t = np.arange(n)[:, None] / rate  # n 1
    base = 220.0 * 2 ** (rng.integers(0, 24) / 12) * (1 + 0.5 * np.arange(channels))  # channels
    if kind == "silence":
        samples = np.zeros((n, channels))
    elif kind == "noise":
        samples = 0.1 * rng.standard_normal((n, channels)).clip(-4, 4)
    elif kind == "chord":
        samples = sum(0.12 * np.sin(2 * np.pi * base * ratio * t) for ratio in (1, 1.25, 1.5)) + 0.0 * t
    else:
        samples = 0.4 * np.sin(2 * np.pi * base * t)
    return samples.astype(np.float32)


def make_sound(
    path: Path,
    seconds: float = 1.0,
    kind: Kind = "tone",
    *,
    seed: int = 0,
    rate: int = 44_100,
    channels: int = 2,
    tags: Mapping[str, str] | None = None,
    codec: str | None = None,
) -> Path:
    """Write a synthesised sound and return `path`, whose extension gives the format and (`CODECS`) the codec."""
    return write_sound(
        path, synthesise(seconds, kind, seed=seed, rate=rate, channels=channels), rate, tags=tags, codec=codec
    )


def write_sound(
    path: Path,
    samples: NDArray[np.float32],
    rate: int,
    *,
    tags: Mapping[str, str] | None = None,
    codec: str | None = None,
) -> Path:
    """Encode float32 [n, channels] to `path`. `tags` go by FFmpeg's names (title, artist, date, TBPM ...)."""
    extension = path.suffix[1:].lower()
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = codec or CODECS[extension]
    if codec == "vorbis":
        _write_vorbis(path, samples, rate, tags or {})
        return path
    muxer = _MUXERS.get(extension, extension)
    options = _MUXER_OPTIONS.get(extension, {})
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[1]]
    with av.open(str(path), "w", format=muxer, options=options) as container:
        container.metadata.update(tags or {})
        stream = container.add_stream(codec, rate=48_000 if codec == "libopus" else rate, layout=layout)
        stream.bit_rate = 128_000 * samples.shape[1]  # for the codecs that have one
        stream.format = _SAMPLE_FORMATS.get(codec, stream.format)
        for start in range(0, len(samples), rate):  # one second at a time
            block = np.ascontiguousarray(samples[start : start + rate].reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
            frame.sample_rate = rate
            frame.pts = start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def make_video(path: Path, seconds: float = 1.0, *, sound: bool = True) -> Path:
    """A small MPEG-4 video (any container by extension), with an AAC track or without."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=44_100, layout="stereo") if sound else None
        for index in range(round(25 * seconds)):
            picture = np.full((48, 64, 3), index % 256, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None:
            samples = synthesise(seconds)
            frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout="stereo")
            frame.sample_rate = 44_100
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def retag(source: Path, target: Path, tags: Mapping[str, str]) -> Path:
    """Copy the encoded sound of `source` untouched into `target`, with other tags."""
    extension = target.suffix[1:].lower()
    with (
        av.open(str(source)) as old,
        av.open(
            str(target), "w", format=_MUXERS.get(extension, extension), options=_MUXER_OPTIONS.get(extension, {})
        ) as new,
    ):
        new.metadata.update(tags)
        stream = new.add_stream_from_template(old.streams.audio[0])
        for packet in old.demux(old.streams.audio[0]):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return target


def _write_vorbis(path: Path, samples: NDArray[np.float32], rate: int, tags: Mapping[str, str]) -> None:
    plain = path.with_name(path.name + ".plain.ogg") if tags else path
    with soundfile.SoundFile(plain, "w", rate, samples.shape[1], format="OGG", subtype="VORBIS") as file:
        for start in range(0, len(samples), rate):  # libsndfile crashes on long Vorbis writes
            file.write(samples[start : start + rate])
    if tags:
        retag(plain, path, tags)
        plain.unlink()
