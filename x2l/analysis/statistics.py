"""Accuracy and paired differences that respect the video: questions of one video are not independent.

Pure functions over plain values. An unparseable answer is NaN: neither right nor wrong, counted
apart. Source of the variance: the cluster-robust (linearised) estimator of a ratio mean; of the
interval: Korn and Graubard, "Confidence intervals for proportions with small expected number of
positive counts estimated from survey data", Survey Methodology 24, 1998. Where few videos hold any
other answer than the usual one, the sample says little of how alike a video's answers are; the variance is
then drawn towards that of videos whose answers are all alike. The coverage of both intervals is simulated in
experiments/coverage/simulate.py.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, stdtr, stdtrit  # scipy.stats takes a second to import

ROUNDING = 1e-12  # standard errors below this are zero: all videos agree
# Belief that a video's answers, or their changes, are all alike: gone by half with so many videos more that show one.
ANSWERS_ALIKE, CHANGES_ALIKE = 8.0, 2.0  # about the least that covers, see the simulation
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

    @property
    def identical(self) -> bool:
        """Whether no unit changed; the interval then says how much might on other videos."""
        return self.gained == self.lost == 0


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

    The variance gives an effective sample size (never above the number of answers), which goes into the exact
    binomial interval. So the interval stays within [0, 1], and widens when videos are few. Where all answers are
    right it counts videos, not answers; a single video says nothing about others: [0, 1].

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
    low, high = map(
        float,
        binomial_interval(mean, 1 / estimate.scale(ANSWERS_ALIKE)[0], confidence),
    )
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

    Where few videos change, the interval allows for about one more that does: a pair without a flip has one, too, which
    counts videos.
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
    scale, belief = estimate.scale(CHANGES_ALIKE)
    error = float(change_error(scale, belief, estimate.unit_variance, videos))
    reach = error * quantile(confidence, videos)
    return Difference(
        mean,
        max(-1.0, mean - reach),
        min(1.0, mean + reach),
        count,
        videos,
        gained,
        lost,
        math.sqrt(estimate.variance),
        estimate.design_effect,
        float(2 * stdtr(videos - 1, -abs(mean) / error)),
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
    """A mean over tasks of means over units, with its variance by clusters.

    Attributes:
        variance: of the mean, by clusters.
        unit_variance: of one unit's value.
        count: units.
        answers: units, less where their weights are uneven (1 / sum of squared weights).
        alike: the same of videos: what all answers are worth if those of a video are all alike.
        mixed: videos with any other value than the one that most videos hold throughout.
    """

    value: float
    variance: float
    count: int
    videos: int
    design_effect: float
    unit_variance: float = math.nan
    answers: float = math.nan
    alike: float = math.nan
    mixed: int = 0

    def scale(self, prior: float) -> tuple[float, float]:
        """Drawn variance of the mean, of that of one unit; and the belief in it, see `drawn`."""
        ratio = self.variance / self.unit_variance if self.unit_variance > 0 else 0.0
        scale, belief = drawn(ratio, self.answers, self.alike, self.mixed, self.videos, prior)
        return float(scale), float(belief)


def _estimate(by_task: Sequence[Sequence[Outcome]]) -> _Estimate:
    """The linearised variance: a video's part in every task's mean is summed before it is squared."""
    count = sum(map(len, by_task))
    if count == 0:
        return _Estimate(math.nan, math.nan, 0, 0, math.nan)
    parts: dict[str, list[float]] = defaultdict(list)
    weights: dict[str, float] = defaultdict(float)
    values: dict[str, set[float]] = defaultdict(set)
    means, simple, squared_weights, second = [], 0.0, 0.0, 0.0
    for outcomes in by_task:
        mean = math.fsum(outcome.value for outcome in outcomes) / len(outcomes)
        means.append(mean)
        weight = 1 / len(outcomes) / len(by_task)
        for outcome in outcomes:
            part = (outcome.value - mean) * weight
            parts[outcome.video].append(part)
            weights[outcome.video] += weight
            values[outcome.video].add(outcome.value)
            simple += part**2
            squared_weights += weight**2
            second += weight * outcome.value**2
    videos, value = len(parts), math.fsum(means) / len(means)
    if videos < 2:
        return _Estimate(value, math.nan, count, videos, math.nan)
    squares = math.fsum(math.fsum(of_video) ** 2 for of_video in parts.values())
    variance = videos / (videos - 1) * squares
    simple *= count / max(1, count - 1)
    effect = variance / simple if simple > 0 else math.nan
    throughout = Counter(held.pop() for held in map(set, values.values()) if len(held) == 1)
    unit_variance = second - value**2
    return _Estimate(
        value,
        variance,
        count,
        videos,
        effect,
        unit_variance if unit_variance > ROUNDING else 0.0,
        1 / squared_weights,
        1 / math.fsum(weight**2 for weight in weights.values()),
        videos - max(throughout.values(), default=0),
    )


def drawn(
    ratio: ArrayLike,
    answers: ArrayLike,
    alike: ArrayLike,
    mixed: ArrayLike,
    videos: int,
    prior: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variance of a mean, of that of one answer, drawn towards its value if a video's answers are all alike.

    How alike they are shows only in videos with an unusual answer. With one or none of them that belief is whole; it
    falls as they become more, and is gone where all videos have one.

    Args:
        ratio: the clustered variance of the mean, of that of one answer.
        answers: in number; the variance is at least that of so many independent ones.
        alike: what they are worth if those of a video are all alike (as many as videos, where these are of one size).
        mixed: videos with an unusual answer.
        videos: in number.
        prior: how slowly the belief falls.

    Returns:
        The drawn ratio, and the belief, 0 to 1.
    """
    further = np.maximum(0, np.asarray(mixed) - 1)
    belief = prior / (prior + further) * (1 - further / videos)
    floored = np.maximum(ratio, 1 / np.asarray(answers))
    return belief / np.asarray(alike) + (1 - belief) * floored, belief


def change_error(
    scale: ArrayLike, belief: ArrayLike, unit_variance: ArrayLike, videos: int
) -> NDArray[np.float64]:
    """Standard error of a mean change, as drawn; about one video more might change throughout.

    Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine
    24, 2005, add half a pair to each way of changing and of not changing; here it is half a video.

    Args:
        scale: of `drawn`.
        belief: likewise.
        unit_variance: of one change.
        videos: in number.
    """
    return np.sqrt(
        np.asarray(scale) * np.asarray(unit_variance) + np.asarray(belief) / (videos + 2) ** 2
    )


def binomial_interval(
    mean: ArrayLike, effective: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Clopper and Pearson's interval of a share, for an effective number of answers (Korn and Graubard, 1998).

    They take the number down for few degrees of freedom as well; with the drawn variance it covers without.

    Args:
        mean: the share.
        effective: number of independent answers that it is worth.
        confidence: coverage.
    """
    mean, tail = np.asarray(mean, float), (1 - confidence) / 2
    right, wrong = mean * np.asarray(effective), (1 - mean) * np.asarray(effective)
    low = np.where(right > 0, betaincinv(np.maximum(right, ROUNDING), wrong + 1, tail), 0.0)
    high = np.where(wrong > 0, betaincinv(right + 1, np.maximum(wrong, ROUNDING), 1 - tail), 1.0)
    # Rounding must not put an end on the other side of the mean.
    return np.minimum(mean, low), np.maximum(mean, high)


def quantile(confidence: float, videos: int) -> float:
    """How many standard errors a two-sided interval over videos reaches."""
    return float(stdtrit(videos - 1, 0.5 + confidence / 2))
