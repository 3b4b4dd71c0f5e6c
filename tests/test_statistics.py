import math
import random

import pytest

from x2l.statistics import Outcome, accuracy, circular, paired_difference


def clustered(videos=30, questions=8, spread=0.25, seed=0, lift=0.0):
    """Outcomes of videos that differ in difficulty; `lift` moves some wrong ones to right."""
    rng = random.Random(seed)
    found = []
    for video in range(videos):
        chance = min(0.97, max(0.03, 0.6 + rng.gauss(0, spread)))
        for question in range(questions):
            draw, second = rng.random(), rng.random()
            value = float(draw < chance or second < lift)
            found.append(Outcome(f"{video}/{question}", f"v{video}", value))
    return found


def bootstrap(statistic, videos, draws=4000):
    """2.5 % and 97.5 % percentiles of a statistic when whole videos are drawn again."""
    rng = random.Random(1)
    names = sorted(videos)
    values = sorted(
        statistic([o for name in rng.choices(names, k=len(names)) for o in videos[name]])
        for _ in range(draws)
    )
    return values[int(0.025 * draws)], values[int(0.975 * draws)]


def by_video(outcomes):
    videos = {}
    for outcome in outcomes:
        videos.setdefault(outcome.video, []).append(outcome)
    return videos


def mean(outcomes):
    return sum(o.value for o in outcomes) / len(outcomes)


@pytest.mark.parametrize("seed", range(4))
def test_interval_agrees_with_a_bootstrap_over_videos(seed):
    outcomes = clustered(seed=seed)
    found = accuracy(outcomes)
    low, high = bootstrap(mean, by_video(outcomes))
    assert found.value == pytest.approx(mean(outcomes))
    # The t quantile makes it a little wider than the bootstrap, never much.
    assert found.low == pytest.approx(low, abs=0.025)
    assert found.high == pytest.approx(high, abs=0.025)
    assert 1.0 <= (found.high - found.low) / (high - low) < 1.2


def test_clustering_widens_the_interval():
    outcomes = clustered(spread=0.4)
    alone = [Outcome(o.unit, o.unit, o.value) for o in outcomes]
    widths = [found.high - found.low for found in (accuracy(outcomes), accuracy(alone))]
    assert widths[0] > 1.3 * widths[1]


def test_coverage_with_few_videos():
    """Of many samples of 8 videos the interval must hold the truth about 95 times in 100."""
    hits, rounds = 0, 400
    for seed in range(rounds):
        rng = random.Random(seed)
        outcomes = []
        for video in range(8):
            chance = rng.choice((0.3, 0.6, 0.9))
            outcomes += [
                Outcome(f"{video}/{q}", f"v{video}", float(rng.random() < chance)) for q in range(6)
            ]
        found = accuracy(outcomes)
        hits += found.low <= 0.6 <= found.high
    assert 0.93 <= hits / rounds <= 0.995


def test_all_right_is_not_certain():
    found = accuracy([Outcome(f"{v}/{q}", f"v{v}", 1.0) for v in range(10) for q in range(4)])
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.8 < found.low < 0.95


def test_one_video_says_nothing_about_others():
    found = accuracy([Outcome(str(q), "v", float(q % 2)) for q in range(20)])
    assert (found.low, found.high, found.videos) == (0.0, 1.0, 1)


def test_unparsed_answers_are_counted_apart():
    outcomes = clustered(videos=5)
    found = accuracy([*outcomes, Outcome("x", "v0", math.nan), Outcome("y", "v1", math.nan)])
    assert (found.unparsed, found.count) == (2, len(outcomes))
    assert found.value == accuracy(outcomes).value


def test_nothing_parsed():
    found = accuracy([Outcome("x", "v", math.nan)])
    assert math.isnan(found.value) and (found.count, found.unparsed) == (0, 1)
    assert (found.low, found.high) == (0.0, 1.0)


def tries(group, *values):
    return [(Outcome(f"{group}/{i}", "v", value), group) for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1, 1, 1, 1), 1.0),
        ((1, 1, 1, 0), 0.0),
        ((1, math.nan, 1, 1), math.nan),
        ((1, math.nan, 0, 1), 0.0),
    ],
)
def test_a_group_is_right_only_if_all_its_tries_are(values, expected):
    (folded,) = circular(tries("g", *map(float, values)))
    assert folded.value == pytest.approx(expected, nan_ok=True)
    assert (folded.unit, folded.video) == ("g", "v")


def test_groups_that_were_cut_off_say_nothing():
    folded = circular([*tries("g", 1.0, 1.0, 1.0, 1.0), *tries("h", 1.0, 1.0)])
    assert [outcome.unit for outcome in folded] == ["g"]


def test_without_groups_outcomes_stand_alone():
    outcomes = clustered(videos=2)
    assert circular((outcome, None) for outcome in outcomes) == outcomes


@pytest.mark.parametrize("seed", range(3))
def test_paired_difference_agrees_with_a_bootstrap(seed):
    a, b = clustered(seed=seed), clustered(seed=seed, lift=0.3)
    found = paired_difference(a, b)
    changes = [Outcome(x.unit, x.video, y.value - x.value) for x, y in zip(a, b, strict=True)]
    low, high = bootstrap(mean, by_video(changes))
    assert found.value == pytest.approx(mean(b) - mean(a))
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)
    assert (found.gained, found.lost) == (sum(o.value > 0 for o in changes), 0)


def test_pairing_is_by_unit_and_parsed_on_both_sides():
    a = [Outcome("1", "v", 0.0), Outcome("2", "w", 1.0), Outcome("3", "w", math.nan)]
    b = [Outcome("3", "w", 1.0), Outcome("2", "w", 0.0), Outcome("1", "v", 1.0)]
    found = paired_difference(a, b)
    assert (found.count, found.value, found.gained, found.lost) == (2, 0.0, 1, 1)


def test_no_common_unit_is_an_error():
    with pytest.raises(ValueError, match="share no parsed unit"):
        paired_difference([Outcome("1", "v", 0.0)], [Outcome("2", "v", 0.0)])


def test_a_pair_of_mixed_cells_is_refused():
    one = [Outcome("q", "v", 1.0)]
    with pytest.raises(ValueError, match="b holds a unit twice; give one cell a side"):
        paired_difference(one, [*one, Outcome("q", "v", 0.0)])
