"""Annotations of where answers lie, in the layout of KFS-Bench's files."""

import math
from dataclasses import replace

import pytest

from tests import layouts
from tests.tiny import frames, ours
from x2l.benchmarks.base import DatasetError
from x2l.benchmarks.evidence_spans import annotated
from x2l.benchmarks.longvideobench import longvideobench
from x2l.benchmarks.videomme import videomme
from x2l.engine.ground_truth import scene_hit

HEAD = "id,segment_id,scene_id,start,end\n"
LINES = (
    HEAD
    + "002-1,1,1,0:09,0:09\n002-1,0,0,0:02,0:04\n002-1,2,1,1:00:05,1:00:06\n003-3,0,0,0:00,0:01\n"
)


def test_only_annotated_questions_are_asked_with_their_spans_in_time_order(tmp_path):
    """An end is the second that it ends in, and segments of one scene stay one scene."""
    (tmp_path / "anno.csv").write_text(LINES)
    root = layouts.videomme(tmp_path)
    mme = videomme(str(root), spans=str(tmp_path / "anno.csv"))
    first, second = mme.samples()
    assert (first.id, second.id, second.row) == ("002-1", "003-3", 8)
    assert first.spans == ((2.0, 5.0), (9.0, 10.0), (3605.0, 3607.0))
    assert first.scenes == ("0", "1", "1") and second.spans == ((0.0, 2.0),)
    whole = videomme(str(root)).samples()
    assert len(whole) == 9 and {sample.spans for sample in whole} == {None}
    assert replace(first, spans=None, scenes=None) == whole[3]


def test_annotated_questions_that_the_set_has_not_are_counted(tmp_path, caplog):
    (tmp_path / "anno.csv").write_text(LINES + "x,0,0,75:10,75:12\n")
    with caplog.at_level("INFO"):
        videomme(str(layouts.videomme(tmp_path)), spans=str(tmp_path / "anno.csv")).samples()
    assert "annotates 2 of 9 questions, and 1 that this set has not; only these are" in caplog.text


def test_longvideobench_goes_by_its_own_ids(tmp_path):
    root = layouts.longvideobench(tmp_path)
    one = longvideobench(str(root)).samples()[1]
    (tmp_path / "anno.csv").write_text(f"{HEAD}{one.id},0,2,0:00:03,0:00:04\n")
    (asked,) = longvideobench(str(root), spans=str(tmp_path / "anno.csv")).samples()
    assert (asked.id, asked.spans, asked.scenes) == (one.id, ((3.0, 5.0),), ("2",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"benchmark\.spans=.*cannot be read"),
        (HEAD, "has no line; must be a CSV file with id, scene_id, start, end"),
        ("id,scene_id,start\n1,0,0:01\n", "has no column end"),
        (HEAD + "002-1,0,0,2,0:04\n", r"anno\.csv:2: start=2: must be m:ss or h:mm:ss"),
        (HEAD + "002-1,0,0,0:05,0:04\n", "2: end=0:04 lies before start=0:05"),
        (
            HEAD + "002-1,0,0,0:05\n",
            r"2: end is missing; must be id, scene_id, start, end; correct",
        ),
        ("id,start,end,scene_id\n002-1,0:01,0:02,1\n002-1,0:01,0:02\n", "3: scene_id is missing"),
        (HEAD + " ,0,0,0:05,0:06\n", "2: id is missing"),
        (HEAD + "002-1,0,0,0:75,1:16\n", "2: start=0:75: must be m:ss"),
        (HEAD + "002-1,0,0,0:05,1:60:00\n", "2: end=1:60:00: must be m:ss or h:mm:ss"),
        (HEAD + "x,0,0,0:05,0:06\n", "annotates none of the 9 questions .its first is 'x'.; give"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "anno.csv").write_text(text)
    samples = videomme(str(layouts.videomme(tmp_path))).samples()
    with pytest.raises(DatasetError, match=message):
        list(annotated(iter(samples), str(tmp_path / "anno.csv")))


def test_a_scene_is_hit_by_any_of_its_parts():
    """Scene a in chunks 0 and 3, b in chunk 1; c lies behind the end of the video and counts for nothing."""
    chunks = ours("qwen2_5_vl").prompt(frames(14), 4).chunks  # 0-3, 4-7, 8-11, 12-13 seconds
    spans, scenes = [(1.0, 2.0), (13.0, 14.0), (5.0, 6.0), (99.0, 100.0)], ["a", "a", "b", "c"]
    for selected, share in (((3,), 0.5), ((0, 3), 0.5), ((1, 3), 1.0), ((2,), 0.0), ((), 0.0)):
        assert scene_hit(chunks, spans, scenes, selected) == share
    assert math.isnan(scene_hit(chunks, spans[3:], scenes[3:], (0,)))
