"""Taking rules: which chunks are taken of those that a selector rated, beside the most relevant. Imports no torch.

A rule looks at the relevance of chunks that may be taken or left (neither pinned nor +-inf) and at how many are wanted.
Where it finds fewer, the most relevant others fill up, so that rules are compared at equal counts; `mass` and `gap`
alone may take fewer, which is what they are for.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass

TOP = "top"
NAMES = (TOP, "aks", "inverse_transform", "mass", "gap", "gumbel")


class TakingRule(ABC):
    """Abstract; frozen values."""

    @abstractmethod
    def take(self, scores: Sequence[float], count: int, key: str) -> Collection[int]:
        """Indices of at most `count` chunks, `count` being below their number and above 0.

        Args:
            scores: relevance of the chunks, in time order, finite.
            count: how many are wanted.
            key: of the question; seeds rules that draw.
        """


@dataclass(frozen=True)
class Top(TakingRule):
    """The most relevant ones. Final."""

    def take(self, scores: Sequence[float], count: int, key: str) -> Collection[int]:
        """Ties go to the earlier chunk."""
        return ranked(scores)[:count]


@dataclass(frozen=True)
class AdaptiveSplit(TakingRule):
    """AKS (arXiv 2502.21271, `frame_select.py`): a segment is kept whole or halved. Final.

    Relevance is brought to 0 to 1. A segment whose best `count` stand out (their mean above the mean of all by more
    than `threshold`) is kept, else halved, down to a depth; a segment of depth d gives its best count / 2^d. The code's
    second threshold, on the deviation, always holds there (-100) and is left out. Halving ends where a segment would
    give nothing.
    """

    threshold: float = 0.8
    depth: int = 5

    def take(self, scores: Sequence[float], count: int, key: str) -> Collection[int]:
        """Segment by segment."""
        scaled = scaled_scores(scores)
        taken: list[int] = []

        def visit(first: int, after: int, depth: int) -> None:
            segment = sorted(scaled[first:after], reverse=True)
            best = segment[:count]
            stands_out = sum(best) / len(best) - sum(segment) / len(segment) > self.threshold
            halves = depth < min(self.depth, count.bit_length() - 1) and after - first > 1
            if halves and not stands_out:
                middle = (first + after) // 2
                visit(first, middle, depth + 1)
                visit(middle, after, depth + 1)
            else:
                own = [first + index for index in ranked(scaled[first:after])]
                taken.extend(own[: count >> depth])

        visit(0, len(scaled), 0)
        return filled_up(taken, scores, count)


@dataclass(frozen=True)
class InverseTransform(TakingRule):
    """BOLT (arXiv 2503.21483): even quantiles of the distribution that relevance makes over time. Final.

    Relevance is brought to 0 to 1 and raised to `power`; count quantiles, in the middle of as many equal parts, each
    take the chunk that they fall on. Several may fall on one.
    """

    power: float = 3.0

    def take(self, scores: Sequence[float], count: int, key: str) -> Collection[int]:
        """Quantile by quantile."""
        mass = [score**self.power for score in scaled_scores(scores)]
        total, sums = math.fsum(mass), [0.0]
        for value in mass:
            sums.append(sums[-1] + value)
        quantiles = [(index + 0.5) / count * total for index in range(count)]
        last = max(index for index, value in enumerate(mass) if value > 0)
        hit = {min(sum(s <= quantile for s in sums[1:]), last) for quantile in quantiles}
        return filled_up(sorted(hit), scores, count)


@dataclass(frozen=True)
class Mass(TakingRule):
    """The fewest most relevant ones that hold a share of all relevance, which is brought to 0 to 1. Final."""

    share: float = 0.5

    def take(self, scores: Sequence[float], count: int, key: str) -> Collection[int]:
        """Until the share is reached."""
        scaled, taken = scaled_scores(scores), list[int]()
        wanted = self.share * math.fsum(scaled)
        for index in ranked(scores)[:count]:
            taken.append(index)
            if math.fsum(scaled[i] for i in taken) >= wanted:
                break
        return taken


@dataclass(frozen=True)
class Gap(TakingRule):
    """Those above the largest drop from one rank to the next; of equal drops the first. Final."""

    def take(self, scores: Sequence[float], count: int, key: str) -> Collection[int]:
        """At least one."""
        order = ranked(scores)
        drops = [scores[order[i]] - scores[order[i + 1]] for i in range(count)]
        return order[: drops.index(max(drops)) + 1]


@dataclass(frozen=True)
class Gumbel(TakingRule):
    """Q-Frame (arXiv 2506.22139): a draw without replacement, by Gumbel noise on relevance over a temperature. Final.

    Its logits are those of a picture-text model; here relevance on a scale of mean 0 and deviation 1, whatever the
    selector. More wanted chunks add to fewer.
    """

    temperature: float = 0.8
    seed: int = 0

    def take(self, scores: Sequence[float], count: int, key: str) -> Collection[int]:
        """The best after noise."""
        mean = math.fsum(scores) / len(scores)
        spread = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores)) or 1.0
        from x2l.compressors.draws import seed_of  # imports torch, which settings must not

        draws = random.Random(seed_of(self.seed, "taking", key))
        noisy = [
            (score - mean) / spread / self.temperature - math.log(-math.log(1 - draws.random()))
            for score in scores
        ]
        return ranked(noisy)[:count]


def taking_rule(text: str, seed: int = 0, field: str = "selection.taking") -> TakingRule:
    """The rule that a setting names: `top`, `gap`, or one with a number such as `gumbel:0.8`, `mass:0.5`, `aks:0.8`.

    Args:
        text: name, or name and number; without one that of the paper.
        seed: of rules that draw.
        field: what errors call it.

    Raises:
        ValueError: no such rule, or a number that it cannot take.
    """
    name, colon, number = str(text).partition(":")
    if name not in NAMES or (colon and name in ("top", "gap")):
        raise ValueError(
            f"{field}={text}: must be one of {', '.join(NAMES)}; all but top and gap may be given a number, mass:0.5"
        )
    try:
        value = float(number) if colon else None
    except ValueError:
        value = math.nan
    least, most = (0.0, 1.0) if name in ("aks", "mass") else (0.0, math.inf)
    if value is not None and not least < value <= most:
        raise ValueError(f"{field}={text}: its number must be above {least:g} and at most {most:g}")
    if name == "gumbel":
        return Gumbel(seed=seed) if value is None else Gumbel(value, seed)
    if name in ("top", "gap"):
        return Top() if name == "top" else Gap()
    rule = {"aks": AdaptiveSplit, "inverse_transform": InverseTransform, "mass": Mass}[name]
    return rule() if value is None else rule(value)


def left_out(
    relevance: Sequence[float],
    rule: TakingRule,
    count: int,
    pinned: Collection[int],
    key: str,
) -> list[int]:
    """Chunks that a rule does not take; where it has no choice, none.

    Args:
        relevance: of every chunk; +-inf and pinned ones are not the rule's matter.
        rule: takes.
        count: how many chunks are wanted besides those that are always taken.
        pinned: chunks that are always taken.
        key: of the question.
    """
    free = [i for i, score in enumerate(relevance) if math.isfinite(score) and i not in pinned]
    if not 0 < count < len(free):
        return []
    taken = rule.take([relevance[index] for index in free], count, key)
    return [index for place, index in enumerate(free) if place not in taken]


def ranked(scores: Sequence[float]) -> list[int]:
    """Indices, best first; ties go to the earlier one."""
    return sorted(range(len(scores)), key=lambda index: (-scores[index], index))


def scaled_scores(scores: Sequence[float]) -> list[float]:
    """Brought to 0 (the least) to 1 (the most); all 1 where they are equal."""
    least, most = min(scores), max(scores)
    return [(score - least) / (most - least) if most > least else 1.0 for score in scores]


def filled_up(taken: Sequence[int], scores: Sequence[float], count: int) -> list[int]:
    """What was taken, and the most relevant others up to `count`."""
    others = [index for index in ranked(scores) if index not in taken]
    return [*taken, *others[: max(count - len(taken), 0)]]
