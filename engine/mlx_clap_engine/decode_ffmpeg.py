"""FFmpeg's decoders, through PyAV: the first choice for every format. Native samples only; no mixing.

What comes out is what a player would play: encoder delay and padding are cut where the file declares them, to the
sample for MP3 with a LAME header, Opus and MP4 (edit lists; the end of MP4 AAC keeps up to one frame, 21 ms). FFmpeg's
Vorbis may lose the first 128 samples (3 ms) and keep up to a block at the end; raw AAC declares nothing, its 21 ms
of delay stay. Video streams are never read.
"""

from collections.abc import Iterator, Mapping
from itertools import chain

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Discard

from .pcm import Chunk, UnreadableError, check_shape, chunk_length, to_float

# FFmpeg also opens playlists, network streams, screens and subtitles. A file of a music folder must not make
# it do so, whatever the file says: only these containers, and only from the file itself.
_CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,iff,ircam,loas,matroska,webm,"
    "mov,mp4,mp3,mpc,mpc8,mpeg,mpegts,nistsphere,ogg,oma,rm,shn,sox,spdif,tak,truehd,tta,voc,w64,wav,wv,xwma"
)
# export_all: MP4 tags FFmpeg has no name of its own for, such as the tempo that iTunes writes.
_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file", "export_all": "1"}
# MPEG-4 sample entries of encrypted sound: FairPlay (.m4p), Common Encryption, Audible.
_ENCRYPTED_TAGS = {"drms", "enca", "aavd"}
# Containers that state no length: FFmpeg guesses one from the bit rate.
_NO_LENGTH = frozenset("aac ac3 eac3 dts dtshd loas mp3 mpeg mpegts amr amrnb amrwb truehd".split())

# FFmpeg writes what it thinks of a file to stderr; what matters is in the errors and counts below.
av.logging.set_level(None)


class FfmpegSource:
    """One audio stream (the first of the file); see `pcm.Source`.

    Raises:
        UnreadableError: not audio FFmpeg knows, encrypted, without sound, or nothing of it decodes.
    """

    def __init__(self, path: str) -> None:
        self.corrupt = 0
        self.stopped: str | None = None
        self._decoded = 0
        try:
            # "file:" keeps FFmpeg from reading a scheme ("concat:...") out of a file's name.
            self._container: InputContainer = av.open(f"file:{path}", "r", options=_OPTIONS, metadata_errors="replace")
        except Exception as error:  # FFmpegError, OSError, ValueError and others, as the damage will have it
            raise UnreadableError(_reason(error)) from error
        try:
            self._start()
        except UnreadableError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise UnreadableError(_reason(error)) from error

    def _start(self) -> None:
        stream = self._stream = _audio_stream(self._container)
        self.metadata: Mapping[str, str] = {**stream.metadata, **self._container.metadata}
        self.duration_s = self._declared_duration()
        chunks = self._read()
        # The header is only a promise (HE-AAC states half its rate): the first samples say what there is.
        first = next(chunks, None)
        if first is None:
            raise UnreadableError(
                f"none of its {self.corrupt} packets decodes" if self.corrupt else "it holds no samples"
            )
        self.rate = first.rate
        self.channels = first.samples.shape[1]
        self.codec = stream.codec_context.codec.canonical_name
        self._chunks = chain([first], chunks)

    def chunks(self) -> Iterator[Chunk]:
        return self._chunks

    def close(self) -> None:
        self._container.close()

    def _declared_duration(self) -> float | None:
        stream = self._stream
        if stream.duration is None or stream.time_base is None:
            return None
        states_none = not _NO_LENGTH.isdisjoint(self._container.format.name.split(","))
        if states_none and "encoder" not in stream.metadata:  # which is set when an MP3 has a Xing header
            return None
        return float(stream.duration * stream.time_base)

    def _read(self) -> Iterator[Chunk]:
        held: list[AudioFrame] = []
        n = 0
        for frame in self._frames():
            if held and _shape(frame) != _shape(held[0]):  # chained streams may change theirs
                yield _join(held)
                held, n = [], 0
            held.append(frame)
            n += frame.samples
            if n >= chunk_length(frame.sample_rate, frame.layout.nb_channels):
                yield _join(held)
                held, n = [], 0
        if self.corrupt > self._decoded:
            raise UnreadableError(f"{self.corrupt} of its {self.corrupt + self._decoded} packets do not decode")
        if held:
            yield _join(held)

    def _frames(self) -> Iterator[AudioFrame]:
        """Decode packet by packet, so that one corrupt packet costs that packet and no more."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except Exception as error:
                damaged = isinstance(error, av.error.InvalidDataError)
                self.stopped = "the rest is damaged" if damaged else _reason(error)
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except Exception:
                self.corrupt += 1
                continue
            if packet.size:
                self._decoded += 1
            yield from (frame for frame in frames if frame.samples)


def _audio_stream(container: InputContainer) -> AudioStream:
    if not container.streams.audio:
        raise UnreadableError("it holds no audio (a video without sound, or a picture)")
    stream = container.streams.audio[0]
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    context: AudioCodecContext | None = stream.codec_context
    if context is None:
        raise UnreadableError("no decoder is known for its sound")
    if _codec_tag(context) in _ENCRYPTED_TAGS:
        raise UnreadableError("it is DRM-protected and cannot be read outside the shop's own player")
    return stream


def _codec_tag(context: AudioCodecContext) -> str:
    try:
        return context.codec_tag
    except UnicodeDecodeError:  # AVI numbers its codecs, and PyAV takes every tag for four letters
        return ""


def _shape(frame: AudioFrame) -> tuple[int, int, str]:
    return frame.sample_rate, frame.layout.nb_channels, frame.format.name


def _join(frames: list[AudioFrame]) -> Chunk:
    """Frames of one shape -> one chunk. PyAV gives planar samples as [channels, n], packed as [1, n * channels]."""
    rate, channels = frames[0].sample_rate, frames[0].layout.nb_channels
    check_shape(rate, channels)
    try:
        joined = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    except Exception as error:
        raise UnreadableError(f"its samples ({frames[0].format.name}) cannot be taken: {error}") from error
    samples = joined.T if frames[0].format.is_planar else joined.reshape(-1, channels)
    return Chunk(to_float(samples), rate)


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.ArgumentError):  # what FFmpeg answers for a container off the list
        return "it is no audio file"
    if isinstance(error, (av.error.InvalidDataError, av.error.PermissionError)):
        return "it is no audio file, or its header is damaged"
    if isinstance(error, av.error.EOFError):
        return "it ends before any sound"
    return str(getattr(error, "strerror", None) or error)
