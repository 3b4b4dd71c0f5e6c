"""Merging: fold similar KVs into one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from x2l.compressors.base import Observation, Sizes
from x2l.compressors.grouping import Grouping, KeyGrouping, group_sums
from x2l.compressors.pooling import z_order
from x2l.kv import LayerKV


def matching(keys: Tensor, remove: int) -> Tensor:
    """One round of bipartite soft matching: `(T,)` group index of each token, `T - remove` groups in time order.

    Tokens alternate between sets A and B; each token of A points to its most similar token of B (cosine of keys, heads
    laid side by side), and the `remove` strongest pointers are merged (Bolya et al., arXiv 2210.09461, section 3).

    Args:
        keys: `(H, T, D)`, un-rotated.
        remove: number of tokens to merge away, at most T // 2.
    """
    tokens = keys.shape[1]
    features = normalize(keys.float().transpose(0, 1).flatten(1), dim=-1)  # (T, H * D)
    similarity = features[1::2] @ features[0::2].T  # (A = odd places, B = even places): |B| >= |A|
    strength, partner = similarity.max(dim=-1)
    chosen = strength.argsort(descending=True, stable=True)[:remove]
    target = torch.arange(tokens, device=keys.device)
    target[2 * chosen + 1] = 2 * partner[chosen]
    survivors = torch.zeros(tokens, dtype=torch.long, device=keys.device)
    survivors[target] = 1  # B tokens and un-merged A tokens point to themselves
    return (survivors.cumsum(0) - 1)[target]


def matched(keys: Tensor, keep: int) -> Tensor:
    """Rounds of `matching` until `keep` groups are left, each on the mean keys of the groups so far; `(1, T)`.

    Args:
        keys: `(H, T, D)`, un-rotated.
        keep: number of groups.
    """
    heads, tokens, _ = keys.shape
    group, left, means = torch.arange(tokens, device=keys.device), tokens, keys
    for remove in _rounds(tokens, keep):
        if left < tokens:
            every = group.expand(heads, -1)
            sizes = group_sums(torch.ones_like(group)[None, :, None].float(), group[None], left)
            means = group_sums(keys.float(), every, left) / sizes
        group, left = matching(means, remove)[group], left - remove
    return group[None]


def _rounds(tokens: int, keep: int) -> list[int]:
    """Tokens to merge away, round by round: a round removes at most half."""
    rounds = []
    while tokens > keep:
        rounds.append(min(tokens // 2, tokens - keep))
        tokens -= rounds[-1]
    return rounds


def _matched_flops(sizes: Sizes) -> int:
    """Operations of `matched`: similarities of each round, and the means between rounds."""
    pairs, left, rounds = 0, sizes.tokens, _rounds(sizes.tokens, sizes.keep)
    for remove in rounds:
        pairs += (left // 2) * (left - left // 2)
        left -= remove
    means = 2 * sizes.entries * max(len(rounds) - 1, 0)
    return 2 * pairs * sizes.heads * sizes.head_dim + means


@dataclass(frozen=True)
class ToMe(KeyGrouping):
    """Token merging by bipartite soft matching on keys before RoPE (Bolya et al., arXiv 2210.09461). Final.

    A round removes at most half of the tokens, so a high ratio takes several. A merged KV is the mean of its members.

    Attributes:
        proportional: add the log of the number of merged tokens to the attention logits (paper, eq. 1).
    """

    proportional: bool = True
    name: str = "tome"

    def by_keys(self, keys: Tensor, keep: int) -> Tensor:
        """Groups by rounds of matching, the same for all heads."""
        return matched(keys, keep)

    def flops(self, sizes: Sizes) -> int:
        """Matching, and one multiply-add for each entry of keys and values."""
        return _matched_flops(sizes) + 4 * sizes.entries


def chained(keys: Tensor, keep: int, cuts: Tensor | None = None) -> Tensor:
    """Cuts a row of tokens into `keep` stretches where neighbours differ most; `(T,)` stretch of each token.

    Args:
        keys: `(H, T, D)`, un-rotated, in the order of the row; compared by cosine, heads laid side by side.
        keep: number of stretches.
        cuts: tokens at which a stretch must begin, at most `keep` with the first token.
    """
    features = normalize(keys.float().transpose(0, 1).flatten(1), dim=-1)
    likeness = (features[1:] * features[:-1]).sum(
        dim=-1
    )  # of each token but the first, with the one before
    if cuts is not None:
        likeness[cuts - 1] = -torch.inf
    joined = likeness.argsort(descending=True, stable=True)[: keys.shape[1] - keep] + 1
    starts = torch.ones(keys.shape[1], dtype=torch.long, device=keys.device)
    starts[joined] = 0
    return starts.cumsum(0) - 1


@dataclass(frozen=True)
class StaticMerging(Grouping):
    """Merges what stays the same from one time step to the next at the same place, most similar first. Final.

    As FrameFusion (Fu et al., arXiv 2501.01986) merges tokens of neighbouring frames in chains, and PruneVid (Huang
    et al., arXiv 2412.16117) and DyCoke (Tao et al., arXiv 2411.15024) merge static tokens in time. They compare hidden
    states with a threshold; here keys before RoPE are compared, and as many links are merged as the budget asks for.
    Where one KV for each place is still too many, each place becomes one and neighbouring places are merged likewise,
    along the Z-curve (PruneVid clusters them). Links do not reach into the chunk before.

    Attributes:
        proportional: add the log of the number of merged tokens to the attention logits.
    """

    proportional: bool = True
    name: str = "static_merging"

    def grouped(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """Stretches of the tokens at one place, or of places; the same for all heads."""
        keys, (steps, rows, columns) = kv.keys[0].float(), obs.grid
        places, device = rows * columns, keys.device
        if keep < places:
            still, order = (
                keys.unflatten(1, (steps, places)).mean(dim=1),
                z_order((1, rows, columns)),
            )
            stretch = torch.empty(places, dtype=torch.long, device=device)
            stretch[order.to(device)] = chained(still[:, order.to(device)], keep)
            return stretch.repeat(steps)[None]
        by_place = torch.arange(kv.tokens, device=device).view(steps, places).T.flatten()
        cuts = torch.arange(1, places, device=device) * steps
        group = torch.empty_like(by_place)
        group[by_place] = chained(keys[:, by_place], keep, cuts)
        return group[None]

    def flops(self, sizes: Sizes) -> int:
        """One multiply-add for each entry of the keys to compare them, and of keys and values for the means."""
        return 6 * sizes.entries
