"""What a file says about itself, whatever its format calls it. Reads a decoder's metadata, opens nothing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_MAX_BYTES = 4096
# FFmpeg renames most frames to its own names (left); the others keep the name of their format: ID3v2 (TBPM),
# MP4 (tmpo), Vorbis and APE comments (BPM, INITIALKEY), ASF (WM/...), RIFF INFO through libsndfile
# (tracknumber).
_NAMES: dict[str, tuple[str, ...]] = {
    "title": ("title", "nam"),
    "artist": ("artist", "author", "performer"),
    "album": ("album", "wm/albumtitle"),
    "albumartist": ("album_artist", "albumartist", "album artist", "wm/albumartist"),
    "genre": ("genre", "wm/genre"),
    "track": ("track", "tracknumber", "wm/tracknumber"),
    "comment": ("comment", "description"),
    "key": ("tkey", "initialkey", "initial_key", "key", "wm/initialkey"),
    "year": ("date", "year", "tyer", "tdrc", "tdor", "originaldate", "date_released", "wm/year"),
    "bpm": ("tbpm", "bpm", "tmpo", "tempo", "wm/beatsperminute"),
}
# Control characters would reach a terminal with the answers; tab and newline may stay.
_CONTROL = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}


@dataclass(frozen=True)
class Tags:
    """A file's own description; None where it says nothing (or nothing sensible). `bpm` is beats a minute."""

    title: str | None = None
    artist: str | None = None
    album: str | None = None
    albumartist: str | None = None
    genre: str | None = None
    year: int | None = None
    track: str | None = None
    bpm: float | None = None
    key: str | None = None
    comment: str | None = None


def read_tags(metadata: Mapping[str, str]) -> Tags:
    """A decoder's metadata (names in any case) -> Tags, its text trimmed, cleaned and cut at 4 kB."""
    by_name = {name.lower(): _clean(text) for name, text in metadata.items()}

    def text(field: str) -> str | None:
        return next((by_name[name] for name in _NAMES[field] if by_name.get(name)), None)

    return Tags(
        title=text("title"),
        artist=text("artist"),
        album=text("album"),
        albumartist=text("albumartist"),
        genre=text("genre"),
        year=_year(text("year")),
        track=text("track"),
        bpm=_bpm(text("bpm")),
        key=text("key"),
        comment=text("comment"),
    )


def _clean(text: str) -> str:
    # Encoding with "replace" also rids it of lone surrogates, which no database takes.
    encoded = text.translate(_CONTROL).strip().encode("utf-8", "replace")
    return encoded[:_MAX_BYTES].decode("utf-8", "ignore")


def _year(text: str | None) -> int | None:
    """The year of '1997', '1997-05-21', '21/05/1997'; None for '0000' and what holds no year."""
    found = re.search(r"(?<!\d)[12]\d{3}(?!\d)", text or "")
    return int(found[0]) if found else None


def _bpm(text: str | None) -> float | None:
    found = re.match(r"\d{1,3}(?:[.,]\d+)?(?!\d)", text or "")
    value = float(found[0].replace(",", ".")) if found else 0.0
    return value if value > 0 else None
