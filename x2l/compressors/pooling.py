"""Pooling: average, or pick from, neighbouring KVs of the token grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from x2l.compressors.base import Compressor, Observation, Sizes
from x2l.compressors.grouping import Grouping, best_in_group
from x2l.kv import LayerKV

Grid = tuple[int, int, int]


@lru_cache(maxsize=64)
def z_order(grid: Grid) -> Tensor:
    """Indices of a (time steps, rows, columns) grid along a Z-curve within each time step, `(T,)`.

    Any stretch of the curve is a compact patch: 2 tokens are side by side, 4 a square, 16 a 4x4 square, then whole
    time steps follow. So every ratio, also one that divides no side of the grid, pools neighbours.
    """
    return _sorted(grid, lambda step, row, column: (step, _interleaved(column, row)))


@lru_cache(maxsize=64)
def time_order(grid: Grid) -> Tensor:
    """Indices of a grid place by place, each through all time steps, to and fro, `(T,)`; places along the Z-curve.

    A stretch is one place over consecutive time steps; where it runs on, it goes to the next place at the same time.
    """
    steps, rows, columns = grid
    rank = {int(place): n for n, place in enumerate(z_order((1, rows, columns)))}

    def key(step: int, row: int, column: int) -> tuple[int, int]:
        place = rank[row * columns + column]
        return place, steps - step if place % 2 else step

    return _sorted(grid, key)


@lru_cache(maxsize=64)
def cube_order(grid: Grid) -> Tensor:
    """Indices of a grid along a Z-curve through rows, columns and time, `(T,)`: 8 tokens are a 2x2x2 cube."""
    return _sorted(grid, lambda step, row, column: (_interleaved(column, row, step), 0))


def row_order(grid: Grid) -> Tensor:
    """Indices of a grid row by row, as tokens stand in the prompt, `(T,)`."""
    return torch.arange(grid[0] * grid[1] * grid[2])


def _sorted(grid: Grid, key: Callable[[int, int, int], tuple[int, int]]) -> Tensor:
    _, rows, columns = grid
    indices = range(grid[0] * rows * columns)
    return torch.tensor(
        sorted(indices, key=lambda i: key(i // (rows * columns), i // columns % rows, i % columns))
    )


def _interleaved(*numbers: int) -> int:
    """One number of the bits of several, those of the first lowest."""
    count = len(numbers)
    return sum((n >> b & 1) << count * b + i for i, n in enumerate(numbers) for b in range(16))


ORDERS: dict[str, Callable[[Grid], Tensor]] = {
    "space": z_order,
    "time": time_order,
    "space_time": cube_order,
    "rows": row_order,
}


def check_over(over: str) -> None:
    """Checks what is pooled over.

    Raises:
        ValueError: it is not one of `ORDERS`.
    """
    if over not in ORDERS:
        raise ValueError(f"over={over!r}: must be one of {sorted(ORDERS)}")


def stretches(grid: Grid, over: str, keep: int, device: torch.device) -> Tensor:
    """`(1, T)` group of each token: `keep` almost equal stretches of an order of the grid."""
    order = ORDERS[over](grid).to(device)
    group = torch.empty_like(order)
    group[order] = torch.arange(len(order), device=device) * keep // len(order)
    return group[None]


@dataclass(frozen=True)
class MeanPool(Grouping):
    """Averages neighbours of the token grid, keys before RoPE. Final.

    Plain average pooling of visual KVs as in Video-XL-2 (arXiv 2506.19225), whose code takes 4 tokens in a row (`over:
    rows` at ratio 4). Groups are almost equal stretches of an order of the grid, so any ratio fits any grid.

    Attributes:
        over: `space`: patches within a time step, then whole steps; `time`: one place over time steps, then
            neighbouring places; `space_time`: cubes; `rows`: tokens in a row, as they stand in the prompt.
        proportional: let a pooled KV weigh as many tokens as it stands for in attention (adds the log of that number
            to its logits, as ToMe does). Off as in Video-XL-2.
    """

    proportional: bool = False
    over: str = "space"
    name: str = "mean_pool"

    def __post_init__(self) -> None:
        """Checks `over`."""
        check_over(self.over)

    def grouped(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """Stretches of the order, the same for all heads."""
        return stretches(obs.grid, self.over, keep, kv.keys.device)

    def flops(self, sizes: Sizes) -> int:
        """One multiply-add for each entry of keys and values."""
        return 4 * sizes.entries


@dataclass(frozen=True)
class MaxNormPool(Compressor):
    """Keeps of each group of neighbours, head by head, the KV whose key or value is longest. Final.

    Max pooling that keeps real KVs: the maximum is taken over whole vectors, not over each channel, since a key made of
    the maxima of several would be one that the model never saw. Value norm as importance: VaN of InfiniPot-V (Kim et
    al., arXiv 2506.15745); there over the whole block, here within each neighbourhood.

    Attributes:
        of: `values` or `keys`.
        over: as in `MeanPool`.
    """

    of: str = "values"
    over: str = "space"
    name: str = "max_norm_pool"

    def __post_init__(self) -> None:
        """Checks `of` and `over`.

        Raises:
            ValueError: an unknown one.
        """
        check_over(self.over)
        if self.of not in ("keys", "values"):
            raise ValueError(f"of={self.of!r}: must be 'keys' or 'values'")

    def compress(self, kv: LayerKV, obs: Observation, keep: int) -> LayerKV:
        """One KV of each of `keep` almost equal stretches of the order."""
        vectors = kv.keys if self.of == "keys" else kv.values
        norms = vectors[0].float().norm(dim=-1)
        group = stretches(obs.grid, self.over, keep, norms.device).expand(len(norms), -1)
        return kv.take(best_in_group(norms, group, keep).sort(dim=-1).values)

    def flops(self, sizes: Sizes) -> int:
        """One square-and-add for each entry of keys or values."""
        return 2 * sizes.entries
