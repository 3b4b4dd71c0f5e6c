"""Chunks and levels by rank, by a budget of bytes, and as many bytes as another choice."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from x2l.engine.assignment import by_bytes, by_rank, select, select_bytes

INF = float("inf")
THREE = ("low", "mid", "high")
SIZES = {"low": [320] * 6, "mid": [80] * 6, "high": [20] * 6}
scores = st.lists(
    st.one_of(st.floats(-5, 5), st.sampled_from([INF, -INF])), min_size=1, max_size=12
).map(torch.tensor)


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


def test_nested_in_top_k():
    relevance = torch.rand(9, generator=torch.Generator().manual_seed(0))
    picked = [set(select(relevance, k)) for k in range(10)]
    assert all(a < b for a, b in zip(picked, picked[1:], strict=False))


def test_nan_relevance_is_refused():
    with pytest.raises(ValueError, match="relevance holds NaN"):
        select(torch.tensor([0.0, float("nan")]), 1)


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


def test_matched_bytes_are_half_a_chunk_off_at_most():
    """The last chunk is shorter, as in most videos."""
    generator = torch.Generator().manual_seed(0)
    sizes = [64] * 9 + [24]
    for budget in [*range(0, sum(sizes) + 1, 24)] * 20:
        taken = select_bytes(torch.rand(10, generator=generator), sizes, budget)
        assert abs(sum(sizes[index] for index in taken) - budget) <= 32


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((1, 2), "high low high mid high mid"),
        ((0, 1), "high mid high high high high"),
        ((2, 0), "high low high low high high"),
        ((0, 0), "high high high high high high"),
        ((4, 9), "mid low mid low low low"),
    ],
)
def test_ranks_take_the_levels_in_turn(counts, expected):
    relevance = torch.tensor([0.1, 0.9, 0.2, 0.7, 0.3, 0.5])
    assert by_rank(relevance, counts, THREE) == tuple(expected.split())


def test_always_and_never_and_pinned_stand_outside_the_counts():
    relevance = torch.tensor([0.0, INF, -INF, 0.5, 0.4, -INF])
    assert by_rank(relevance, (1, 1), THREE) == ("high", "low", "high", "low", "mid", "high")
    pinned = by_rank(relevance, (1, 1), THREE, ("first", "last"))
    assert pinned == ("low", "low", "high", "low", "mid", "low")


@given(scores, st.integers(0, 12))
def test_two_levels_are_select(relevance, k):
    k = min(k, len(relevance))
    chosen = select(relevance, k)
    given = by_rank(relevance, (k,), ("low", "high"))
    assert tuple(i for i, level in enumerate(given) if level == "low") == chosen


@given(scores, st.lists(st.integers(0, 5), min_size=2, max_size=2))
def test_no_chunk_is_finer_than_a_more_relevant_one(relevance, counts):
    given = [THREE.index(level) for level in by_rank(relevance, counts, THREE)]
    order = sorted(range(len(given)), key=lambda i: (-relevance[i].item(), i))
    assert [given[i] for i in order] == sorted(given)
    asked = counts[0] + sum(math.isinf(r) and r > 0 for r in relevance.tolist())
    assert given.count(0) <= asked


def test_a_ladder_needs_a_number_for_each_level_but_the_last():
    with pytest.raises(ValueError, match=r"top_k=1\+2: .*levels are low, high, so give 1"):
        by_rank(torch.rand(4), (1, 2), ("low", "high"))


@given(scores, st.integers(0, 3000))
def test_a_budget_is_kept_and_spent(relevance, budget):
    sizes = {name: own[:1] * len(relevance) for name, own in SIZES.items()}
    least = 20 * len(relevance)
    if budget < least:
        with pytest.raises(ValueError, match=f"must be at least {least:,}, what all chunks take"):
            by_bytes(relevance, sizes, budget, THREE)
        return
    given = by_bytes(relevance, sizes, budget, THREE)
    spent = sum(sizes[level][0] for level in given)
    assert spent <= budget
    for index, level in enumerate(given):  # no further step of an allowed chunk fits
        if level != "low" and relevance[index] != -INF:
            finer = THREE[THREE.index(level) - 1]
            assert sizes[finer][0] - sizes[level][0] > budget - spent
        assert level == "high" or relevance[index] != -INF


def test_a_budget_prefers_what_is_worth_most_for_a_byte():
    # log 4 for 60 bytes against log 4 for 240: a chunk becomes low before one of under a quarter of its weight mid.
    relevance = torch.tensor([1.0, 0.24, 0.26, 0.0, 0.0, 0.0])
    steps = [120 + 60, 120 + 120, 120 + 360, 120 + 420]
    found = [by_bytes(relevance, SIZES, budget, THREE)[:3] for budget in steps]
    assert found == [
        ("mid", "high", "high"),
        ("mid", "high", "mid"),
        ("low", "high", "mid"),
        ("low", "mid", "mid"),
    ]


def test_what_is_certain_comes_first_and_pinned_before_all():
    relevance = torch.tensor([9.0, INF, 8.0, -INF, 7.0, 6.0])
    assert by_bytes(relevance, SIZES, 120 + 300, THREE)[1] == "low"
    given = by_bytes(relevance, SIZES, 120 + 300, THREE, ("last",))
    assert given[-1] == "low" and set(given[:-1]) == {"high"}
    with pytest.raises(ValueError, match="must be at least 420, .*with pinned ones at low"):
        by_bytes(relevance, SIZES, 400, THREE, ("last",))


def test_a_short_chunk_that_costs_less_comes_before_a_more_relevant_one():
    sizes = {"low": [100, 100, 10], "high": [10, 10, 1]}
    relevance = torch.tensor([1.0, 0.0, 0.3])
    assert by_bytes(relevance, sizes, 21 + 95, ("low", "high")) == ("high", "high", "low")
    assert by_bytes(relevance, sizes, 21 + 99, ("low", "high")) == ("low", "high", "low")


def test_a_step_that_is_dearer_than_the_next_is_taken_all_the_same():
    sizes = {"low": [100], "mid": [99], "high": [10]}
    assert by_bytes(torch.tensor([1.0]), sizes, 100, THREE) == ("low",)
    free = {"low": [10], "mid": [10], "high": [10]}
    assert by_bytes(torch.tensor([1.0]), free, 10, THREE) == ("low",)
