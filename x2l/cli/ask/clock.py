"""Seconds as people read them: 01:05, and neighbouring chunks as one span."""

from collections.abc import Collection, Sequence


def clock(seconds: float, fine: bool = False) -> str:
    """`mm:ss`, or `h:mm:ss` from an hour on.

    Args:
        seconds: at least 0.
        fine: with tenths of a second.
    """
    tenths = round(10 * seconds) if fine else 10 * round(seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{minutes:02d}:{rest // 10:02d}" + (f".{rest % 10}" if fine else "")
    return f"{hours}:{text}" if hours else text


def is_fine(spans: Sequence[tuple[float, float]]) -> bool:
    """Whether spans are so short that whole seconds would hide them."""
    return max(end - start for start, end in spans) < 2


def merged(
    spans: Sequence[tuple[float, float]], chosen: Collection[int]
) -> tuple[tuple[float, float], ...]:
    """(start, end) of the chosen spans, neighbours as one.

    Args:
        spans: in time order, without gaps.
        chosen: which of them.
    """
    found: list[tuple[float, float]] = []
    for index in sorted(chosen):
        start, end = spans[index]
        if found and index - 1 in chosen:
            start = found.pop()[0]
        found.append((start, end))
    return tuple(found)
