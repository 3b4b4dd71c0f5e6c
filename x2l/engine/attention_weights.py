"""Attention as the model computes it, from queries and keys that were captured."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_weights(queries: Tensor, keys: Tensor, scaling: float, bias: Tensor | None) -> Tensor:
    """Attention of each query to each key, `(Q, n, T)`, in fp32 at least; each query's sum is 1.

    Args:
        queries: `(1, Q, n, D)`, rotated.
        keys: `(1, H, T, D)`, rotated; the last n are those of the queries' own tokens, which see no later ones.
        scaling: the factor on query-key products.
        bias: `(h, T')` added to the logits of the first T' keys; None = nothing.
    """
    heads, count = queries.shape[1], queries.shape[2]
    exact = torch.promote_types(queries.dtype, torch.float32)
    wide = keys.repeat_interleave(heads // keys.shape[1], dim=1)
    logits = (queries.to(exact) @ wide.to(exact).transpose(2, 3))[0] * scaling
    if bias is not None:
        logits[:, :, : bias.shape[1]] += bias.repeat_interleave(heads // bias.shape[0], dim=0)[
            :, None
        ]
    later = torch.ones(count, count, dtype=torch.bool, device=logits.device).triu(1)
    logits[:, :, -count:] = logits[:, :, -count:].masked_fill(later, float("-inf"))
    return logits.softmax(dim=-1)
