import math
import random
from itertools import product

import numpy as np
import pytest

from experiments.coverage import simulate
from x2l.analysis.power import bootstrap as cluster_bootstrap
from x2l.analysis.statistics import (
    Outcome,
    accuracy,
    changes,
    circular,
    macro_accuracy,
    macro_difference,
    paired_difference,
)


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
    assert 1.0 <= (found.high - found.low) / (high - low) < 1.25


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
    """It counts videos: as many answers about each as there may be, if all are alike."""
    lows = []
    for questions in (1, 4, 12):
        all_right = [Outcome(f"{v}/{q}", f"v{v}", 1.0) for v in range(16) for q in range(questions)]
        found = accuracy(all_right)
        assert (found.value, found.high) == (1.0, 1.0)
        lows.append(found.low)
    assert lows == pytest.approx([0.025 ** (1 / 16)] * 3)  # Clopper and Pearson's


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_interval_holds_its_value_at_both_ends(value):
    """Rounding must not put an end of the interval on the wrong side of 0 or 1."""
    for videos in range(2, 401):
        found = accuracy([Outcome(str(v), f"v{v}", value) for v in range(videos)])
        assert 0 <= found.low <= found.value <= found.high <= 1


# Hard ones of experiments/coverage: (videos, questions, accuracy, correlation, alike); before, 0.44 to 0.95 held it.
HARD = [
    *((v, (12, 12), 0.95, 0.95, "whole") for v in (12, 16)),
    *((60, (1, 12), 0.98, rho, "spread") for rho in (0.2, 0.5, 0.95)),
    *((200, (12, 12), 0.98, rho, "whole") for rho in (0.5, 0.8)),
    (12, (1, 1), 0.99, 0.0, "spread"),
    (8, (3, 3), 0.8, 0.5, "spread"),
]


@pytest.mark.parametrize("cell", HARD)
def test_the_interval_holds_the_truth_as_often_as_it_says(cell):
    found = simulate.sample(np.random.default_rng(0), 1000, *cell)
    assert simulate.coverage(simulate.accuracy_interval(found), cell[2])[0] >= 0.92


def test_what_is_simulated_is_what_is_computed():
    """The simulation's arrays against the functions over outcomes, answers and changes, even and uneven videos."""
    rng = np.random.default_rng(3)
    for gains, share in product((None, 0.7), (0.05, 0.6, 1.0)):
        found = simulate.sample(rng, 8, 9, (1, 5), share, 0.4, "spread", gains)
        interval = simulate.accuracy_interval if gains is None else simulate.change_interval
        for row, low, high in zip(range(8), *interval(found), strict=True):
            b = []
            for video, (total, hits, count) in enumerate(
                zip(found.sums[row], found.squares[row], found.counts[row], strict=True)
            ):
                up = int(hits + total) // 2  # of changes; all hits of answers
                values = [1] * up + [-1] * int(hits - up) + [0] * int(count - hits)
                b += [Outcome(f"{video}/{n}", str(video), float(v)) for n, v in enumerate(values)]
            if gains is None:
                computed = accuracy(b)
            else:
                a = [Outcome(o.unit, o.video, float(o.value < 0)) for o in b]
                b = [
                    Outcome(o.unit, o.video, float(o.value > 0)) if o.value else x
                    for o, x in zip(b, a, strict=True)
                ]
                computed = paired_difference(a, b)
            assert (computed.low, computed.high) == pytest.approx((max(low, -1), min(high, 1)))


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


def test_an_incomplete_group_is_never_right_even_where_none_is_whole():
    assert circular([*tries("g", 1.0, 1.0, 1.0), *tries("h", 1.0, 0.0)]) == []
    assert [o.value for o in circular(tries("g", 1.0, 1.0), tries=2)] == [1.0]


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
    assert found.low == pytest.approx(low, abs=0.025)
    assert found.high == pytest.approx(high, abs=0.025)
    assert (found.gained, found.lost) == (sum(o.value > 0 for o in changes), 0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spread", [0.0, 0.25])
def test_the_clustered_standard_error_agrees_with_the_bootstrap(seed, spread):
    """Closed form against resampled videos: 60 videos, so the normal interval and the percentiles must meet."""
    outcomes = clustered(videos=60, seed=seed, spread=spread)
    error = accuracy(outcomes).error
    low, high = cluster_bootstrap(outcomes)
    assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.06)
    a, b = outcomes, clustered(videos=60, seed=seed, spread=spread, lift=0.3)
    low, high = cluster_bootstrap(changes(a, b))
    assert (high - low) / (2 * 1.96) == pytest.approx(paired_difference(a, b).error, rel=0.06)


def test_the_design_effect_is_that_of_the_clusters():
    """Videos whose questions are all answered alike carry one answer each: eight questions, effect eight."""
    alike = [Outcome(f"{v}/{q}", f"v{v}", float(v % 2)) for v in range(40) for q in range(8)]
    assert accuracy(alike).design_effect == pytest.approx(8, rel=0.03)
    alone = [Outcome(o.unit, o.unit, o.value) for o in clustered(spread=0)]
    assert accuracy(alone).design_effect == pytest.approx(1, rel=1e-9)


def by_task(outcomes, tasks=3):
    """Unequal tasks: of 8 questions, 5, 2 and 1."""
    found = {f"t{task}": [] for task in range(tasks)}
    for outcome in outcomes:
        number = int(outcome.unit.split("/")[1])
        found["t0" if number < 5 else "t1" if number < 7 else "t2"].append(outcome)
    return found


