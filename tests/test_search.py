"""Searching: how questions are combined, what is answered and in what order, and that the index changes none of it."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_clap.errors import AskedWronglyError
from mlx_clap_engine.answers import Answer
from mlx_clap_engine.combine import combine
from mlx_clap_engine.errors import FilterError, SpaceError
from mlx_clap_engine.filters import parse_filter, parse_label, parse_tag
from mlx_clap_engine.playlist import write_m3u
from mlx_clap_engine.questions import Question
from mlx_clap_engine.ranking import rank
from mlx_clap_engine.search import Answers, search
from mlx_clap_engine.store import index
from mlx_clap_engine.store.index import build_index
from mlx_clap_engine.store.library import Store
from mlx_clap_engine.store.lookup import sample_ids
from search_samples import direction, ident, make_library, sound
from store_samples import DIM, SPACE, file, label, recording, unit_vectors

Matrix = NDArray[np.float32]


def ids(answers: Answers) -> list[str]:
    return [row.recording_id for row in answers.rows]


@pytest.fixture
def small(tmp_path: Path) -> Store:
    """`seed` points along the first axis, `near` and `far` at growing angles; `chorus` has one window on the axis."""
    return make_library(
        tmp_path / "library",
        [
            sound("seed", [direction(1.0)] * 2),
            sound("near", [direction(1.0, 0.3)] * 2),
            sound("far", [direction(0.2, 1.0)] * 2),
            sound("chorus", [direction(0, 0, 1), direction(1.0, 0.1), direction(0, 0, 0, 1), direction(0, 0, 0, 0, 1)]),
            sound("quiet", [direction(1.0)] * 2, silent=(0, 1)),
            sound("pause", [direction(0, 1.0), direction(1.0)], silent=(1,)),
        ],
        {ident("near"): {"genre": "Jazz", "title": "Near"}, ident("far"): {"genre": "Rock"}},
    )


# Combining


def test_a_combination_orders_as_the_sum_of_standardised_similarities() -> None:
    rows = unit_vectors(500, seed=1)
    questions, signs = unit_vectors(3, seed=2), np.array([1.0, 1.0, -1.0])
    similarity = rows @ questions.T
    standardised = (similarity - similarity.mean(axis=0)) / similarity.std(axis=0)
    expected = standardised @ signs
    found = rows @ combine(questions, signs, [rows[:200], rows[200:]])
    assert np.argsort(-found)[:50].tolist() == np.argsort(-expected)[:50].tolist()
    assert np.corrcoef(found, expected)[0, 1] == pytest.approx(1.0, abs=1e-6)


def test_a_question_with_a_narrow_spread_counts_as_much_as_one_with_a_wide_spread() -> None:
    rng = np.random.default_rng(3)
    rows = np.zeros((400, DIM), np.float32)
    rows[:, 0], rows[:, 1] = rng.normal(0, 0.5, 400), rng.normal(0, 0.05, 400)
    found = rows @ combine(np.eye(DIM, dtype=np.float32)[:2], np.ones(2), [rows])
    assert np.corrcoef(found, rows[:, 0])[0, 1] == pytest.approx(np.corrcoef(found, rows[:, 1])[0, 1], abs=0.1)


def test_a_question_that_all_are_equally_similar_to_does_not_drown_the_others() -> None:
    rows = np.zeros((400, DIM), np.float32)
    rows[:, 0] = np.random.default_rng(4).normal(0, 0.3, 400)
    found = rows @ combine(np.eye(DIM, dtype=np.float32)[:2], np.ones(2), [rows])
    assert np.corrcoef(found, rows[:, 0])[0, 1] == pytest.approx(1.0)


def test_questions_that_cancel_out_are_refused() -> None:
    questions = np.repeat(unit_vectors(1), 2, axis=0)
    with pytest.raises(AskedWronglyError, match="cancel each other out"):
        combine(questions, np.array([1.0, -1.0]), [unit_vectors(100)])


def test_two_recordings_together_find_what_lies_between_them(tmp_path: Path) -> None:
    store = make_library(
        tmp_path / "library",
        [
            sound("a", [direction(1)]),
            sound("b", [direction(0, 1)]),
            sound("between", [direction(1, 1)]),
            sound("like a", [direction(1, 0, 0.3)]),
            sound("like b", [direction(0, 1, 0.3)]),
            sound("other", [direction(0, 0, 0, 1)]),
        ],
    )
    assert ids(search(store, Question(like=[ident("a")]), k=1)) == [ident("like a")]
    answers = search(store, Question(like=[ident("a"), ident("b")]), k=1)
    assert ids(answers) == [ident("between")]
    assert answers.rows[0].similarity == pytest.approx(1.0, abs=0.01)


# Answers


def test_likeness_leaves_the_reference_and_the_silent_out(small: Store) -> None:
    answers = search(small, Question(like=[ident("seed")]))
    assert ids(answers)[:2] == [ident("near"), ident("chorus")]
    assert set(ids(answers)) == {ident(name) for name in ("near", "chorus", "far", "pause")}
    first = answers.rows[0]
    assert first.similarity == pytest.approx(1 / np.hypot(1, 0.3), abs=1e-6)
    assert (first.rank, first.title, first.genre, first.duration_s) == (1, "Near", "Jazz", 30.0)
    assert (first.start_s, "start_s" in first.row()) == (None, False)


def test_the_best_window_finds_a_moment_that_a_mean_dilutes(small: Store) -> None:
    best = search(small, Question(like=[ident("seed")]), rank_by="best").rows[0]
    assert best.recording_id == ident("chorus")
    assert (best.start_s, best.end_s) == (10.0, 20.0)
    assert search(small, Question(like=[ident("seed")]), rank_by="mean").rows[0].recording_id == ident("near")


def test_windows_may_answer_several_times_for_a_recording_and_silent_ones_never(small: Store) -> None:
    rows = search(small, Question(like=[ident("seed")]), windows=True, k=50).rows
    assert [(r.recording_id, r.start_s, r.end_s) for r in rows[:3]] == [
        (ident("chorus"), 10.0, 20.0),
        (ident("near"), 0.0, 10.0),
        (ident("near"), 10.0, 20.0),
    ]
    assert len(rows) == 2 + 2 + 4 + 1
    assert [r.rank for r in rows] == list(range(1, 10))


def test_a_percentile_is_the_share_of_recordings_at_most_as_similar(small: Store) -> None:
    rows = search(small, Question(like=[ident("seed")])).rows
    assert [row.percentile for row in rows] == [100.0, 75.0, 50.0, 25.0]
    z = np.array([row.z for row in rows])
    assert z.mean() == pytest.approx(0.0, abs=2e-3)
    assert z.std() == pytest.approx(1.0, abs=2e-3)


def test_low_percentiles_may_be_left_out(small: Store) -> None:
    question = Question(like=[ident("seed")])
    assert len(search(small, question, min_percentile=50.0).rows) == 3
    none = search(small, question, min_percentile=100.0, filters=[parse_tag("genre=Rock")])
    assert none.rows == []
    assert none.notes == ["no answer reaches percentile 100: lower --min-percentile"]


def test_filters_choose_who_may_answer_and_leave_percentiles_alone(small: Store) -> None:
    question = Question(like=[ident("seed")])
    [row] = search(small, question, filters=[parse_tag("genre=rock")]).rows
    assert (row.recording_id, row.rank, row.percentile) == (ident("far"), 1, 50.0)
    both = search(small, question, filters=[parse_filter("genre = Jazz or genre = Rock"), parse_tag("title=Near")])
    assert ids(both) == [ident("near")]
    nothing = search(small, question, filters=[parse_tag("genre=x' OR 1=1 --")])
    assert nothing.rows == []
    assert "no recording matches the filters" in nothing.notes[0]


def test_labels_come_with_answers_and_a_person_overrules_machines(small: Store) -> None:
    near, far = ident("near"), ident("far")
    with small.writer() as writer:
        guesses = [label(near, "Jazz", probability=0.6), label(near, "Blues", probability=0.3), label(far, "Pop")]
        writer.write_labels("genre", "zero-shot", [*guesses, label(far, "Solo", start_s=0.0, end_s=5.0)])
        writer.write_labels("genre", "human", [label(far, "Rock", "human")])
    rows = {row.recording_id: row for row in search(small, Question(like=[ident("seed")])).rows}
    assert rows[near].labels == {"genre": ["Jazz", "Blues"]}
    assert rows[far].labels == {"genre": ["Rock"]}
    assert rows[ident("pause")].labels == {}
    assert ids(search(small, Question(like=[ident("seed")]), filters=[parse_label("genre=rock")])) == [far]
    with pytest.raises(FilterError, match="No recording has a label of set 'mood'"):
        search(small, Question(like=[ident("seed")]), filters=[parse_label("mood=calm")])


def test_a_recording_under_two_paths_is_one_answer(small: Store) -> None:
    with small.writer() as writer:
        writer.commit(files=[file("/m/\udcff copy.wav", ident("near"))])
    row = search(small, Question(like=[ident("seed")]), k=1).rows[0]
    assert row.paths == ["/m/" + ident("near") + ".wav", "/m/\udcff copy.wav"]
    assert row.path == row.paths[0]


def test_a_recording_whose_files_are_gone_makes_room_for_the_next(small: Store) -> None:
    with small.writer() as writer:
        writer.forget([f"/m/{ident('near')}.wav"])
    assert ids(search(small, Question(like=[ident("seed")]), k=1)) == [ident("chorus")]
    assert len(search(small, Question(like=[ident("seed")]), k=10).rows) == 3


def test_ties_are_in_the_order_of_ids_whatever_the_order_of_storage(tmp_path: Path) -> None:
    names = [f"twin {i}" for i in range(20)]
    found = []
    for order in (names, names[::-1]):
        twins = [sound(name, [direction(1, 1)]) for name in order]
        store = make_library(tmp_path / order[0], [sound("seed", [direction(1)]), *twins])
        found.append(ids(search(store, Question(like=[ident("seed")]), k=5)))
        assert found[-1] == ids(search(store, Question(like=[ident("seed")]), k=5, rank_by="best"))
    assert found[0] == found[1] == sorted(map(ident, names))[:5]


# Asking


def test_a_recording_is_named_by_path_by_id_or_by_the_beginning_of_its_id(small: Store, tmp_path: Path) -> None:
    seed = ident("seed")
    expected = ids(search(small, Question(like=[seed])))
    for name in (f"/m/{seed}.wav", f"/m/../m/{seed}.wav", seed[:6], seed.upper()):
        assert ids(search(small, Question(like=[name]))) == expected
    with pytest.raises(AskedWronglyError, match=r"not in the library at .*mlxclap ingest"):
        search(small, Question(like=["/m/unknown.wav"]))
    with pytest.raises(AskedWronglyError, match="not in the library"):
        search(small, Question(like=[seed[:3]]))


def test_a_path_is_found_through_a_link_and_in_either_unicode_form(tmp_path: Path) -> None:
    store = make_library(tmp_path / "library", [sound("seed", [direction(1)]), sound("b", [direction(1, 1)])])
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with store.writer() as writer:
        writer.commit(files=[file(str(tmp_path.resolve() / "real" / "Cafe\u0301.wav"), ident("seed"))])
    assert ids(search(store, Question(like=[str(tmp_path / "link" / "Caf\u00e9.wav")]))) == [ident("b")]


def test_the_beginning_of_several_ids_is_refused(tmp_path: Path) -> None:
    vectors = unit_vectors(2)
    store = make_library(tmp_path / "library", [sound("a", vectors[:1]), sound("b", vectors[1:])])
    with store.writer() as writer:
        twin = ident("a")[:6] + "0" * 26
        writer.commit(recordings=[recording(twin)])
    with pytest.raises(AskedWronglyError, match=f"2 recordings have an id that begins with {ident('a')[:5]}"):
        search(store, Question(like=[ident("a")[:5]]))
    with pytest.raises(SpaceError, match="not embedded in space"):
        search(store, Question(like=[twin]))


def test_nothing_is_like_silence(small: Store) -> None:
    with pytest.raises(AskedWronglyError, match="silent throughout"):
        search(small, Question(like=[ident("quiet")]))


def test_requests_that_make_no_sense_are_refused(small: Store) -> None:
    question = Question(like=[ident("seed")])
    with pytest.raises(AskedWronglyError, match="nothing was asked"):
        Question()
    with pytest.raises(AskedWronglyError, match="is empty"):
        Question(texts=["  "])
    with pytest.raises(AskedWronglyError, match="at least 1; got 0"):
        search(small, question, k=0)
    with pytest.raises(AskedWronglyError, match="cannot be combined with --rank"):
        search(small, question, windows=True, rank_by="best")
    with pytest.raises(AskedWronglyError, match="between 0 and 100"):
        search(small, question, min_percentile=101.0)


def test_an_empty_library_says_how_to_fill_it(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "library", create=True)
    with pytest.raises(SpaceError, match="is empty: `mlxclap ingest PATH`"):
        search(store, Question(like=["abcd"]))
    only = make_library(tmp_path / "one", [sound("only", [direction(1)])])
    answers = search(only, Question(like=[ident("only")]))
    assert answers.rows == []
    assert "holds no recording to answer with" in answers.notes[0]


# The index


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """400 recordings of 20 windows, unindexed until a test builds the index."""
    sounds = [sound(f"large {i}", unit_vectors(20, seed=i), silent=(i % 20,)) for i in range(400)]
    tags = {s.recording_id: {"bpm": float(60 + i)} for i, s in enumerate(sounds)}
    return make_library(tmp_path_factory.mktemp("search") / "library", sounds, tags)


def test_the_index_gives_the_rows_that_exact_search_gives(large: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "INDEX_FROM", 100)
    questions = [Question(like=[ident(f"large {i}")]) for i in range(8)]
    questions += [Question(like=[ident("large 20"), ident("large 30")])]
    wants = [{"rank_by": "best"}, {"rank_by": "mean"}, {"windows": True, "k": 25}]
    wants += [{"rank_by": "best", "k": 50}, {"rank_by": "best", "filters": [parse_filter("bpm > 150 and bpm < 300")]}]
    before = [search(large, question, **want) for question in questions for want in wants]  # type: ignore[arg-type]
    assert all(answers.exact for answers in before)
    for kind in index.KINDS:
        assert build_index(large, SPACE, kind).indexed > 0
    after = [search(large, question, **want) for question in questions for want in wants]  # type: ignore[arg-type]
    assert not any(answers.exact for answers in after)
    asked = [set(question.like) for question in questions for _ in wants]
    assert all(not references & set(ids(answers)) for references, answers in zip(asked, after, strict=True))
    found = total = 0
    for exact, indexed in zip(before, after, strict=True):
        assert len(exact.rows) == len(indexed.rows)
        places = {(row.recording_id, row.start_s): row for row in exact.rows}
        worst = exact.rows[-1].similarity
        for row in indexed.rows:
            # An equally similar row is as good: recall by threshold.
            total, found = total + 1, found + (row.similarity >= worst - 2e-6)
            if same := places.get((row.recording_id, row.start_s)):
                assert row.similarity == pytest.approx(same.similarity, abs=2e-6)
                # All 400 recordings are in the sample, so percentiles agree as well.
                assert row.percentile == pytest.approx(same.percentile, abs=0.3)
                assert row.z == pytest.approx(same.z, abs=2e-3)
    assert found / total >= 0.99


def test_a_sample_is_uniform_fixed_and_of_the_size_asked_for(large: Store) -> None:
    sample = sample_ids(large, SPACE, 40)
    assert len(set(sample)) == 40
    assert sample == sample_ids(large, SPACE, 40)
    assert sample == sorted(large.embedded_ids(SPACE))[:40]
    assert len(sample_ids(large, SPACE, 1000)) == 400


def test_percentiles_over_a_sample_are_near_those_over_everything(
    large: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector = unit_vectors(1, seed=7)[0]
    everything = rank(large, SPACE, "windows", vector, by_recording=True, among=large.embedded_ids(SPACE))
    monkeypatch.setattr("mlx_clap_engine.ranking.SAMPLE", 150)
    monkeypatch.setattr(index, "INDEX_FROM", 100)
    build_index(large, SPACE, "windows")
    sampled = rank(large, SPACE, "windows", vector, by_recording=True)
    assert len(sampled.population) == 150
    assert not sampled.exact
    for percent in (10, 50, 90):
        threshold = np.percentile(everything.population, percent)
        assert 100 * np.mean(sampled.population <= threshold) == pytest.approx(percent, abs=12)


# Playlists


def answer(path: str, **changes: object) -> Answer:
    values: dict[str, object] = {
        "rank": 1,
        "path": path,
        "paths": [path],
        "recording_id": "0" * 32,
        "similarity": 0.5,
        "percentile": 99.0,
        "z": 2.0,
        "labels": {},
        "duration_s": 61.6,
    }
    return Answer(**(values | dict.fromkeys(("title", "artist", "album", "genre")) | changes))  # type: ignore[arg-type]


def test_a_playlist_keeps_every_byte_of_a_path_and_names_each_once(tmp_path: Path) -> None:
    answers = [
        answer("/m/Caf\u00e9.wav", artist="A\nB", title="T"),
        answer("/m/bad\udcff name.mp3"),
        answer("/m/Caf\u00e9.wav"),
        answer("/m/two\nlines.wav"),
    ]
    assert write_m3u(tmp_path / "list.m3u8", answers) == 2
    assert (tmp_path / "list.m3u8").read_bytes() == (
        b"#EXTM3U\n#EXTINF:62,A B - T\n/m/Caf\xc3\xa9.wav\n#EXTINF:62,bad\xff name\n/m/bad\xff name.mp3\n"
    )


def test_a_playlist_is_replaced_but_no_other_file_is(tmp_path: Path) -> None:
    (tmp_path / "song.mp3").write_bytes(b"ID3")
    with pytest.raises(AskedWronglyError, match="is no M3U playlist"):
        write_m3u(tmp_path / "song.mp3", [answer("/m/a.wav")])
    assert (tmp_path / "song.mp3").read_bytes() == b"ID3"
    write_m3u(tmp_path / "list.m3u", [answer("/m/a.wav", artist="Nina", title="Sinnerman")])
    write_m3u(tmp_path / "list.m3u", [answer("/m/b.wav", artist="Nina", title="Sinnerman")])
    assert (tmp_path / "list.m3u").read_text() == "#EXTM3U\n#EXTINF:62,Nina - Sinnerman\n/m/b.wav\n"
