"""Accuracy with intervals that respect the video: questions of one video are not independent.

Pure functions over plain values. An unparseable answer is NaN: neither right nor wrong, counted
apart. Source of the variance: the cluster-robust (linearised) estimator of a ratio mean; of the
interval: Korn and Graubard, "Confidence intervals for proportions with small expected number of
positive counts estimated from survey data", Survey Methodology 24, 1998, in Wilson's form.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t as student_t


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


@dataclass(frozen=True)
class Difference:
    """Mean of (b - a) over the units that both have, with its interval."""

    value: float
    low: float
    high: float
    count: int
    videos: int
    gained: int  # wrong in a, right in b
    lost: int


def circular(outcomes: Iterable[tuple[Outcome, str | None]]) -> list[Outcome]:
    """Folds each group of tries into one outcome: right only if every try is right.

    A wrong try makes the group wrong whatever the others are; failing that, an unparsed one makes
    it NaN. Groups with fewer tries than the largest (cut off by a limit, or not yet answered) say
    nothing yet and are left out.

    Args:
        outcomes: (outcome, group); group None = the outcome stands for itself.
    """
    folded: list[Outcome] = []
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome, group in outcomes:
        if group is None:
            folded.append(outcome)
        else:
            groups[group].append(outcome)
    whole = max(map(len, groups.values()), default=0)
    for group, tries in groups.items():
        if len(tries) == whole:
            values = [outcome.value for outcome in tries]
            value = 0.0 if 0.0 in values else min(values, key=lambda x: not math.isnan(x))
            folded.append(Outcome(group, tries[0].video, value))
    return folded


def accuracy(outcomes: Sequence[Outcome], confidence: float = 0.95) -> Accuracy:
    """Share of right answers among the parsed ones, interval clustered by video.

    The clustered variance gives an effective sample size (never above the number of answers),
    which goes into Wilson's interval with the t quantile of videos - 1 degrees of freedom. So the
    interval stays within [0, 1], keeps a width at 0 and 1, and widens when videos are few; a
    single video says nothing about others: [0, 1].

    Args:
        outcomes: one per unit.
        confidence: coverage of the interval.
    """
    parsed = [outcome for outcome in outcomes if not math.isnan(outcome.value)]
    unparsed = len(outcomes) - len(parsed)
    clusters = _by_video(parsed)
    count, videos = len(parsed), len(clusters)
    if count == 0:
        return Accuracy(math.nan, 0.0, 1.0, 0, 0, unparsed)
    mean = sum(outcome.value for outcome in parsed) / count
    if videos < 2:
        return Accuracy(mean, 0.0, 1.0, count, videos, unparsed)
    simple = mean * (1 - mean)
    clustered = _clustered_variance(clusters, mean, count)
    effective = count if min(simple, clustered) <= 0 else min(count, simple / clustered)
    low, high = _wilson(mean, effective, float(student_t.ppf(0.5 + confidence / 2, videos - 1)))
    return Accuracy(mean, low, high, count, videos, unparsed)


def paired_difference(
    a: Sequence[Outcome], b: Sequence[Outcome], confidence: float = 0.95
) -> Difference:
    """Accuracy of b minus accuracy of a on the same units, interval clustered by video.

    Units that only one side has, or that one side could not parse, are left out.

    Raises:
        ValueError: a or b holds a unit twice (cells were mixed), or they have no parsed unit in common.
    """
    for side, outcomes in (("a", a), ("b", b)):
        if len({outcome.unit for outcome in outcomes}) < len(outcomes):
            raise ValueError(f"paired_difference: {side} holds a unit twice; give one cell a side")
    first = {outcome.unit: outcome for outcome in a if not math.isnan(outcome.value)}
    pairs = [
        (first[outcome.unit].value, outcome)
        for outcome in b
        if outcome.unit in first and not math.isnan(outcome.value)
    ]
    if not pairs:
        raise ValueError("paired_difference: a and b share no parsed unit; compare one benchmark")
    changes = [Outcome(now.unit, now.video, now.value - before) for before, now in pairs]
    clusters = _by_video(changes)
    count, videos = len(changes), len(clusters)
    mean = sum(change.value for change in changes) / count
    gained = sum(change.value > 0 for change in changes)
    lost = sum(change.value < 0 for change in changes)
    if videos < 2:
        return Difference(mean, -1.0, 1.0, count, videos, gained, lost)
    error = math.sqrt(_clustered_variance(clusters, mean, count))
    half = error * float(student_t.ppf(0.5 + confidence / 2, videos - 1))
    return Difference(
        mean, max(-1.0, mean - half), min(1.0, mean + half), count, videos, gained, lost
    )


def _wilson(mean: float, count: float, quantile: float) -> tuple[float, float]:
    square = quantile**2 / count
    centre = (mean + square / 2) / (1 + square)
    half = quantile / (1 + square) * math.sqrt(mean * (1 - mean) / count + square / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def _by_video(outcomes: Iterable[Outcome]) -> Mapping[Hashable, list[float]]:
    clusters: dict[Hashable, list[float]] = defaultdict(list)
    for outcome in outcomes:
        clusters[outcome.video].append(outcome.value)
    return clusters


def _clustered_variance(clusters: Mapping[Hashable, list[float]], mean: float, count: int) -> float:
    """Variance of the mean; the residuals of a video are summed before they are squared."""
    videos = len(clusters)
    squares = math.fsum(
        math.fsum(value - mean for value in values) ** 2 for values in clusters.values()
    )
    return videos / (videos - 1) * squares / count**2
