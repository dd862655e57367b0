"""What files say about themselves, read from every format that says it."""

import struct
from pathlib import Path

import pytest

from mlx_clap_engine.decode import open_audio, read_recording_id
from mlx_clap_engine.tags import Tags, read_tags
from sounds import make_sound

TAGS = {
    "title": "Blå tåge 中",
    "artist": "Somebody",
    "album": "An album",
    "album_artist": "Various",
    "genre": "Jazz",
    "date": "1997-05-21",
    "track": "3/12",
    "comment": "Taken on tape",
}


def id3v2(**frames: str) -> bytes:
    """An ID3v2.3 tag of text frames."""
    body = b"".join(
        name.encode() + struct.pack(">IH", len(text) + 1, 0) + b"\x00" + text.encode("latin-1")
        for name, text in frames.items()
    )
    body += b"\x00" * (len(body) % 2)
    size = bytes((len(body) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\x00\x00" + size + body


@pytest.mark.parametrize("name", ["x.mp3", "x.flac", "x.ogg", "x.opus", "x.aiff", "x.wma", "x.wv", "x.mka"])
def test_tags_are_read_from(tmp_path: Path, name: str) -> None:
    bpm, key = ("TBPM", "TKEY") if name in ("x.mp3", "x.aiff") else ("BPM", "INITIALKEY")
    with open_audio(make_sound(tmp_path / name, 0.3, tags={**TAGS, bpm: "128.5", key: "Am"})) as stream:
        assert stream.info.tags == Tags(
            title="Blå tåge 中",
            artist="Somebody",
            album="An album",
            albumartist="Various",
            genre="Jazz",
            year=1997,
            track="3/12",
            bpm=128.5,
            key="Am",
            comment="Taken on tape",
        )


def test_itunes_tags_and_tempo_are_read_from_m4a(tmp_path: Path) -> None:
    with open_audio(make_sound(tmp_path / "x.m4a", 0.3, tags={**TAGS, "tmpo": "99"})) as stream:
        tags = stream.info.tags
    assert (tags.title, tags.albumartist, tags.year, tags.track) == ("Blå tåge 中", "Various", 1997, "3/12")
    assert tags.bpm == 99.0


def test_info_and_id3_chunks_are_read_from_wav(tmp_path: Path) -> None:
    path = make_sound(tmp_path / "x.wav", 0.3, tags=TAGS)
    with open_audio(path) as stream:
        assert (stream.info.tags.artist, stream.info.tags.year, stream.info.tags.comment) == (
            "Somebody",
            1997,
            "Taken on tape",
        )
    id3 = id3v2(TIT2="A title", TBPM="127", TKEY="Dm", TCON="(7)", TYER="1988")
    plain = make_sound(tmp_path / "plain.wav", 0.3).read_bytes() + b"id3 " + struct.pack("<I", len(id3)) + id3
    (tmp_path / "id3.wav").write_bytes(plain[:4] + struct.pack("<I", len(plain) - 8) + plain[8:])
    with open_audio(tmp_path / "id3.wav") as stream:
        assert stream.info.tags == Tags(title="A title", genre="Hip-Hop", year=1988, bpm=127.0, key="Dm")


def test_an_id3_tag_before_flac_does_no_harm(tmp_path: Path) -> None:
    flac = make_sound(tmp_path / "x.flac", 1.0, tags=TAGS)
    (tmp_path / "y.flac").write_bytes(id3v2(TIT2="in front") + flac.read_bytes())
    assert read_recording_id(tmp_path / "y.flac") == read_recording_id(flac)


def test_tags_in_no_known_encoding_do_not_stop_the_sound(tmp_path: Path) -> None:
    path = make_sound(tmp_path / "x.flac", 0.3, tags={"artist": "QQQQ"})
    path.write_bytes(path.read_bytes().replace(b"QQQQ", b"\xff\xfe\xc3\x28"))
    with open_audio(path) as stream:
        assert "\ufffd" in (stream.info.tags.artist or "")


@pytest.mark.parametrize(
    ("text", "year"), [("1997-05-21", 1997), ("21/05/2003", 2003), ("0000", None), ("12345", None), ("soon", None)]
)
def test_a_year_is_found_in_a_date(text: str, year: int | None) -> None:
    assert read_tags({"date": text}).year == year


@pytest.mark.parametrize(
    ("text", "bpm"), [("128", 128.0), ("127,5", 127.5), ("90 BPM", 90.0), ("0", None), ("fast", None), ("99999", None)]
)
def test_a_tempo_is_a_number_or_nothing(text: str, bpm: float | None) -> None:
    assert read_tags({"TBPM": text}).bpm == bpm


def test_the_time_a_file_was_made_is_not_the_year_of_its_music() -> None:
    assert read_tags({"creation_time": "2006-02-03T18:00:00.000000Z", "encoder": "x"}) == Tags()


def test_tags_are_trimmed_cleaned_and_capped() -> None:
    tags = read_tags({"TITLE": "  a\x00b\x1b[31m ", "artist": "å" * 5000, "album": " \x00 ", "comment": "x\udcff"})
    assert tags.title == "ab[31m"
    assert tags.artist == "å" * 2048
    assert tags.album is None
    assert tags.comment == "x?"