@pytest.mark.parametrize("seed", range(2))
def test_macro_means_agree_with_a_bootstrap(seed):
    """Videos are drawn again whole, with the questions of all tasks: so a video's tasks vary together."""
    outcomes = clustered(videos=40, seed=seed)
    found = macro_accuracy(by_task(outcomes))
    tasks = by_task(outcomes)
    assert found.value == pytest.approx(sum(mean(t) for t in tasks.values()) / 3)
    assert found.value != pytest.approx(mean(outcomes), abs=1e-4)

    def macro(drawn):
        parts = by_task(drawn)
        return sum(mean(part) for part in parts.values()) / 3

    low, high = bootstrap(macro, by_video(outcomes), draws=2000)
    assert found.low == pytest.approx(low, abs=0.03) and found.high == pytest.approx(high, abs=0.03)
    b = clustered(videos=40, seed=seed, lift=0.3)
    difference = macro_difference(tasks, by_task(b))
    assert difference.value == pytest.approx(macro(b) - macro(outcomes))
    moved = [Outcome(x.unit, x.video, y.value - x.value) for x, y in zip(outcomes, b, strict=True)]
    low, high = bootstrap(macro, by_video(moved), draws=2000)
    assert difference.low == pytest.approx(low, abs=0.03)
    assert difference.high == pytest.approx(high, abs=0.03)


def test_one_task_is_the_micro_mean():
    outcomes = clustered()
    assert macro_accuracy({"t": outcomes}) == accuracy(outcomes)


def test_a_task_without_a_parsed_answer_is_passed_over():
    outcomes = clustered(videos=5)
    found = macro_accuracy({"t": outcomes, "empty": [], "odd": [Outcome("x", "v0", math.nan)]})
    assert found.value == accuracy(outcomes).value and found.unparsed == 1


def test_tasks_that_only_one_side_has_are_left_out():
    a, b = by_task(clustered(videos=5)), by_task(clustered(videos=5, lift=0.5))
    only = macro_difference({"t0": a["t0"], "t1": a["t1"]}, {"t0": b["t0"], "t2": b["t2"]})
    assert only == paired_difference(a["t0"], b["t0"])


def test_p_values_of_no_difference_are_even():
    """Two cells that are equally good: of 400 samples, 5 % below 0.05, whatever the clusters."""
    values = []
    for seed in range(400):
        rng = random.Random(seed)
        a, b = [], []
        for video in range(12):
            lean = rng.gauss(0, 0.3)  # a video may suit one cell better: no difference on the whole
            for question in range(4):
                unit = (f"{video}/{question}", f"v{video}")
                a.append(Outcome(*unit, float(rng.random() < 0.5 + lean / 2)))
                b.append(Outcome(*unit, float(rng.random() < 0.5 - lean / 2)))
        values.append(paired_difference(a, b).p_value)
    assert 0.02 < sum(p < 0.05 for p in values) / 400 < 0.09
    assert 0.42 < sum(p < 0.5 for p in values) / 400 < 0.58


def test_p_values_and_intervals_say_the_same():
    for seed in range(20):
        a, b = clustered(videos=10, seed=seed), clustered(videos=10, seed=seed, lift=0.1)
        found = paired_difference(a, b)
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)


@pytest.mark.parametrize("questions", range(1, 9))
@pytest.mark.parametrize("sign", [1, -1])
def test_they_say_the_same_where_all_videos_change_alike(questions, sign):
    """One of 1, 2, ... questions gained in every video: the test is the interval turned round."""
    for videos in range(2, 40):
        units = [(f"{v}/{q}", f"v{v}") for v in range(videos) for q in range(questions)]
        a = [Outcome(*unit, 0.0) for unit in units]
        b = [Outcome(*unit, float(unit[0].endswith("/0"))) for unit in units]
        found = paired_difference(*((a, b) if sign > 0 else (b, a)))
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0), videos


def test_cells_that_never_differ_may_differ_on_other_videos():
    """No flip: how many videos there are says how much might be; how many questions each has does not."""
    found = {}
    for videos, questions in product((8, 30, 120), (1, 8)):
        outcomes = clustered(videos, questions)
        one = found[videos, questions] = paired_difference(outcomes, outcomes)
        assert (one.value, one.p_value, one.identical) == (0, 1, True)
        assert one.high == -one.low == found[videos, 1].high
    # About two of the videos: t / (videos + 2).
    assert found[30, 1].high == pytest.approx(2.045 / 32, rel=1e-3)


@pytest.mark.parametrize("videos", [8, 24, 60])
def test_identical_answers_do_not_have_the_widest_interval(videos):
    """A flip, or a few videos that change throughout, tell less than none."""
    a = clustered(videos, questions=6)

    def width(flipped):
        b = [Outcome(o.unit, o.video, 1 - o.value if flipped(o) else o.value) for o in a]
        found = paired_difference(a, b)
        return found.high - found.low

    none = width(lambda o: False)
    assert none < width(lambda o: o.unit == "0/0")
    assert none < width(lambda o: o.video == "v0")
    assert none < width(lambda o: o.video in ("v0", "v1", "v2"))


def test_videos_that_all_change_alike_are_no_point():
    """Three videos, one of three answers gained in each: not a certain third."""
    units = [(f"{v}/{q}", f"v{v}") for v in range(3) for q in range(3)]
    a = [Outcome(*unit, 0.0) for unit in units]
    b = [Outcome(*unit, float(unit[0].endswith("0"))) for unit in units]
    found = paired_difference(a, b)
    assert found.value == pytest.approx(1 / 3) and found.low < 0 and found.high > 0.7
    assert 0.1 < found.p_value < 0.5


def test_one_video_tells_nothing_of_a_difference():
    a = [Outcome(str(q), "v", 0.0) for q in range(9)]
    found = paired_difference(a, [Outcome(str(q), "v", 1.0) for q in range(9)])
    assert (found.low, found.high, found.p_value, found.videos) == (-1, 1, 1, 1)
    assert math.isnan(found.error)


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
