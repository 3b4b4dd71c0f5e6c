"""From relevance to chunks."""

from dataclasses import replace

import pytest
import torch

from tests.tiny import frames, ours
from x2l.engine.top_k import gt_chunks, select, select_bytes, truth_scores

INF = float("inf")


def test_takes_the_most_relevant_in_time_order():
    assert select(torch.tensor([0.1, 0.9, 0.5, 0.7]), 2) == (1, 3)


def test_ties_go_to_the_earlier_chunk():
    assert select(torch.zeros(5), 2) == (0, 1)


def test_infinities_are_always_and_never():
    relevance = torch.tensor([INF, 0.0, -INF, 1.0])
    assert select(relevance, 0) == (0,)
    assert select(relevance, 4) == (0, 1, 3)


def test_pinned_chunks_come_on_top():
    assert select(torch.tensor([0.0, 3.0, 2.0, 1.0]), 1, ("first", "last")) == (0, 1, 3)
    assert select(torch.full((3,), -INF), 2, ("last",)) == (2,)


def test_gt_takes_as_many_as_the_question_needs():
    relevance = torch.tensor([0.3, 0.2, 0.9, 0.8])
    assert select(relevance, "gt", gt=(0, 1, 3)) == (0, 2, 3)
    with pytest.raises(ValueError, match="top_k=gt: this benchmark"):
        select(relevance, "gt")


def test_nested_in_top_k():
    relevance = torch.rand(9, generator=torch.Generator().manual_seed(0))
    picked = [set(select(relevance, k)) for k in range(10)]
    assert all(a < b for a, b in zip(picked, picked[1:], strict=False))


@pytest.mark.parametrize(
    ("top_k", "pinned", "message"),
    [
        (5, (), "top_k=5: the video has only 4 chunks; use top_k <= 4"),
        (-1, (), "top_k=-1: must be a number of chunks >= 0"),
        ("two", (), "top_k='two'"),
        (1, ("middle",), r"selection.pinned=\['middle'\]: must be among"),
    ],
)
def test_wrong_settings_name_field_value_rule_and_remedy(top_k, pinned, message):
    with pytest.raises(ValueError, match=message):
        select(torch.rand(4), top_k, pinned)


def test_nan_relevance_is_refused():
    with pytest.raises(ValueError, match="relevance holds NaN"):
        select(torch.tensor([0.0, float("nan")]), 1)


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


def test_bytes_are_matched_by_whole_chunks():
    """Equal chunks: exactly as many as the budget holds, in order of relevance."""
    relevance = torch.tensor([0.1, 0.9, 0.5, 0.7, 0.2])
    assert [select_bytes(relevance, [10] * 5, budget) for budget in (0, 10, 30, 50)] == [
        (),
        (1,),
        (1, 2, 3),
        (0, 1, 2, 3, 4),
    ]
    assert select_bytes(relevance, [10] * 5, 24) == (1, 3)
    assert select_bytes(relevance, [10] * 5, 26) == (1, 2, 3)
    assert select_bytes(torch.full((5,), -INF), [10] * 5, 30) == ()


@pytest.mark.parametrize("seed", range(20))
def test_matched_bytes_are_half_a_chunk_off_at_most(seed):
    """The last chunk is shorter, as in most videos."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [64] * 9 + [24]
    for budget in range(0, sum(sizes) + 1, 24):
        taken = select_bytes(torch.rand(10, generator=generator), sizes, budget)
        assert abs(sum(sizes[index] for index in taken) - budget) <= 32
