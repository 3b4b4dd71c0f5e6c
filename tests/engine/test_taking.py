"""Taking rules: each by hand, and every one of them with every form of top_k."""

import math

import pytest
import torch

from tests.selectors.stores import store_of
from x2l.engine.assignment import assigned, by_rank
from x2l.engine.taking import (
    NAMES,
    AdaptiveSplit,
    Gap,
    Gumbel,
    InverseTransform,
    Mass,
    Top,
    left_out,
    scaled_scores,
    taking_rule,
)

FLAT = [0.5] * 8
ONE_PEAK = [0.0, 0.1, 0.0, 0.1, 1.0, 0.1, 0.0, 0.1]
SLOPE = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]


def test_top_takes_the_best_and_of_equals_the_earlier():
    assert Top().take([0.1, 0.9, 0.9, 0.2], 2, "") == [1, 2]
    assert Top().take(FLAT, 3, "") == [0, 1, 2]


def test_aks_spreads_over_halves_unless_the_best_stand_out():
    assert sorted(AdaptiveSplit().take(SLOPE, 2, "")) == [0, 4]  # nothing stands out: one a half
    assert sorted(AdaptiveSplit().take(SLOPE, 4, "")) == [0, 2, 4, 6]
    peaks = [0.0, 0.0, 1.0, 0.9, 0.0, 0.0, 0.0, 0.0]
    assert sorted(AdaptiveSplit(0.7).take(peaks, 2, "")) == [2, 3]  # mean of best .95, of all .24
    assert sorted(AdaptiveSplit(0.8).take(peaks, 2, "")) == [2, 4]
    assert AdaptiveSplit().take(SLOPE, 1, "") == [0]  # half of one is none


def test_aks_gives_as_many_as_are_wanted():
    """Three of two halves: one each, and the best of the rest."""
    assert sorted(AdaptiveSplit().take(SLOPE, 3, "")) == [0, 1, 4]


def test_inverse_transform_takes_even_quantiles():
    """Masses 8 to 1, shifted to 7 to 0: sums 7 13 18 22 25 27 28 28; quantiles at 3.5, 10.5, 17.5, 24.5 of 28."""
    assert sorted(InverseTransform(1.0).take(SLOPE, 4, "")) == [0, 1, 2, 4]
    assert sorted(InverseTransform().take(FLAT, 4, "")) == [1, 3, 5, 7]
    assert sorted(InverseTransform().take(ONE_PEAK, 2, "")) == [
        1,
        4,
    ]  # both on the peak; the next best fills up
    assert sorted(InverseTransform(9.0).take(SLOPE, 2, "")) == [0, 1]


def test_mass_takes_the_fewest_that_hold_a_share():
    assert Mass(0.5).take([0.0, 3.0, 1.0, 2.0], 3, "") == [1]  # 3 of 6
    assert Mass(0.6).take([0.0, 3.0, 1.0, 2.0], 3, "") == [1, 3]
    assert Mass(1.0).take([0.0, 3.0, 1.0, 2.0], 2, "") == [1, 3]  # no more than wanted
    assert Mass(0.5).take(FLAT, 6, "") == [0, 1, 2, 3]


def test_gap_takes_those_above_the_largest_drop():
    assert Gap().take([0.1, 0.9, 0.8, 0.2], 3, "") == [1, 2]
    assert Gap().take([0.1, 0.9, 0.8, 0.2], 1, "") == [1]
    assert Gap().take([0.3, 0.3, 0.3, 0.3], 3, "") == [0]


def test_gumbel_draws_by_softmax_and_adds_more_to_fewer():
    scores = [1.0, 0.0, -1.0]
    spread = math.sqrt(2 / 3)
    weights = [math.exp(s / spread / 0.8) for s in scores]
    draws = [Gumbel().take(scores, 1, f"q{n}")[0] for n in range(2000)]
    for index, weight in enumerate(weights):
        share = weight / sum(weights)
        error = 4 * math.sqrt(share * (1 - share) / 2000)
        assert draws.count(index) / 2000 == pytest.approx(share, abs=error)
    rule = Gumbel(seed=3)
    assert [rule.take(SLOPE, k, "q")[:2] for k in (2, 5)] == [rule.take(SLOPE, 2, "q")] * 2
    assert len({tuple(Gumbel(seed=s).take(SLOPE, 4, "q")) for s in range(5)}) > 1
    assert Gumbel(temperature=1e-6).take(SLOPE, 3, "q") == [0, 1, 2]


