"""What goes into the tables: paths of any bytes, vectors that are vectors, spaces that can be named."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from mlx_clap_engine.errors import LibraryError, SpaceError
from mlx_clap_engine.store.schema import EmbeddedRecording, decode_path, encode_path
from store_samples import embedded, space_info, unit_vectors


@pytest.mark.parametrize(
    "name",
    [b"plain.wav", b"caf\xe9.wav", b"\xff\xfe.mp3", b"\x80", "Ж 日本.flac".encode(), b"a\\b'c\"d\ne"],
)
def test_a_path_of_any_bytes_survives_the_round_trip(name: bytes) -> None:
    path = os.fsdecode(b"/music/" + name)
    stored = encode_path(path)
    stored.encode("utf-8")
    assert os.fsencode(decode_path(stored)) == b"/music/" + name


def test_every_byte_but_nul_and_slash_survives_in_a_real_file_name(tmp_path: Path) -> None:
    for value in set(range(1, 256)) - {0x2F}:
        path = os.path.join(os.fsencode(tmp_path), b"a" + bytes([value]) + b"z")
        assert os.fsencode(decode_path(encode_path(os.fsdecode(path)))) == path


def test_composed_and_decomposed_names_stay_two_paths() -> None:
    composed, decomposed = unicodedata.normalize("NFC", "/é.wav"), unicodedata.normalize("NFD", "/é.wav")
    assert encode_path(composed) != encode_path(decomposed)
    assert decode_path(encode_path(decomposed)) == decomposed


def test_text_that_looks_like_an_escape_is_not_one() -> None:
    assert decode_path(encode_path("/00ff/\\x00ff")) == "/00ff/\\x00ff"


@pytest.mark.parametrize("spoil", [np.nan, np.inf, 0.0, 2.0])
def test_a_vector_that_is_not_of_unit_length_is_refused_with_its_window(spoil: float) -> None:
    good = embedded("r", windows=3)
    vectors = good.embeddings.copy()
    vectors[1] *= spoil
    with pytest.raises(LibraryError, match="recording r: the embedding of window 1 has length"):
        EmbeddedRecording("r", 10.0, good.start_s, good.end_s, good.silent, vectors)


def test_arrays_of_different_lengths_are_refused() -> None:
    good = embedded("r", windows=3)
    with pytest.raises(LibraryError, match="3 window starts, 2 ends"):
        EmbeddedRecording("r", 10.0, good.start_s, good.end_s[:2], good.silent, good.embeddings)
    none = np.zeros(0)
    with pytest.raises(LibraryError, match="0 window starts"):
        EmbeddedRecording("r", 10.0, none, none, none.astype(bool), unit_vectors(0))


def test_the_mean_leaves_silent_windows_out_and_has_unit_length() -> None:
    recording = embedded("r", windows=4, silent=(0, 3))
    expected = recording.embeddings[1:3].sum(axis=0)
    np.testing.assert_allclose(recording.mean(), expected / np.linalg.norm(expected), atol=1e-6)


def test_windows_that_cancel_out_are_refused() -> None:
    vector = unit_vectors(1)
    times = np.array([0.0, 10.0])
    with pytest.raises(LibraryError, match="cancel out"):
        EmbeddedRecording("r", 10.0, times, times + 10, np.zeros(2, bool), np.concatenate([vector, -vector]))


@pytest.mark.parametrize("name", ["", "a b", "../up", "x/y", "é", "a" * 101])
def test_a_space_that_cannot_name_a_table_is_refused(name: str) -> None:
    with pytest.raises(SpaceError, match="cannot name a space"):
        space_info(name)
