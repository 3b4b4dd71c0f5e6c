"""Merging: fold similar KVs into one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from x2l.compressors.base import Compressor, Observation
from x2l.compressors.pooling import averaged
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
    features = torch.nn.functional.normalize(
        keys.float().transpose(0, 1).flatten(1), dim=-1
    )  # (T, H * D)
    similarity = features[1::2] @ features[0::2].T  # (A = odd places, B = even places): |B| >= |A|
    strength, partner = similarity.max(dim=-1)
    chosen = strength.argsort(descending=True, stable=True)[:remove]
    target = torch.arange(tokens, device=keys.device)
    target[2 * chosen + 1] = 2 * partner[chosen]
    survivors = torch.zeros(tokens, dtype=torch.long, device=keys.device)
    survivors[target] = 1  # B tokens and un-merged A tokens point to themselves
    return (survivors.cumsum(0) - 1)[target]


@dataclass(frozen=True)
class ToMe(Compressor):
    """Token merging by bipartite soft matching on keys before RoPE (Bolya et al., arXiv 2210.09461). Final.

    A round removes at most half of the tokens, so a high ratio takes several. A merged KV is the weighted mean of its
    members and, with `proportional`, weighs as many tokens in attention as it stands for (paper, eq. 1).

    Attributes:
        proportional: add the log of the number of merged tokens to the attention logits.
    """

    proportional: bool = True
    name: str = "tome"

    def compress(self, kv: LayerKV, seen: Observation, keep: int) -> LayerKV:
        """Merges until `keep` KVs are left."""
        while kv.tokens > keep:
            remove = min(kv.tokens // 2, kv.tokens - keep)
            kv = averaged(kv, matching(kv.keys[0], remove), kv.tokens - remove)
        if self.proportional:
            return kv
        return LayerKV(kv.keys, kv.values, kv.positions, torch.ones_like(kv.weights))

    def flops(self, heads: int, tokens: int, keep: int, head_dim: int) -> int:
        """Similarities, and one multiply-add for each entry of keys and values, round by round."""
        total = 0
        while tokens > keep:
            remove = min(tokens // 2, tokens - keep)
            odd = tokens // 2
            total += 2 * odd * (tokens - odd) * heads * head_dim + 4 * heads * tokens * head_dim
            tokens -= remove
        return total
