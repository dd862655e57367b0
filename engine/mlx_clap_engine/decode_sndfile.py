"""libsndfile, through soundfile: a second opinion on files FFmpeg refuses. Native samples only; no mixing."""

from collections.abc import Iterator, Mapping
from itertools import chain

import soundfile

from .pcm import Chunk, UnreadableError, check_shape, chunk_length, to_float

# Anything else libsndfile would hand to its MP3 decoder, which writes to stderr and knows less than FFmpeg's.
_BEGINNINGS = (
    *(b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"fLaC", b"OggS", b"caff", b".snd", b"dns.", b"NIST_1A"),
    *(b"Creative Voice File", b"2BIT", b" paf", b"fap ", b"PVF1", b"Extended Instrument", b"ALawSoundFile"),
    *(b"\x64\xa3", b"\x00\x00\xa3\x64", b"MATLAB 5.0", b"SOUND SAMPLE DATA"),
)


class SndfileSource:
    """A file opened by libsndfile; see `pcm.Source`.

    Raises:
        UnreadableError: nothing libsndfile knows, or without a sample.
    """

    def __init__(self, path: str) -> None:
        self.corrupt = 0
        self.stopped: str | None = None
        try:
            # soundfile encodes str as strict UTF-8 on some systems; a descriptor takes any name.
            self._bytes = open(path, "rb", buffering=0)  # the descriptor must stand where Python says
        except OSError as error:
            raise UnreadableError(str(error.strerror)) from error
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        if not self._bytes.read(20).startswith(_BEGINNINGS):
            raise UnreadableError("it is no audio file")
        self._bytes.seek(0)
        try:
            self._sound = soundfile.SoundFile(self._bytes.fileno(), closefd=False)
        except Exception as error:  # soundfile raises its own error, TypeError and RuntimeError
            raise UnreadableError(_reason(error)) from error
        self.rate, self.channels = int(self._sound.samplerate), int(self._sound.channels)
        check_shape(self.rate, self.channels)
        self.codec = str(self._sound.subtype).lower()
        self.metadata: Mapping[str, str] = dict(self._sound.copy_metadata())
        self.duration_s: float | None = self._sound.frames / self.rate
        chunks = self._read()
        first = next(chunks, None)
        if first is None:
            raise UnreadableError(self.stopped or "it holds no samples")
        self._chunks = chain([first], chunks)

    def chunks(self) -> Iterator[Chunk]:
        return self._chunks

    def close(self) -> None:
        if hasattr(self, "_sound"):
            self._sound.close()
        self._bytes.close()

    def _read(self) -> Iterator[Chunk]:
        length = chunk_length(self.rate, self.channels)
        while True:
            try:
                samples = self._sound.read(length, dtype="float32", always_2d=True)
            except Exception as error:
                self.stopped = _reason(error)
                return
            if not len(samples):
                return
            yield Chunk(to_float(samples), self.rate)


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", None) or error).rstrip(".")
