"""Budgets of layers: shares of one total, as whole numbers of KVs. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

UNIFORM, PYRAMID = "uniform", "pyramid"
_STEEPNESS = 20  # beta of PyramidKV's code


def layer_shares(rule: str | Sequence[float] | None, layers: int) -> tuple[float, ...]:
    """What part of the total each layer gets, relative to the others.

    Args:
        rule: `uniform` or None: all alike; `pyramid`: falling linearly with depth from 2 - 1/20 to 1/20 of the mean
            (PyramidKV, Cai et al., arXiv 2406.02069, with the beta of its code); or one number a layer.
        layers: of the model.

    Raises:
        ValueError: another word, another number of shares, or a share that is not positive.
    """
    if rule is None or rule == UNIFORM:
        return (1.0,) * layers
    if rule == PYRAMID:
        last = 1 / _STEEPNESS
        step = 2 * (1 - last) / max(layers - 1, 1)
        return tuple(2 - last - index * step for index in range(layers)) if layers > 1 else (1.0,)
    if isinstance(rule, str):
        raise ValueError(
            f"levels.*.layers={rule!r}: must be {UNIFORM!r} (or null), {PYRAMID!r}, or one share for each layer"
        )
    if len(rule) != layers or not all(math.isfinite(share) and share > 0 for share in rule):
        raise ValueError(
            f"levels.*.layers={list(rule)}: must be {layers} positive numbers, one for each layer of the model; they "
            f"need not sum to anything"
        )
    return tuple(rule)


def layer_counts(
    rule: str | Sequence[float] | None, layers: int, total: int, most: int
) -> tuple[int, ...]:
    """KVs of each layer, between 1 and `most`, with exactly that sum.

    `pyramid` stays a line where its first layer would keep more than there is: the first then keeps all, and the last
    so much that the mean is met (the code of PyramidKV and of Ada-KV, 66b95be snapkv_utils.py; there the step between
    layers is rounded down, so that the sum is another by up to a percent).

    Args:
        rule: see `layer_shares`.
        layers: of the model.
        total: the sum, between `layers` and `layers * most`.
        most: upper bound of each number.

    Raises:
        ValueError: see `layer_shares`.
    """
    shares = layer_shares(rule, layers)
    mean = total / layers
    if rule == PYRAMID and layers > 1 and shares[0] * mean > most:
        step = 2 * (most - mean) / (layers - 1)
        shares = tuple(max(most - index * step, 0.0) for index in range(layers))
    return apportioned(total, shares, most)


def apportioned(total: int, shares: Sequence[float], most: int) -> tuple[int, ...]:
    """Whole numbers between 1 and `most` in proportion to the shares, with exactly that sum.

    What a number would lie beyond a bound is spread over the others in their proportion; what is left after rounding
    down goes to the largest remainders, of equal ones to the first.

    Args:
        total: the sum, between len(shares) and len(shares) * most.
        shares: positive.
        most: upper bound of each number.
    """
    exact = [Fraction(share) for share in shares]
    fixed: dict[int, int] = {}
    while True:
        free = [index for index in range(len(exact)) if index not in fixed]
        left, weight = total - sum(fixed.values()), sum(exact[index] for index in free)
        quotas = {index: left * exact[index] / weight for index in free}
        high = {index for index, quota in quotas.items() if quota > most}
        low = {index for index, quota in quotas.items() if quota < 1}
        # One side at a time, that which is further out: fixing both could leave the free ones too much or too little.
        beyond = sum(quotas[index] - most for index in high)
        short = sum(1 - quotas[index] for index in low)
        if not high and not low:
            break
        fixed |= dict.fromkeys(high, most) if beyond >= short else dict.fromkeys(low, 1)
    numbers = fixed | {index: math.floor(quota) for index, quota in quotas.items()}
    order = sorted(quotas, key=lambda index: (numbers[index] - quotas[index], index))
    for index in order[: total - sum(numbers.values())]:
        numbers[index] += 1
    return tuple(numbers[index] for index in range(len(exact)))
