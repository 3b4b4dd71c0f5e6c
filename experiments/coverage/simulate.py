"""How often the 95 % intervals of accuracies and of paired differences hold the truth, over a grid of samples.

    python -m experiments.coverage.simulate --out experiments/results/coverage  # some minutes on one core

Videos are alike within themselves in two ways: `spread`, where each has a chance of its own (beta-binomial), and
`whole`, where some videos are right or wrong as a whole and the others independent. Drawn are videos x questions; the
intervals are those of x2l.analysis.statistics, computed for all samples of a cell at once. `before` is what x2l had
until 0.2: Wilson's interval, which counted answers as independent where all were right.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from x2l.analysis.statistics import (
    ANSWERS_ALIKE,
    CHANGES_ALIKE,
    binomial_interval,
    change_error,
    drawn,
    quantile,
)

Floats = NDArray[np.float64]
VIDEOS = (8, 12, 16, 60, 200)
QUESTIONS = ((1, 1), (3, 3), (6, 6), (12, 12), (1, 12))  # least and most a video
ACCURACIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
CORRELATIONS = (0.0, 0.2, 0.5, 0.8, 0.95)
CHANGING = ((0.01, 1.0), (0.03, 1.0), (0.1, 1.0), (0.1, 0.5), (0.3, 0.75))  # share, and gains of it
ROUNDING = 1e-12


@dataclass(frozen=True)
class Sampled:
    """Samples of one cell of the grid, `(samples, videos)` each: sums of answers (or changes), squares, and numbers."""

    sums: Floats
    squares: Floats
    counts: Floats
    mixed: Floats  # (samples,) videos with an unusual answer

    @property
    def moments(self) -> tuple[Floats, Floats, Floats]:
        """Mean, variance of the mean by videos, variance of one answer; `(samples,)` each."""
        videos, total = self.sums.shape[1], self.counts.sum(1)
        mean = self.sums.sum(1) / total
        residuals = self.sums - self.counts * mean[:, None]
        variance = videos / (videos - 1) * (residuals**2).sum(1) / total**2
        unit = self.squares.sum(1) / total - mean**2
        return mean, variance, np.where(unit > ROUNDING, unit, 0.0)

    def drawn(self, prior: float) -> tuple[Floats, Floats]:
        """See x2l.analysis.statistics.drawn."""
        _, variance, unit = self.moments
        total = self.counts.sum(1)
        ratio = np.divide(variance, unit, out=np.zeros_like(unit), where=unit > 0)
        alike = total**2 / (self.counts**2).sum(1)
        return drawn(ratio, total, alike, self.mixed, self.sums.shape[1], prior)


def sample(
    rng: np.random.Generator,
    samples: int,
    videos: int,
    questions: tuple[int, int],
    share: float,
    correlation: float,
    alike: str,
    gains: float | None = None,
) -> Sampled:
    """Answers of which a share is right; or, with `gains`, changes of which so many are gains and the others losses."""
    counts = rng.integers(questions[0], questions[1] + 1, (samples, videos))
    chances = np.full((samples, videos), share)
    if correlation > 0 and 0 < share < 1 and alike == "spread":
        scale = (1 - correlation) / correlation
        chances = rng.beta(share * scale, (1 - share) * scale, (samples, videos))
    elif correlation > 0:
        whole = rng.random((samples, videos)) < correlation
        chances = np.where(whole, rng.random((samples, videos)) < share, chances)
    hits = rng.binomial(counts, chances)
    none, every = (hits == 0).sum(1), (hits == counts).sum(1)
    if gains is None:
        most = np.maximum(none, every)
        return Sampled(hits.astype(float), hits.astype(float), counts.astype(float), videos - most)
    up = rng.binomial(hits, gains)
    most = np.maximum(
        none, np.maximum((up == counts).sum(1), ((hits == counts) & (up == 0)).sum(1))
    )
    return Sampled(2.0 * up - hits, hits.astype(float), counts.astype(float), videos - most)


def accuracy_interval(found: Sampled) -> tuple[Floats, Floats]:
    """What x2l gives now."""
    mean, _, _ = found.moments
    scale, _ = found.drawn(ANSWERS_ALIKE)
    return binomial_interval(mean, 1 / scale)


def accuracy_interval_before(found: Sampled) -> tuple[Floats, Floats]:
    """What it gave before."""
    (mean, variance, unit), total = found.moments, found.counts.sum(1)
    there = (variance > 0) & (unit > 0)
    size = np.minimum(total, np.divide(unit, variance, out=total.copy(), where=there))
    square = quantile(0.95, found.sums.shape[1]) ** 2 / size
    half = np.sqrt(square * (mean * (1 - mean) + square / 4)) / (1 + square)
    centre = (mean + square / 2) / (1 + square)
    return np.minimum(mean, centre - half), np.maximum(mean, centre + half)


def change_interval(found: Sampled) -> tuple[Floats, Floats]:
    """What x2l gives now for a paired difference."""
    (mean, _, unit), videos = found.moments, found.sums.shape[1]
    reach = quantile(0.95, videos) * change_error(*found.drawn(CHANGES_ALIKE), unit, videos)
    return mean - reach, mean + reach


def change_interval_before(found: Sampled) -> tuple[Floats, Floats]:
    """What it gave before: by the rule of three where all videos changed alike."""
    (mean, variance, _), videos = found.moments, found.sums.shape[1]
    reach, other = quantile(0.95, videos) * np.sqrt(variance), 1 - 0.05 ** (1 / videos)
    same = np.sqrt(variance) < ROUNDING
    below, above = (
        np.where(same, other * (1 + mean), reach),
        np.where(same, other * (1 - mean), reach),
    )
    return mean - below, mean + above


def coverage(interval: tuple[Floats, Floats], truth: float) -> tuple[float, float]:
    """Share of intervals that hold the truth, and their mean width."""
    low, high = interval
    held = (low <= truth + ROUNDING) & (truth - ROUNDING <= high)
    return float(held.mean()), float((high - low).mean())


def accuracy_cells(samples: int, seed: int = 0) -> Iterator[tuple[object, ...]]:
    """(videos, questions, accuracy, correlation, alike, coverage and width now, and before)."""
    rng = np.random.default_rng(seed)
    grid = product(VIDEOS, QUESTIONS, ACCURACIES, CORRELATIONS, ("spread", "whole"))
    for cell in grid:
        if cell[3] == 0 and cell[4] == "whole":
            continue  # the same as `spread`
        found = sample(rng, samples, *cell)
        now, before = accuracy_interval(found), accuracy_interval_before(found)
        yield *cell, *coverage(now, cell[2]), *coverage(before, cell[2])


def change_cells(samples: int, seed: int = 0) -> Iterator[tuple[object, ...]]:
    """The same of paired differences; the share that changes and the gains of it in place of the accuracy."""
    rng = np.random.default_rng(seed)
    for videos, questions, (share, gains), correlation in product(
        VIDEOS, QUESTIONS, CHANGING, CORRELATIONS
    ):
        found = sample(rng, samples, videos, questions, share, correlation, "spread", gains)
        truth = share * (2 * gains - 1)
        now = coverage(change_interval(found), truth)
        before = coverage(change_interval_before(found), truth)
        yield videos, questions, (share, gains), correlation, "spread", *now, *before


def summary(cells: Sequence[tuple[object, ...]]) -> str:
    """By number of videos: the least and the mean coverage, cells below 92 %, and the mean width, now and before."""
    rows = []
    for videos in VIDEOS:
        of = np.array([cell[5:] for cell in cells if cell[0] == videos], float)
        row = {"videos": videos, "cells": len(of)}
        for word, at in (("before", 2), ("now", 0)):
            row[f"least, {word}"] = f"{of[:, at].min():.3f}"
            row[f"mean, {word}"] = f"{of[:, at].mean():.3f}"
            row[f"below 0.92, {word}"] = int((of[:, at] < 0.92).sum())
            row[f"width, {word}"] = f"{of[:, at + 1].mean():.3f}"
        rows.append(row)
    return tabulate(rows, "keys", tablefmt="pipe", disable_numparse=True, stralign="right")


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulates and writes coverage.md and coverage.csv."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=2000, help="of each cell")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    options = parser.parse_args(arguments)
    parts = {
        "Accuracy": list(accuracy_cells(options.samples)),
        "Paired difference": list(change_cells(options.samples)),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    names = "what,videos,questions_least,questions_most,share,gains,correlation,alike,"
    lines = [names + "coverage,width,coverage_before,width_before"]
    for what, cells in parts.items():
        for videos, (least, most), share, correlation, alike, *found in cells:
            of = share if isinstance(share, tuple) else (share, "")
            numbers = ",".join(f"{value:.4f}" for value in found)
            lines.append(
                f"{what},{videos},{least},{most},{of[0]},{of[1]},{correlation},{alike},{numbers}"
            )
    (options.out / "coverage.csv").write_text("\n".join(lines) + "\n")
    texts = [
        f"{what}, 95 % intervals, {options.samples} samples a cell.\n\n{summary(cells)}\n"
        for what, cells in parts.items()
    ]
    (options.out / "coverage.md").write_text("\n".join(texts))
    print("\n".join(texts))


if __name__ == "__main__":
    main()
