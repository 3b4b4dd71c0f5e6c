"""From relevance to chunks."""

import pytest
import torch

from tests.tiny import frames, ours
from x2l.selection import gt_chunks, recall_precision, select

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
    assert gt_chunks(chunks, [(3.5, 4.0)]) == ()  # no frame was sampled in there
    assert gt_chunks(chunks, [(3.0, 4.5), (13.0, 20.0)]) == (0, 1, 3)
    assert gt_chunks(chunks, [(7.5, 7.5)]) == (1,)  # a point in time


def test_recall_and_precision():
    assert recall_precision((1, 2), (2, 3, 4)) == (pytest.approx(1 / 3), 0.5)
    recall, precision = recall_precision((), (1,))
    assert recall == 0 and precision != precision
