"""Numbers as people read them: percentages, p values, prefixes of units; a dash for what is not known."""

import math

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def number(value: float, form: str) -> str:
    """In a form of `format`, e.g. `.3g`."""
    return "-" if math.isnan(value) else format(value, form)


def percent(share: float, digits: int = 1) -> str:
    """A share of 1 as a percentage, without the sign."""
    return number(100 * share, f".{digits}f")


def percent_range(low: float, high: float) -> str:
    """An interval of shares: `41.2 to 50.0`."""
    return f"{percent(low)} to {percent(high)}"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign, but no `-0.0`."""
    return number(round(100 * difference, 1) + 0.0, "+.1f")


def difference(value: float, low: float, high: float, *, identical: bool) -> str:
    """`+2.0 (-1.0 to +5.0)` in points; `identical` in place of the value where no answer differs."""
    return f"{'identical' if identical else points(value)} ({points(low)} to {points(high)})"


def p_value(p: float) -> str:
    """Three digits; below 0.001 only that; a dash where nothing was tested."""
    return "<0.001" if p < 0.001 else number(p, ".3f")


def prefix(largest: float, unit: str) -> tuple[float, str]:
    """A factor that gives values up to `largest` one to three digits, and the unit then: 3e9, "B" -> 1e-9, "GB"."""
    for factor, name in _PREFIXES:
        if largest >= factor:
            return 1 / factor, f"{name}{unit}"
    return 1.0, unit


def prefixed(value: float, unit: str) -> str:
    """Three digits and the unit with its prefix: 1.73 MB."""
    scale, name = prefix(float(f"{value:.3g}"), unit)  # 999,600 is 1 M, not 1e+03 k
    return f"{value * scale:.3g} {name}"
