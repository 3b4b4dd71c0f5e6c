"""Pruning: one budget for all heads of a layer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from x2l.compressors.base import Observation
from x2l.compressors.layer_budgets import apportioned
from x2l.compressors.pruning_base import OnPruning, RankedPruning
from x2l.kv import LayerKV


@dataclass(frozen=True)
class AdaKV(OnPruning):
    """Keeps the KVs of highest importance of all heads of a layer together, so heads keep different numbers. Final.

    Ada-KV (Feng et al., arXiv 2407.11550) on top of any scorer; the total is that of equal heads. Meant for scores that
    can be compared between heads, such as attention. A head's budget is (1 - floor) times its number of KVs among the
    best of all heads, plus floor times an equal budget (code 1baceda adaptive_snapkv/monkeypatch/snapkv_utils.py, which
    rounds each, so that its total may be off by a few; here the total is exact). What is not kept is not stored.

    Attributes:
        pruner: gives the importance.
        floor: part of an equal budget that every head keeps in any case (the paper's safeguard alpha: 0.2).
    """

    pruner: RankedPruning
    floor: float = 0.2
    name: str = "ada_kv"
    ragged = True

    def __post_init__(self) -> None:
        """Checks the pruning method and the floor.

        Raises:
            ValueError: a method without importance, or a floor outside of [0, 1].
        """
        if not isinstance(self.pruner, RankedPruning):
            raise ValueError(
                f"pruner={self.pruner!r}: must rank KVs (a RankedPruning such as key_norm or snapkv), since heads "
                f"are compared by importance"
            )
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor={self.floor}: must be in [0, 1], a part of an equal budget")

    def kept(self, importance: Tensor, keep: int) -> Tensor:
        """Which of `(H, T)` are kept: keep * H in all, at least one in each head."""
        heads, tokens = importance.shape
        best = importance.flatten().argsort(descending=True, stable=True)[: keep * heads]
        adaptive = (best // tokens).bincount(minlength=heads).tolist()
        blended = [(1 - self.floor) * count + self.floor * keep for count in adaptive]
        counts = torch.tensor(apportioned(keep * heads, blended, tokens), device=importance.device)
        order = importance.argsort(dim=-1, descending=True, stable=True)
        numbers = torch.arange(tokens, device=order.device).expand(heads, -1)
        rank = torch.empty_like(order).scatter_(1, order, numbers)
        return rank < counts[:, None]

    def compress(self, kv: LayerKV, obs: Observation, keep: int) -> LayerKV:
        """The longest head's number of KVs; shorter heads repeat their last one with weight 0."""
        mask = self.kept(self.pruner.importance(kv, obs, keep), keep)
        counts = mask.sum(dim=-1, keepdim=True)
        order = (~mask).long().argsort(dim=-1, stable=True)[:, : int(counts.max())]
        place = torch.arange(order.shape[1], device=order.device).expand_as(order)
        kept = kv.take(order.gather(1, place.minimum(counts - 1)))
        return replace(kept, weights=kept.weights * (place < counts))
