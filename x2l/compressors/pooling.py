"""Pooling: average neighbouring KVs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from x2l.compressors.base import Compressor, Observation
from x2l.kv import LayerKV


@lru_cache(maxsize=64)
def z_order(grid: tuple[int, int, int]) -> Tensor:
    """Indices of a (time steps, rows, columns) grid along a Z-curve within each time step, `(T,)`.

    Any stretch of the curve is a compact patch: 2 tokens are side by side, 4 a square, 16 a 4x4 square, then whole
    time steps follow. So every ratio, also one that divides no side of the grid, pools neighbours.
    """
    steps, rows, columns = grid

    def key(index: int) -> tuple[int, int]:
        step, row, column = index // (rows * columns), index // columns % rows, index % columns
        code = sum(((column >> b & 1) << 2 * b) | ((row >> b & 1) << 2 * b + 1) for b in range(16))
        return step, code

    return torch.tensor(sorted(range(steps * rows * columns), key=key))


def averaged(kv: LayerKV, group: Tensor, groups: int) -> LayerKV:
    """Weighted mean of keys, values and positions of each group; weights add up.

    Args:
        kv: `(1, H, T, D)`.
        group: `(T,)` group index of each token, the same for all heads.
        groups: number of groups; none may be empty.
    """
    share = kv.weights / _sums(kv.weights, group, groups, 1)[:, group]  # (h, T)
    return LayerKV(
        _means(kv.keys, share, group, groups),
        _means(kv.values, share, group, groups),
        _sums(kv.positions * share[None], group, groups, 2),
        _sums(kv.weights, group, groups, 1),
    )


def _means(x: Tensor, share: Tensor, group: Tensor, groups: int) -> Tensor:
    """Weighted means of `(1, H, T, D)` by group, summed in fp32 at least."""
    exact = torch.promote_types(x.dtype, torch.float32)
    return _sums(x.to(exact) * share[None, :, :, None], group, groups, 2).to(x.dtype)


def _sums(x: Tensor, group: Tensor, groups: int, axis: int) -> Tensor:
    """Sums along an axis by group."""
    shape = [*x.shape[:axis], groups, *x.shape[axis + 1 :]]
    return x.new_zeros(shape).index_add_(axis, group, x)


@dataclass(frozen=True)
class MeanPool(Compressor):
    """Averages compact patches of the token grid, keys before RoPE. Final.

    Plain average pooling as in Video-XL-2 (arXiv 2506.19225), there with a fixed kernel of 4 along the sequence.

    Attributes:
        proportional: let a pooled KV weigh as many tokens as it stands for in attention (adds the log of that number
            to its logits, as ToMe does). Off as in Video-XL-2.
    """

    proportional: bool = False
    name: str = "mean_pool"

    def compress(self, kv: LayerKV, seen: Observation, keep: int) -> LayerKV:
        """One KV for each of `keep` almost equal stretches of the Z-curve."""
        order = z_order(seen.grid).to(kv.keys.device)
        group = torch.empty_like(order)
        group[order] = torch.arange(kv.tokens, device=order.device) * keep // kv.tokens
        pooled = averaged(kv, group, keep)
        weights = pooled.weights if self.proportional else torch.ones_like(pooled.weights)
        return LayerKV(pooled.keys, pooled.values, pooled.positions, weights)

    def flops(self, heads: int, tokens: int, keep: int, head_dim: int) -> int:
        """One multiply-add for each entry of keys and values."""
        return 4 * heads * tokens * head_dim
