"""Ground-truth chunks, and how well a choice hits them."""

from dataclasses import replace

import pytest

from tests.tiny import frames, ours
from x2l.engine.ground_truth import gt_chunks, truth_scores


def test_ground_truth_chunks_hold_a_sampled_frame_of_a_span():
    chunks = (
        ours("qwen2_5_vl").prompt(frames(14), 4).chunks
    )  # one frame a second: 0-3, 4-7, 8-11, 12-13
    assert gt_chunks(chunks, [(4.0, 6.0)]) == (1,)
    assert gt_chunks(chunks, [(3.0, 4.0)]) == (0,)
    assert gt_chunks(chunks, [(3.0, 4.5), (13.0, 20.0)]) == (0, 1, 3)
    assert gt_chunks(chunks, [(7.5, 7.5)]) == (1,)  # a point in time


def test_a_span_between_two_sampled_frames_counts_for_the_chunks_it_overlaps():
    """As most spans of five seconds do in an hour seen on 256 frames."""
    video = ours("qwen2_5_vl").prompt(frames(14), 4)
    chunks = video.chunks
    end = chunks[-1].seconds[1]
    assert gt_chunks(chunks, [(3.5, 3.9)]) == (0,)
    assert gt_chunks(chunks, [(3.5, 4.0)]) == (0,)
    assert gt_chunks(chunks, [(1.0, 2.0), (7.2, 7.4)]) == (0, 1)  # each span by itself
    assert gt_chunks(chunks, [(end, end)]) == gt_chunks(chunks, [(end, end + 5)]) == (3,)
    assert gt_chunks(chunks, [(end + 0.1, end + 5)]) == ()
    sparse = [replace(c, frame_seconds=c.frame_seconds[:1]) for c in chunks]
    assert gt_chunks(sparse, [(5.0, 7.0)]) == (1,)
    assert gt_chunks(sparse, [(6.0, 7.9), (9.0, 12.0)]) == (1, 2)
    assert gt_chunks(sparse, [(7.0, 8.0), (7.0, 8.5)]) == (1, 2)  # the second has a frame, at 8


def test_recall_precision_and_hit():
    found = truth_scores((1, 2), (2, 3, 4))
    assert (found.recall, found.precision, found.hit) == (pytest.approx(1 / 3), 0.5, 1.0)
    found = truth_scores((), (1,))
    assert (found.recall, found.hit) == (0, 0) and found.precision != found.precision
    found = truth_scores((1,), ())
    assert found.precision == 0 and found.recall != found.recall and found.hit != found.hit