def test_what_is_not_the_rules_matter_is_left_alone():
    relevance = [math.inf, 0.1, -math.inf, 0.9, 0.5, 0.4]
    assert left_out(relevance, Top(), 1, (), "") == [1, 4, 5]
    assert left_out(relevance, Top(), 1, (3,), "") == [1, 5]
    assert left_out(relevance, Top(), 0, (), "") == left_out(relevance, Top(), 4, (), "") == []


@pytest.mark.parametrize(
    "text",
    ["top", "aks", "aks:0.5", "inverse_transform:2", "mass:0.9", "gap", "gumbel", "gumbel:2"],
)
def test_rules_by_their_names(text):
    rule = taking_rule(text, seed=5)
    assert rule == taking_rule(text, seed=5)
    assert (rule != taking_rule(text, seed=6)) == text.startswith("gumbel")
    assert taking_rule("mass") == Mass(0.5) and taking_rule("gumbel:2", 1) == Gumbel(2.0, 1)


@pytest.mark.parametrize(
    "text",
    [
        "best",
        "top:1",
        "gap:2",
        "mass:0",
        "mass:1.5",
        "aks:-1",
        "gumbel:0",
        "gumbel:x",
        "mass:",
        "mass:nan",
    ],
)
def test_what_is_no_rule_is_one_line(text):
    with pytest.raises(ValueError, match=rf"selection\.taking={text}: .*must be"):
        taking_rule(text)


RULES = [taking_rule(name, 1) for name in NAMES]
RELEVANCE = torch.tensor([0.2, 0.9, 0.4, 0.8])


@pytest.mark.parametrize("top_k", [0, 1, 3, 4, "gt", "30%", "60%"])
@pytest.mark.parametrize("pinned", [(), ("last",)])
@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_every_rule_with_every_top_k(rule, pinned, top_k):
    store = store_of("qwen2_5_vl")
    full = 10 * store.nbytes("low")[0]
    plain = assigned(RELEVANCE, top_k, store, full, pinned, (1, 2))
    taken = assigned(RELEVANCE, top_k, store, full, pinned, (1, 2), rule, "q")
    assert taken == assigned(RELEVANCE, top_k, store, full, pinned, (1, 2), rule, "q")
    count = taken.count("low")
    assert count <= plain.count("low") and (not pinned or taken[-1] == "low")
    if rule not in (Mass(), Gap()):
        assert count == plain.count("low")
    if isinstance(rule, Top):
        assert taken == plain


def test_a_ladder_goes_by_relevance_among_those_taken():
    """Four of eight spread over quarters, the best of them finest."""
    levels = ("low", "mid", "high")
    relevance = torch.tensor(SLOPE)
    left = relevance.clone()
    left[left_out(SLOPE, AdaptiveSplit(), 4, (), "")] = -math.inf
    assert by_rank(left, (1, 3), levels) == (
        "low",
        "high",
        "mid",
        "high",
        "mid",
        "high",
        "mid",
        "high",
    )


def test_scaled_scores():
    assert scaled_scores([2.0, 4.0, 3.0]) == [0.0, 1.0, 0.5]
    assert scaled_scores([2.0, 2.0]) == [1.0, 1.0]


def test_of_a_budget_a_rule_takes_as_many_as_the_best_would_be():
    store, relevance = store_of("qwen2_5_vl"), torch.tensor([0.9, 0.8, 0.1, 0.0])
    low, high = store.nbytes("low"), store.nbytes("high")
    full = 10 * (store.prefix.nbytes + 2 * low[0] + high[0] + high[3])  # two whole chunks
    plain = assigned(relevance, "10%", store, full)
    spread = assigned(relevance, "10%", store, full, taking=AdaptiveSplit())
    assert [plain.count("low"), spread.count("low")] == [2, 2]
    assert plain[:2] == ("low", "low") and spread[0] == spread[2] == "low"
