"""Groups of KVs: their weighted means, and the classes of methods that fold KVs into groups.

A grouping is a `(h, T)` index of each token's group, h = 1 where all heads share it, else H; no group is empty.
Everything here gives the same bits in every run on every device: no atomic additions, all sorts are stable.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import torch
from torch import Tensor
from typing_extensions import override

from x2l.compressors.base import Compressor, Observation
from x2l.kv import LayerKV


class Grouping(Compressor):
    """Abstract: folds the KVs into `keep` groups, each kept as the mean of its members. A new method is one `grouped`.

    Attributes:
        proportional: a folded KV weighs as many tokens in attention as it stands for: the log of that number is added
            to its logits (Bolya et al., arXiv 2210.09461, eq. 1).
    """

    proportional: bool

    @abstractmethod
    def grouped(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """Group of each token, `(h, T)`, from 0 to keep - 1, none empty."""

    def compress(self, kv: LayerKV, obs: Observation, keep: int) -> LayerKV:
        """The mean of each group: keys before RoPE, values and positions alike."""
        means = in_time_order(averaged(kv, self.grouped(kv, obs, keep), keep))
        return means if self.proportional else unweighted(means)


class KeyGrouping(Grouping):
    """Abstract: a grouping that looks at the keys alone, so it also works on what another method leaves over."""

    @abstractmethod
    def by_keys(self, keys: Tensor, keep: int) -> Tensor:
        """Group of each token by its keys `(H, T, D)`, un-rotated; `(h, T)`."""

    @override
    def grouped(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        return self.by_keys(kv.keys[0], keep)


def averaged(kv: LayerKV, group: Tensor, groups: int, share: Tensor | None = None) -> LayerKV:
    """Weighted mean of keys, values and positions of each group, in the groups' order; weights add up.

    Args:
        kv: `(1, H, T, D)`.
        group: `(h, T)`.
        groups: number of groups.
        share: `(h, T)`, how much of each token is in its group's mean, relative to the others; default: its weight.
            A group must not be all zero.
    """
    heads, mixed = kv.keys.shape[1], kv.weights if share is None else share
    kept_apart = max(group.shape[0], mixed.shape[0], kv.weights.shape[0], kv.positions.shape[1])
    few, exact = group.expand(kept_apart, -1), torch.promote_types(kv.keys.dtype, torch.float32)
    part = mixed.to(exact).expand(kept_apart, -1)
    part = part / group_sums(part[:, :, None], few, groups)[:, :, 0].gather(1, few)
    every = group.expand(heads, -1)
    keys, values = (
        group_sums(x[0].to(exact), every, groups, part.expand(heads, -1)).to(x.dtype)
        for x in (kv.keys, kv.values)
    )
    # From the first token on, where fp32 is finest: equal positions then have exactly that mean.
    first = kv.positions[:, :, :1]
    far = (kv.positions - first).expand(-1, kept_apart, -1).movedim(0, -1).to(exact)
    positions = group_sums(far, few, groups, part).movedim(-1, 0).to(kv.positions.dtype) + first
    weights = group_sums(kv.weights.expand(kept_apart, -1)[:, :, None], few, groups)[:, :, 0]
    return LayerKV(keys[None], values[None], positions, weights)


def group_sums(x: Tensor, group: Tensor, groups: int, share: Tensor | None = None) -> Tensor:
    """Sums of `(H, T, D)` by group `(H, T)`: `(H, groups, D)`, each term times its share `(H, T)` if given.

    `embedding_bag` sums a list of table rows in the list's order; `index_add_` would not on a GPU.
    """
    heads, tokens, width = x.shape
    order = group.argsort(dim=-1, stable=True)
    starts = _starts(group.gather(1, order), groups)
    before = tokens * torch.arange(heads, device=x.device)[:, None]
    sums = torch.nn.functional.embedding_bag(
        (order + before).flatten(),
        x.reshape(heads * tokens, width),
        (starts + before).flatten(),
        mode="sum",
        per_sample_weights=None if share is None else share.gather(1, order).flatten(),
    )
    return sums.view(heads, groups, width)


def by_group(score: Tensor, group: Tensor) -> Tensor:
    """Tokens `(H, T)` ordered by group, in each from the highest score down; of equal ones the earliest first."""
    order = score.argsort(dim=-1, descending=True, stable=True)
    return order.gather(1, group.gather(1, order).argsort(dim=-1, stable=True))


def best_in_group(score: Tensor, group: Tensor, groups: int) -> Tensor:
    """Index of the token of highest score in each group, `(H, groups)`; of equal ones the earliest.

    Args:
        score: `(H, T)`.
        group: `(H, T)`, no group empty.
        groups: number of groups.
    """
    order = by_group(score, group)
    return order.gather(1, _starts(group.gather(1, order), groups))


def _starts(ascending: Tensor, groups: int) -> Tensor:
    """Where each group begins in ascending group numbers `(H, T)`: `(H, groups)`."""
    numbers = torch.arange(groups, device=ascending.device).expand(len(ascending), -1)
    return torch.searchsorted(ascending, numbers.contiguous())


def in_time_order(kv: LayerKV) -> LayerKV:
    """The same KVs by temporal position, head by head; of equal positions the one that comes first stays first."""
    order = kv.positions[0].argsort(dim=-1, stable=True)
    return kv.take(order[0] if order.shape[0] == 1 else order)


def unweighted(kv: LayerKV) -> LayerKV:
    """The same KVs, each weighing one token."""
    return replace(kv, weights=torch.ones_like(kv.weights))
