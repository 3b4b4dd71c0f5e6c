"""Chunks chosen beforehand: every layout that was published, and what does not fit."""

import json

import pytest
import torch

from tests.tiny import frames, ours
from x2l.compressors.base import Level
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.assignment import select
from x2l.engine.meter import Meter
from x2l.engine.prefill import prefill
from x2l.selectors.base import Query
from x2l.selectors.from_file import FileSelector

QUESTION = "Who opens  the door?\n"  # white space differs between releases
KEY = "film.mp4_Who opens the door?"
NEVER = float("-inf")


@pytest.fixture(scope="module")
def store():
    """22 frames in chunks of 4: chunks 0 to 5, the last of 2 frames."""
    model, full = ours("qwen2_5_vl"), {"low": Level(KeyNorm(), 1), "high": Level(KeyNorm(), 8)}
    return prefill(model, model.prompt(frames(22), 4), full)


def load(tmp_path, content, **options):
    path = tmp_path / "chosen.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return FileSelector.load(str(path), **options)


def relevance(selector, store, video="/data/film.mp4", text=QUESTION):
    query = Query(ours("qwen2_5_vl").question(text), "q", text=text, video=video)
    return selector.relevance(query, store, ours("qwen2_5_vl"), Meter())


def chosen(tmp_path, store, content, top_k, **options):
    return select(relevance(load(tmp_path, content, **options), store), top_k)


def test_a_list_is_chunks_in_order_of_relevance_and_never_others(tmp_path, store):
    listed = {KEY: [4, 1, 3]}
    assert [chosen(tmp_path, store, listed, k) for k in (1, 2, 6)] == [(4,), (1, 4), (1, 3, 4)]
    assert chosen(tmp_path, store, {KEY: []}, 6) == ()


def test_a_byte_order_mark_is_no_matter(tmp_path, store):
    marked = "\ufeff" + json.dumps({KEY: [4, 1]})
    assert chosen(tmp_path, store, marked, 1) == (4,)


def test_relevance_is_taken_as_it_is(tmp_path, store):
    rated = load(tmp_path, {KEY: {"relevance": [0, 0.5, -1, 2, 0.25, 0]}})
    assert relevance(rated, store).tolist() == [0, 0.5, -1, 2, 0.25, 0]


def test_the_authors_languagebind_results(tmp_path, store):
    """`top1` may be a number; the longest list counts, so that any smaller k is its beginning."""
    entry = {"top1": 2, "top3": [2, 5, 0], "pred": "B"}
    assert chosen(tmp_path, store, {KEY: entry}, 1) == (2,)
    assert chosen(tmp_path, store, {KEY: entry}, 3) == (0, 2, 5)
    assert chosen(tmp_path, store, {KEY: {"gt_chunk_idx": [3]}}, 3) == (3,)


def test_seconds_are_the_chunks_that_hold_a_frame_in_them(tmp_path, store):
    """One frame a second: 4 to 6 is chunk 1, 11 to 13 chunks 2 and 3."""
    assert chosen(tmp_path, store, {KEY: [[4, 6], [11, 13]]}, 6) == (1, 2, 3)


PUBLISHED = {
    "topic_reasoning": None,
    "plotQA": {
        "config": {
            "selected_topk": 2,
            "selected_chunk_size": 4,
            "relevance oracle": "languagebind",
        },
        "selected_unit_indices": {KEY: [2, 0]},
    },
}


def test_video_xl_2s_units_of_eight_frames(tmp_path, store):
    """Unit 2 is frames 16 to 23: chunks 4 and 5; unit 0 is chunks 0 and 1, less relevant."""
    assert chosen(tmp_path, store, PUBLISHED, 2) == (4, 5)
    assert chosen(tmp_path, store, PUBLISHED, 6) == (0, 1, 4, 5)
    # The unit can be another; one that straddles chunks selects all that it touches.
    assert chosen(tmp_path, store, {KEY: [1]}, 6, unit_frames=6) == (1, 2)


def test_a_key_may_leave_the_file_ending_out(tmp_path, store):
    """As LVBench's keys in Video-XL-2's files do."""
    assert chosen(tmp_path, store, {"film_Who opens the door?": [5]}, 1) == (5,)


def test_a_question_that_is_not_there(tmp_path, store):
    selector = load(tmp_path, {KEY: [1]})
    assert selector.knows("x/film.mp4", QUESTION) and not selector.knows("other.mp4", QUESTION)
    with pytest.raises(ValueError, match="no entry 'film.mp4_What else\\?'; .*missing=none"):
        relevance(selector, store, text="What else?")
    lenient = load(tmp_path, {KEY: [1]}, missing="none")
    assert lenient.knows("other.mp4", QUESTION)
    assert relevance(lenient, store, text="What else?").tolist() == [NEVER] * 6


@pytest.mark.parametrize(
    ("entry", "options", "message"),
    [
        ([6], {}, "names number 6, but the video has 6 chunks"),
        ([-1], {}, "names number -1"),
        ([3], {"unit_frames": 8}, "names number 3, but the video has 3 units of 8 frames"),
        ({"relevance": [1, 2]}, {}, "rates 2 chunks, but the video has 6"),
    ],
)
def test_an_entry_of_another_sampling_is_refused(tmp_path, store, entry, options, message):
    with pytest.raises(ValueError, match=f"entry 'film.mp4_Who opens the door\\?' {message}"):
        relevance(load(tmp_path, {KEY: entry}, **options), store)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("{", {}, "is no JSON file"),
        ([1, 2], {}, "must hold an object keyed by video and question"),
        ({KEY: "first"}, {}, "entry 'film.mp4_Who opens the door\\?' must be a list of chunk"),
        ({KEY: [[1, 2, 3]]}, {}, "must be a list of chunk"),
        ({KEY: {"best": [1]}}, {}, "must be a list of chunk"),
        (
            {KEY: {"relevance": [0, float("nan")]}},
            {},
            "opens the door\\?' holds NaN; write a number",
        ),
        ({KEY: [1]}, {"missing": "skip"}, r"selector\.file\.missing='skip': must be one of"),
        ({KEY: [1]}, {"unit_frames": 0}, r"selector\.file\.unit_frames=0: must be a whole number"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, content, options, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, content, **options)


def test_no_file_is_refused():
    with pytest.raises(ValueError, match=r"selector\.file\.path=None: no such file"):
        FileSelector.load()


def test_another_content_is_another_selector(tmp_path):
    """The repr is what tells cells apart."""
    first, second = load(tmp_path, {KEY: [1]}), load(tmp_path, {KEY: [2]})
    assert repr(first) != repr(second) and "found" not in repr(first)
    assert torch.equal(torch.tensor(first.found[KEY]), torch.tensor([1]))
