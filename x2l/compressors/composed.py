"""Composed: keep some KVs, and do not lose the rest. Works with any pruning method."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import override

from x2l.compressors.base import Compressor, Observation, Sizes
from x2l.compressors.grouping import (
    KeyGrouping,
    averaged,
    in_time_order,
    unweighted,
)
from x2l.compressors.pruning_base import OnPruning, Pruning
from x2l.kv import LayerKV, concat_layers

FOLDED = ("values", "keys_values")


def nearest(keys: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The kept key of largest cosine for each key; a kept one is its own.

    Args:
        keys: `(H, T, D)`, un-rotated.
        kept: `(H, K)` indices.

    Returns:
        Cosine and place among the kept, `(H, T)` each.
    """
    unit = normalize(keys.float(), dim=-1)
    centres = unit.gather(1, kept[:, :, None].expand(-1, -1, unit.shape[-1]))
    cosine, place = (unit @ centres.transpose(1, 2)).max(dim=-1)
    itself = torch.arange(kept.shape[1], device=keys.device).expand_as(kept)
    return cosine.scatter(1, kept, 1.0), place.scatter(1, kept, itself)


def check_pruner(method: str, pruner: Compressor) -> None:
    """Checks that a method's inner one prunes.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(pruner, Pruning):
        raise ValueError(
            f"{method}: pruner={pruner!r}: must be a pruning method, which keeps KVs as they are, such as key_norm"
        )


def kept_by(pruner: Pruning, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
    """Ascending indices `(H, keep)` of what a pruning method keeps."""
    return pruner.chosen(kv, obs, keep).expand(kv.keys.shape[1], -1)


class IntoKept(OnPruning):
    """Abstract: folds what a pruning method drops into what it keeps."""

    def __post_init__(self) -> None:
        """Checks the pruning method.

        Raises:
            ValueError: it does not prune.
        """
        check_pruner(self.name, self.pruner)

    @override
    def flops(self, sizes: Sizes) -> int:
        """The pruning method's, similarities to all kept keys, and the means."""
        return self.pruner.flops(sizes) + 2 * sizes.entries * sizes.keep + 4 * sizes.entries


@dataclass(frozen=True)
class MergeIntoKept(IntoKept):
    """Prunes, then averages each dropped KV into the kept one of most similar key before RoPE, head by head. Final.

    `fold: keys_values` is the averaged merging of LOOK-M (Wan et al., arXiv 2406.18139) on top of any scorer, there of
    attention that favours text; positions are averaged like keys. `fold: values` leaves kept keys where and what they
    are, as kvpress' MergingPress does (there with value norms as weights, and for rotated keys).

    Attributes:
        pruner: the pruning method.
        fold: `values` or `keys_values`.
        proportional: add the log of the number of merged tokens to the attention logits.
    """

    pruner: Pruning
    fold: str = "keys_values"
    proportional: bool = True
    name: str = "merge_into_kept"

    def __post_init__(self) -> None:
        """Checks the pruning method and what is folded.

        Raises:
            ValueError: an unknown word, or a method that does not prune.
        """
        super().__post_init__()
        if self.fold not in FOLDED:
            raise ValueError(f"fold={self.fold!r}: must be one of {FOLDED}")

    def compress(self, kv: LayerKV, obs: Observation, keep: int) -> LayerKV:
        """The kept KVs with what was folded into them."""
        kept = kept_by(self.pruner, kv, obs, keep)
        means = averaged(kv, nearest(kv.keys[0], kept)[1], keep)
        if self.fold == "values":
            means = replace(kv.take(kept), values=means.values, weights=means.weights)
        means = in_time_order(means)
        return means if self.proportional else unweighted(means)


