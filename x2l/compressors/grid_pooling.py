"""Pooling: over windows that fit the token grid, and of the first time step with what changes after it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

from x2l.compressors.base import Compressor, Observation, Sizes
from x2l.compressors.grouping import Grouping, averaged, in_time_order, unweighted
from x2l.kv import LayerKV, concat_layers


@lru_cache(maxsize=256)
def plane(rows: int, columns: int, windows: int) -> Tensor:
    """Cuts a plane into exactly that many windows, `(rows, columns)` window of each token, row by row.

    Rows fall into bands, each band into windows; where the number does not divide, bands and windows differ by one
    token. Of all numbers of bands the one whose windows are nearest to squares is taken; one that divides evenly may
    be up to twice as long as wide for that.
    """

    def cost(bands: int) -> tuple[float, int]:
        height, width = rows / bands, columns * bands / windows
        even = not (rows % bands or windows % bands or columns % (windows // bands))
        return max(height, width) / min(height, width) * (1 if even else 2), -bands

    possible = [n for n in range(1, min(rows, windows) + 1) if math.ceil(windows / n) <= columns]
    bands = min(possible, key=cost)
    band = torch.arange(rows) * bands // rows
    starts = torch.arange(bands + 1) * windows // bands
    inside = starts.diff()[band]  # windows in the band of each row
    return starts[band][:, None] + torch.arange(columns) * inside[:, None] // columns


@lru_cache(maxsize=64)
def boxes(grid: tuple[int, int, int], keep: int, steps: int) -> Tensor:
    """`(T,)` box of each token of a grid: groups of at most `steps` time steps, each cut into windows of the plane.

    Args:
        grid: (time steps, rows, columns).
        keep: number of boxes.
        steps: time steps a box reaches over; fewer where so few boxes would not be enough, more (with one box each)
            where there are fewer boxes than groups.
    """
    total, rows, columns = grid
    groups = max(math.ceil(total / steps), math.ceil(keep / (rows * columns)))
    groups = min(groups, total, keep)
    starts = torch.arange(groups + 1) * keep // groups
    of_step = torch.arange(total) * groups // total
    planes = [plane(rows, columns, int(n)) + starts[g] for g, n in enumerate(starts.diff())]
    return torch.stack([planes[g] for g in of_step.tolist()]).flatten()


@dataclass(frozen=True)
class GridPool(Grouping):
    """Averages windows that fit the chunk's grid, 2x2 where the ratio is 4, keys before RoPE. Final.

    Average pooling as in Video-XL-2 (arXiv 2506.19225), which pools groups of 4 frames; adaptive: the budget is spread
    evenly over the groups, and each cuts its plane into that many windows, of unequal size where it does not divide.

    Attributes:
        steps: time steps pooled together (in Qwen models one is two frames).
        proportional: as in `MeanPool`.
    """

    proportional: bool = False
    steps: int = 1
    name: str = "grid_pool"

    def __post_init__(self) -> None:
        """Checks `steps`.

        Raises:
            ValueError: steps < 1.
        """
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: must be a number of time steps >= 1")

    def grouped(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """Boxes of the grid, the same for all heads."""
        return boxes(obs.grid, keep, self.steps).to(kv.keys.device)[None]

    def flops(self, sizes: Sizes) -> int:
        """One multiply-add for each entry of keys and values."""
        return 4 * sizes.entries


@dataclass(frozen=True)
class FirstAndChanges(Compressor):
    """Keeps the chunk's first time step and, head by head, what differs most from the step before it. Final.

    As video codecs store a key frame and differences, and as TimeChat-Online (Yao et al., arXiv 2504.17343) drops
    tokens like those at their place one frame earlier. That compares pixels or features with a threshold; here keys
    before RoPE are compared by cosine, the budget decides, and where the first step would take more than `share` of
    it, the step is pooled over windows.

    Attributes:
        share: of the budget, at most that much for the first time step; more only where later steps are too few.
    """

    share: float = 0.5
    name: str = "first_and_changes"

    def __post_init__(self) -> None:
        """Checks the share.

        Raises:
            ValueError: not between 0 and 1.
        """
        if not 0 < self.share <= 1:
            raise ValueError(
                f"share={self.share}: must be in (0, 1], the part of the budget for the first step"
            )

    def compress(self, kv: LayerKV, obs: Observation, keep: int) -> LayerKV:
        """The first step, whole or pooled, and the largest changes."""
        _, rows, columns = obs.grid
        places, device = rows * columns, kv.keys.device
        whole = min(places, math.ceil(self.share * keep))
        first = max(whole, keep - (kv.tokens - places))
        begin = kv.take(torch.arange(places, device=device))
        if first < places:
            windows = plane(rows, columns, first).flatten().to(device)
            begin = unweighted(averaged(begin, windows[None], first))
        unit = normalize(kv.keys[0].float(), dim=-1)
        likeness = (unit[:, places:] * unit[:, : kv.tokens - places]).sum(dim=-1)
        changed = likeness.argsort(dim=-1, stable=True)[:, : keep - first] + places
        changes = kv.take(changed.sort(dim=-1).values)
        return in_time_order(concat_layers([begin, changes]))

    def flops(self, sizes: Sizes) -> int:
        """One multiply-add for each entry of the keys, and at most one of keys and values for the pooled step."""
        return 2 * sizes.entries + 4 * sizes.heads * min(sizes.tokens, sizes.keep) * sizes.head_dim
