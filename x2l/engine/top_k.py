"""The language of top_k, and its order. Imports nothing heavy, so that settings and analysis can use it.

A number of chunks; `gt`, as many as the question needs; `task`, as many as `selection.top_k_by_task` gives its task; a
ladder such as `2+4`, chunks at each level but the coarsest, finest first; a budget such as `12%` (of the uncompressed
cache) or `64MB`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TypeGuard

PINNED = ("first", "last")
GT, TASK = "gt", "task"
_LADDER = re.compile(r"\d+(\+\d+)+")
_SHARE = re.compile(r"(\d+(?:\.\d+)?)%")
_BYTES = re.compile(r"(\d+(?:\.\d+)?)(kB|MB|GB)")
_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9}


def ladder(top_k: int | str | None) -> tuple[int, ...] | None:
    """The numbers of a ladder such as `2+4`; None where it is none."""
    if isinstance(top_k, str) and _LADDER.fullmatch(top_k):
        return tuple(map(int, top_k.split("+")))
    return None


def is_budget(top_k: int | str | None) -> TypeGuard[str]:
    """Whether it is a budget of bytes: `12%` or `64MB`."""
    return isinstance(top_k, str) and bool(_SHARE.fullmatch(top_k) or _BYTES.fullmatch(top_k))


def budget_of(top_k: str, full: int) -> int:
    """The bytes that a budget allows.

    Args:
        top_k: `12%` or `64MB`.
        full: bytes of the video's uncompressed cache.
    """
    if share := _SHARE.fullmatch(top_k):
        return math.floor(full * float(share[1]) / 100)
    size = _BYTES.fullmatch(top_k)
    assert size is not None
    return math.floor(float(size[1]) * _UNITS[size[2]])


def counts_of(
    top_k: int | str, levels: Sequence[str], gt: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Chunks at each level but the coarsest: of three levels 2 is (2, 0), and `2+4` is (2, 4).

    Args:
        top_k: a number of chunks, `gt` or a ladder.
        levels: names, finest first.
        gt: ground-truth chunks; only `gt` needs them.

    Raises:
        ValueError: `gt` without ground-truth chunks, or a ladder of another number of levels.
    """
    if (counts := ladder(top_k)) is not None:
        check_ladder(counts, levels)
        return counts
    if top_k == GT:
        if gt is None:
            raise ValueError(
                "top_k=gt: this benchmark does not say where the answer lies; use a number"
            )
        top_k = len(gt)
    return (int(top_k), *[0] * (len(levels) - 2))[: len(levels) - 1]


def check_top_k(
    top_k: int | str,
    pinned: Sequence[str] = (),
    levels: Sequence[str] | None = None,
    chunks: int | None = None,
    field: str = "top_k",
) -> None:
    """Checks settings before anything runs.

    Args:
        top_k: in any of its forms.
        pinned: names of chunks.
        levels: names, finest first, where they are known.
        chunks: how many a video has, where that is known.
        field: what errors call `top_k`.

    Raises:
        ValueError: none of its forms; a ladder of another number of levels; more chunks than there are; a budget of 0
            or of more than the whole cache; an unknown pinned chunk.
    """
    if unknown := [name for name in pinned if name not in PINNED]:
        raise ValueError(f"selection.pinned={unknown}: must be among {list(PINNED)}")
    counts = (top_k,) if isinstance(top_k, int) else ladder(top_k)
    if is_budget(top_k):
        if not 0 < float(top_k.rstrip("%kMGB")) <= (100 if "%" in top_k else math.inf):
            raise ValueError(f"{field}={top_k}: must be above 0, and at most 100%")
    elif top_k not in (GT, TASK) and (counts is None or min(counts) < 0):
        raise ValueError(
            f"{field}={top_k!r}: must be a number of chunks >= 0, gt (as many as the question needs), task (what "
            "selection.top_k_by_task says), a ladder such as 2+4 (chunks at each level but the coarsest, finest "
            "first), or a budget such as 12% (of the uncompressed cache) or 64MB (kB, MB, GB)"
        )
    if isinstance(top_k, str) and counts is not None and levels is not None:
        check_ladder(counts, levels, field)
    if counts is not None and chunks is not None and sum(counts) > chunks:
        smaller = f"top_k <= {chunks}" if isinstance(top_k, int) else "smaller numbers"
        raise ValueError(
            f"{field}={top_k}: the video has only {chunks} chunks; use {smaller}, more video.frames, or a smaller "
            "prefill.chunk_frames"
        )


def check_ladder(counts: Sequence[int], levels: Sequence[str], field: str = "top_k") -> None:
    """Checks that there is a number for each level but the coarsest.

    Raises:
        ValueError: there is not.
    """
    if len(counts) != len(levels) - 1:
        raise ValueError(
            f"{field}={'+'.join(map(str, counts))}: must have a number for each level but the coarsest, finest first; "
            f"levels are {', '.join(levels)}, so give {len(levels) - 1}"
        )


def order_key(top_k: int | str | None) -> tuple[int, tuple[float, ...], str]:
    """Sorts top_k of any form: none at all, numbers, ladders by their sum, shares, bytes, then `gt` and `task`."""
    if top_k is None:
        return 0, (), ""
    if isinstance(top_k, int):
        return 1, (top_k,), ""
    if (counts := ladder(top_k)) is not None:
        return 2, (sum(counts), *counts), ""
    if is_budget(top_k):
        return (3, (float(top_k[:-1]),), "") if "%" in top_k else (4, (budget_of(top_k, 0),), "")
    return 5, (), top_k
