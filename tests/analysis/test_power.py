import math
import random

import pytest

from x2l.analysis.power import bootstrap, holm, videos_needed
from x2l.analysis.statistics import Outcome, paired_difference


def test_holm_by_hand():
    """Four tests: the smallest is multiplied by 4, the next by 3, ...; never below one before it, never above 1."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == [0.02] and holm([]) == []


def test_holm_keeps_the_chance_of_any_false_finding():
    rng = random.Random(0)
    families = [[rng.random() for _ in range(20)] for _ in range(2000)]
    assert sum(min(family) < 0.05 for family in families) > 1000  # without it
    assert 0.035 < sum(min(holm(family)) < 0.05 for family in families) / 2000 < 0.065


def pairs(rng, videos, lift, questions=4, spread=0.3):
    """Two cells on clustered videos, of which b is better by `lift` on the whole."""
    a, b = [], []
    for video in range(videos):
        lean = rng.gauss(0, spread)
        for question in range(questions):
            unit = (f"{video}/{question}", f"v{video}")
            first, second = rng.random(), rng.random()
            a.append(Outcome(*unit, float(first < 0.5 - lift / 2 - lean / 2)))
            b.append(Outcome(*unit, float(second < 0.5 + lift / 2 + lean / 2)))
    return a, b


def test_the_videos_it_asks_for_find_the_difference_as_often_as_it_says():
    """Power by simulation: 80 % of samples of that size, 4 standard deviations of 400 are 8 points."""
    rng = random.Random(1)
    seen = paired_difference(*pairs(rng, 2000, 0.0))
    needed = videos_needed(seen, 0.15)
    assert 40 < needed < 120
    found = 0
    for _ in range(400):
        one = paired_difference(*pairs(rng, needed, 0.15))
        found += one.p_value < 0.05 and one.value > 0
    assert 0.72 < found / 400 < 0.88


def test_more_videos_for_less_difference_more_power_or_more_clustering():
    rng = random.Random(2)
    seen = paired_difference(*pairs(rng, 500, 0.0))
    base = videos_needed(seen, 0.05)
    assert videos_needed(seen, 0.1) < base / 3.5
    assert videos_needed(seen, 0.05, power=0.95) > base
    assert videos_needed(seen, 0.05, confidence=0.99) > base
    clumped = paired_difference(*pairs(rng, 500, 0.0, spread=0.8))
    assert clumped.design_effect > seen.design_effect > 1.1
    assert videos_needed(clumped, 0.05) > base


def test_it_follows_the_normal_formula_where_videos_are_many():
    seen = paired_difference(*pairs(random.Random(3), 400, 0.0))
    spread = seen.error * math.sqrt(seen.videos)
    assert videos_needed(seen, 0.01) == pytest.approx(
        ((1.96 + 0.8416) * spread / 0.01) ** 2, rel=0.01
    )


def test_without_a_spread_nothing_can_be_said():
    units = [Outcome(str(n), f"v{n}", 1.0) for n in range(5)]
    assert videos_needed(paired_difference(units, units), 0.05) is None
    assert videos_needed(paired_difference(units[:1], units[:1]), 0.05) is None
    with pytest.raises(ValueError, match="difference=0: must be above 0"):
        videos_needed(paired_difference(units, units), 0)


def test_the_bootstrap_draws_whole_videos():
    """Eight equal answers a video are worth one: the interval is that of forty answers, not of 320."""
    alike = [Outcome(f"{v}/{q}", f"v{v}", float(v % 2)) for v in range(40) for q in range(8)]
    one = [Outcome(f"{v}", f"v{v}", float(v % 2)) for v in range(40)]
    assert bootstrap(alike) == pytest.approx(bootstrap(one))
    assert all(map(math.isnan, bootstrap(one[:1])))
