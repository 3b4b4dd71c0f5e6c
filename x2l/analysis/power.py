"""How far a comparison can be trusted: correction for many, videos needed, and the bootstrap as a check."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import nct as noncentral_t

from x2l.analysis.statistics import ROUNDING, Difference, Outcome, quantile


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for there being several, in the order given.

    Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6, 1979:
    the chance of even one false finding among all of them stays below the level, whatever their
    dependence.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def videos_needed(
    pilot: Difference, difference: float, power: float = 0.8, confidence: float = 0.95
) -> int | None:
    """Videos that a paired comparison needs to find a true difference.

    From the spread between videos that `pilot` shows, so with as many questions a video, as
    clustered, and as often answered differently as there: power of the two-sided t test over
    videos, by the noncentral t distribution.

    Args:
        pilot: a comparison of the two cells, on a sample of videos.
        difference: to be found, as a share (0.02 = two points).
        power: chance to find it.
        confidence: 1 minus the chance to find one where there is none.

    Returns:
        The number; None where `pilot` shows no spread to go by (fewer than two videos, or no flip).

    Raises:
        ValueError: no difference to find.
    """
    if not difference > 0:
        raise ValueError(f"difference={difference}: must be above 0, e.g. 0.02 for two points")
    if math.isnan(pilot.error) or pilot.error < ROUNDING:
        return None
    spread = pilot.error * math.sqrt(pilot.videos)  # standard deviation of one video's share in it

    def enough(videos: int) -> bool:
        critical = quantile(confidence, videos)
        shift = difference * math.sqrt(videos) / spread
        # The other tail adds to it only where power is near the level.
        return float(noncentral_t.sf(critical, videos - 1, shift)) >= power

    most = 2
    while not enough(most):
        most *= 2
    least = most // 2
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if enough(middle) else (middle, most)
    return most


def bootstrap(
    outcomes: Sequence[Outcome], confidence: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean when whole videos are drawn again: a check on the closed forms.

    For a difference, give the units' changes (`changes`). A single video gives [NaN, NaN].

    Args:
        outcomes: one per unit; unparsed ones are left out.
        confidence: coverage.
        draws: resamples.
        seed: of the draws.
    """
    clusters: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        if not math.isnan(outcome.value):
            clusters[outcome.video].append(outcome.value)
    if len(clusters) < 2:
        return math.nan, math.nan
    sums = np.array([math.fsum(values) for values in clusters.values()])
    counts = np.array([len(values) for values in clusters.values()])
    interval = scipy_bootstrap(
        (sums, counts),
        lambda s, n, axis: s.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=draws,
        batch=1000,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
