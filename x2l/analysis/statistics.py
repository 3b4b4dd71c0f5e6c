"""Accuracy and paired differences that respect the video: questions of one video are not independent.

Pure functions over plain values. An unparseable answer is NaN: neither right nor wrong, counted
apart. Source of the variance: the cluster-robust (linearised) estimator of a ratio mean; of the
interval: Korn and Graubard, "Confidence intervals for proportions with small expected number of
positive counts estimated from survey data", Survey Methodology 24, 1998, in Wilson's form.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t as student_t

ROUNDING = 1e-12  # standard errors below this are zero: all videos agree
TRIES = 4  # of a circular question, in VNBench and in needle


@dataclass(frozen=True)
class Outcome:
    """One scored answer: 1, 0 or NaN, with the unit it is scored in and the video it is from."""

    unit: str  # sample id, or the group of a circular question
    video: str
    value: float


@dataclass(frozen=True)
class Accuracy:
    """Mean of the parsed outcomes with its interval."""

    value: float  # NaN when nothing was parsed
    low: float
    high: float
    count: int  # parsed units
    videos: int
    unparsed: int
    error: float  # clustered standard error; NaN with fewer than two videos
    design_effect: float  # clustered variance over that of independent answers; NaN as well


@dataclass(frozen=True)
class Difference:
    """Mean of (b - a) over the units that both have, with its interval."""

    value: float
    low: float
    high: float
    count: int
    videos: int
    gained: int  # wrong in a, right in b
    lost: int  # right in a, wrong in b
    error: float  # clustered standard error; NaN with fewer than two videos
    design_effect: float  # clustered variance over that of independent pairs; NaN as well
    p_value: float  # two-sided, of no difference


def circular(outcomes: Iterable[tuple[Outcome, str | None]], tries: int = TRIES) -> list[Outcome]:
    """Folds each group of tries into one outcome: right only if every try is right.

    A wrong try makes the group wrong whatever the others are; failing that, an unparsed one makes
    it NaN. Groups with fewer than `tries` (cut off by a limit, not yet answered, or with one left out) say
    nothing and are left out.

    Args:
        outcomes: (outcome, group); group None = the outcome stands for itself.
        tries: of a whole group.
    """
    folded: list[Outcome] = []
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome, group in outcomes:
        if group is None:
            folded.append(outcome)
        else:
            groups[group].append(outcome)
    for group, members in groups.items():
        if len(members) >= tries:
            values = [outcome.value for outcome in members]
            value = 0.0 if 0.0 in values else min(values, key=lambda x: not math.isnan(x))
            folded.append(Outcome(group, members[0].video, value))
    return folded


def accuracy(outcomes: Sequence[Outcome], confidence: float = 0.95) -> Accuracy:
    """Share of right answers among the parsed ones (the micro mean), interval clustered by video.

    The clustered variance gives an effective sample size (never above the number of answers),
    which goes into Wilson's interval with the t quantile of videos - 1 degrees of freedom. So the
    interval stays within [0, 1], keeps a width at 0 and 1, and widens when videos are few; a
    single video says nothing about others: [0, 1].

    Args:
        outcomes: one per unit.
        confidence: coverage of the interval.
    """
    return macro_accuracy({"all": outcomes}, confidence)


def macro_accuracy(by_task: Mapping[str, Sequence[Outcome]], confidence: float = 0.95) -> Accuracy:
    """Mean of the tasks' accuracies: every task counts alike, however many questions it has.

    A video may have questions of several tasks; it is one cluster for all of them.

    Args:
        by_task: outcomes of each task; a task without a parsed one is passed over.
        confidence: coverage of the interval.
    """
    unparsed = sum(math.isnan(o.value) for outcomes in by_task.values() for o in outcomes)
    parsed = [[o for o in outcomes if not math.isnan(o.value)] for outcomes in by_task.values()]
    estimate = _estimate([outcomes for outcomes in parsed if outcomes])
    if estimate.count == 0:
        return Accuracy(math.nan, 0.0, 1.0, 0, 0, unparsed, math.nan, math.nan)
    mean = estimate.value
    if estimate.videos < 2:
        return Accuracy(
            mean, 0.0, 1.0, estimate.count, estimate.videos, unparsed, math.nan, math.nan
        )
    simple = mean * (1 - mean)
    exact = min(simple, estimate.variance) <= 0
    effective = estimate.count if exact else min(estimate.count, simple / estimate.variance)
    low, high = _wilson(mean, effective, quantile(confidence, estimate.videos))
    return Accuracy(
        mean,
        low,
        high,
        estimate.count,
        estimate.videos,
        unparsed,
        math.sqrt(estimate.variance),
        estimate.design_effect,
    )


def paired_difference(
    a: Sequence[Outcome], b: Sequence[Outcome], confidence: float = 0.95
) -> Difference:
    """Accuracy of b minus accuracy of a on the same units, interval clustered by video.

    Where all videos change alike (not at all, say), the interval is that of a zero numerator, not a point.
    Units that only one side has, or that one side could not parse, are left out.

    Raises:
        ValueError: a or b holds a unit twice (cells were mixed), or they have no parsed unit in common.
    """
    return macro_difference({"all": a}, {"all": b}, confidence)


def macro_difference(
    a: Mapping[str, Sequence[Outcome]],
    b: Mapping[str, Sequence[Outcome]],
    confidence: float = 0.95,
) -> Difference:
    """Mean over tasks of the paired difference, b minus a, interval clustered by video.

    Tasks without a common unit are passed over.

    Raises:
        ValueError: see `paired_difference`.
    """
    shared = [changes(a[task], b[task]) for task in a if task in b]
    shared = [of_task for of_task in shared if of_task]
    if not shared:
        raise ValueError("paired_difference: a and b share no parsed unit; compare one benchmark")
    estimate = _estimate(shared)
    gained = sum(change.value > 0 for of_task in shared for change in of_task)
    lost = sum(change.value < 0 for of_task in shared for change in of_task)
    mean, count, videos = estimate.value, estimate.count, estimate.videos
    if videos < 2:
        nan = math.nan
        return Difference(mean, -1.0, 1.0, count, videos, gained, lost, nan, nan, 1.0)
    error = math.sqrt(estimate.variance)
    below = above = error * quantile(confidence, videos)
    if error < ROUNDING:
        # No video differs from the others, so there is no spread to go by; but of videos like these, a share of
        # up to `other` might (the rule of three), and change by anything.
        other = 1 - (1 - confidence) ** (1 / videos)
        below, above = other * (1 + mean), other * (1 - mean)
    return Difference(
        mean,
        max(-1.0, mean - below),
        min(1.0, mean + above),
        count,
        videos,
        gained,
        lost,
        error,
        estimate.design_effect,
        _p_value(mean, error, videos),
    )


def changes(a: Sequence[Outcome], b: Sequence[Outcome]) -> list[Outcome]:
    """What b has over a, unit by unit, of the units that both have parsed.

    Raises:
        ValueError: a or b holds a unit twice (cells were mixed).
    """
    for side, outcomes in (("a", a), ("b", b)):
        if len({outcome.unit for outcome in outcomes}) < len(outcomes):
            raise ValueError(f"paired_difference: {side} holds a unit twice; give one cell a side")
    first = {outcome.unit: outcome.value for outcome in a if not math.isnan(outcome.value)}
    return [
        Outcome(now.unit, now.video, now.value - first[now.unit])
        for now in b
        if now.unit in first and not math.isnan(now.value)
    ]


@dataclass(frozen=True)
class _Estimate:
    """A mean over tasks of means over units, with its variance by clusters."""

    value: float
    variance: float
    count: int
    videos: int
    design_effect: float


def _estimate(by_task: Sequence[Sequence[Outcome]]) -> _Estimate:
    """The linearised variance: a video's part in every task's mean is summed before it is squared."""
    count = sum(map(len, by_task))
    if count == 0:
        return _Estimate(math.nan, math.nan, 0, 0, math.nan)
    parts: dict[str, list[float]] = defaultdict(list)
    means, simple = [], 0.0
    for outcomes in by_task:
        mean = math.fsum(outcome.value for outcome in outcomes) / len(outcomes)
        means.append(mean)
        for outcome in outcomes:
            part = (outcome.value - mean) / len(outcomes) / len(by_task)
            parts[outcome.video].append(part)
            simple += part**2
    videos = len(parts)
    if videos < 2:
        return _Estimate(math.fsum(means) / len(means), math.nan, count, videos, math.nan)
    squares = math.fsum(math.fsum(of_video) ** 2 for of_video in parts.values())
    variance = videos / (videos - 1) * squares
    simple *= count / max(1, count - 1)
    effect = variance / simple if simple > 0 else math.nan
    return _Estimate(math.fsum(means) / len(means), variance, count, videos, effect)


def quantile(confidence: float, videos: int) -> float:
    """How many standard errors a two-sided interval over videos reaches."""
    return float(student_t.ppf(0.5 + confidence / 2, videos - 1))


def _p_value(mean: float, error: float, videos: int) -> float:
    """Of the t test over videos; where every video changed by the same, the level whose interval ends at zero."""
    if error < ROUNDING:
        # mean = other * (1 + mean) with other = 1 - p ** (1 / videos), see `macro_difference`.
        return float((1 / (1 + abs(mean))) ** videos)
    return float(2 * student_t.sf(abs(mean) / error, videos - 1))


def _wilson(mean: float, count: float, quantile: float) -> tuple[float, float]:
    square = quantile**2 / count
    centre = (mean + square / 2) / (1 + square)
    half = quantile / (1 + square) * math.sqrt(mean * (1 - mean) / count + square / (4 * count))
    # At 0 and 1 an end is the mean itself; rounding must not put it on the other side.
    return max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))