@dataclass(frozen=True)
class D2O(IntoKept):
    """Prunes, then recalls dropped KVs that are similar enough to a kept one and merges them into it. Final.

    The token-level part of D2O (Wan et al., arXiv 2406.13035): a dropped KV is merged into the kept one of largest key
    cosine u if u is at least the mean of all dropped ones' (the paper's first threshold; later ones average over
    decoding steps, which compression by chunk does not have), with weight exp(u) against the kept one's exp(1).
    Adapted: any scorer, keys before RoPE, positions averaged alike. The layer-level budgets are not part of this.

    Attributes:
        pruner: the pruning method.
        proportional: add the log of the number of merged tokens to the attention logits (the paper: off).
    """

    pruner: Pruning
    proportional: bool = False
    name: str = "d2o"

    def compress(self, kv: LayerKV, obs: Observation, keep: int) -> LayerKV:
        """The kept KVs with what was recalled into them."""
        kept = kept_by(self.pruner, kv, obs, keep)
        cosine, place = nearest(kv.keys[0], kept)
        dropped = torch.ones_like(place, dtype=torch.bool).scatter_(1, kept, False)
        threshold = (cosine * dropped).sum(dim=-1, keepdim=True) / (kv.tokens - keep)
        used = (cosine >= threshold) | ~dropped
        counted = replace(kv, weights=kv.weights * used)
        means = in_time_order(averaged(counted, place, keep, cosine.exp() * used))
        return means if self.proportional else unweighted(means)


@dataclass(frozen=True)
class PruneThenMerge(OnPruning):
    """Spends a share of the budget on the most important KVs and merges all others into the rest of it. Final.

    As VisionZip (Yang et al., arXiv 2412.04467) keeps dominant tokens and merges the others into contextual ones; there
    on the vision encoder's output with its attention, here on KVs, head by head, with any two methods.

    Attributes:
        pruner: chooses what is kept as it is.
        merger: merges what is left, by its keys.
        share: of the budget, rounded up, for KVs that are kept as they are; at least one KV is a merged one.
    """

    pruner: Pruning
    merger: KeyGrouping
    share: float = 0.5
    name: str = "prune_then_merge"

    def __post_init__(self) -> None:
        """Checks the share and both methods.

        Raises:
            ValueError: a share outside of (0, 1), a pruner that does not prune, or a merger that needs the token grid.
        """
        check_pruner(self.name, self.pruner)
        if not 0 < self.share < 1:
            raise ValueError(
                f"share={self.share}: must be between 0 (then use the merger alone) and 1 (the pruner alone)"
            )
        if not isinstance(self.merger, KeyGrouping):
            raise ValueError(
                f"merger={self.merger.name!r}: must merge by keys alone (tome, kmeans, density_peaks): what pruning "
                f"leaves over has no grid"
            )

    def check(self, tokens: int, keep: int) -> None:
        """The pruning method's, of its part of the budget."""
        if self._kept(keep):
            self.pruner.check(tokens, self._kept(keep))

    def _kept(self, keep: int) -> int:
        """KVs that are kept as they are: at least one, and one less than all; of one KV in all none."""
        return min(math.ceil(self.share * keep), keep - 1)

    @override
    def compress(self, kv: LayerKV, obs: Observation, keep: int) -> LayerKV:
        kept, heads = self._kept(keep), kv.keys.shape[1]
        rest = torch.ones(heads, kv.tokens, dtype=torch.bool, device=kv.keys.device)
        index = torch.empty(heads, 0, dtype=torch.long, device=kv.keys.device)
        if kept:
            index = kept_by(self.pruner, kv, obs, kept)
        left = kv.take(rest.scatter_(1, index, False).nonzero()[:, 1].view(heads, -1))
        # Head by head: heads leave different tokens over, which must not be taken for one.
        rows = [self.merger.by_keys(keys[None], keep - kept) for keys in left.keys[0]]
        merged = averaged(left, torch.cat(rows), keep - kept)
        if not self.merger.proportional:
            merged = unweighted(merged)
        return in_time_order(concat_layers([kv.take(index), merged]))

    def flops(self, sizes: Sizes) -> int:
        """Both methods', each on its part."""
        kept = self._kept(sizes.keep)
        pruning = self.pruner.flops(replace(sizes, keep=kept)) if kept else 0
        left = replace(sizes, heads=1, tokens=sizes.tokens - kept, keep=sizes.keep - kept)
        return pruning + sizes.heads * self.merger.flops(left)
