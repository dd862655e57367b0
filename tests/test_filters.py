"""Filters: what parses, into what, and what a person is told about what does not."""

import pytest

from mlx_clap_engine.errors import AskedWronglyError, FilterError
from mlx_clap_engine.filters import And, Compare, HasLabel, Not, Or, parse_filter, parse_label, parse_tag


def test_and_binds_tighter_than_or_and_not_tightest() -> None:
    assert parse_filter("bpm>120 and not genre = Jazz or year<=1990") == Or(
        (
            And((Compare("bpm", ">", 120.0), Not(Compare("genre", "=", "Jazz")))),
            Compare("year", "<=", 1990.0),
        )
    )


def test_parentheses_change_the_order() -> None:
    assert parse_filter("bpm >= 90 AND (genre=a OR genre=b)") == And(
        (Compare("bpm", ">=", 90.0), Or((Compare("genre", "=", "a"), Compare("genre", "=", "b"))))
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('genre = "Drum & Bass"', "Drum & Bass"),
        ("genre = 'it'", "it"),
        (r'genre = "a \"b\" \\ c"', 'a "b" \\ c'),
        ('genre="and"', "and"),
        ("genre=and", "and"),
        ("genre = 1990", "1990"),
        ('genre = ""', ""),
        ("genre = Öl", "Öl"),
    ],
)
def test_values_may_be_quoted(text: str, value: str) -> None:
    assert parse_filter(text) == Compare("genre", "=", value)


@pytest.mark.parametrize(
    ("text", "column", "what"),
    [
        ("tempo > 120", 0, "There is no column 'tempo'"),
        ("bpm > fast", 6, "bpm is a number, 'fast' is not"),
        ('bpm > "120"', 6, "bpm is a number"),
        ("bpm > nan", 6, "is not"),
        ("bpm > inf", 6, "is not"),
        ("bpm > 1e999", 6, "is not"),
        ("bpm ~ 12", 0, "~ (contains) is for text"),
        ("genre > Jazz", 0, "genre is text"),
        ("genre = ", 7, "Expected a value"),
        ("genre", 5, "Expected one of = != <"),
        ("", 0, "Expected a column"),
        ("bpm>1 bpm<2", 6, "Expected 'and', 'or' or the end"),
        ("(bpm>1", 6, "Expected ')'"),
        ("bpm>1)", 5, "Expected 'and', 'or' or the end"),
        ("genre = 'open", 8, "This quote is never closed"),
        ("bpm ! 3", 4, "This is not understood"),
        ("genre = x; DROP TABLE recordings", 11, "Expected 'and', 'or' or the end"),
        ("1=1", 0, "There is no column '1'"),
        ("recording_id = x", 0, "There is no column 'recording_id'"),
        ("genre = (select 1)", 8, "Expected a value"),
        ("not " * 60 + "bpm>1", 51 * 4, "nested too deeply"),
        ("(" * 5000 + "bpm>1" + ")" * 5000, 51, "nested too deeply"),
    ],
)
def test_what_does_not_parse_is_shown_with_a_caret_and_the_columns(text: str, column: int, what: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(text)
    first, shown, caret, columns = str(caught.value).split("\n")
    assert what in first
    assert shown == "  " + text
    assert caret == "  " + " " * column + "^"
    assert columns.startswith("Columns: duration_s, sample_rate")
    assert isinstance(caught.value, AskedWronglyError)


def test_control_characters_do_not_move_the_caret() -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter("bpm\n>\tx\x1b[2J")
    assert str(caught.value).split("\n")[1:3] == ["  bpm > x [2J", "        ^"]


def test_a_tag_is_an_equality_whose_value_is_taken_as_it_stands() -> None:
    assert parse_tag("genre=R&B = soul, 'or' jazz") == Compare("genre", "=", "R&B = soul, 'or' jazz")
    assert parse_tag("Year=1990") == Compare("year", "=", 1990.0)


@pytest.mark.parametrize("text", ["genre", "=Jazz", "genre=", "path=/x", "year=new", "genre' OR 1=1 --=x"])
def test_a_tag_without_a_known_column_and_a_value_is_refused(text: str) -> None:
    with pytest.raises(FilterError):
        parse_tag(text)


def test_a_label_names_its_set() -> None:
    assert parse_label("mood = very calm") == HasLabel("mood", "very calm")
    with pytest.raises(FilterError, match="key=value"):
        parse_label("calm")
