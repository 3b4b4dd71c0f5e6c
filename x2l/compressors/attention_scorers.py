"""Importance of each KV of a chunk by the attention it gets or will get, for pruning. Pure functions; higher = keep.

Attention here is that of the chunk's own queries (or a probe's) to the chunk's own visual keys: a softmax over these
alone. That is the model's attention but for one factor a query: what falls on the prompt and on other chunks is left
out, and the rest sums to 1. Query heads are grouped on KV heads by their mean.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from x2l.compressors.base import Observation
from x2l.compressors.scorers import exact, generator, rotated_keys
from x2l.kv import LayerKV

BLOCK = 256  # queries whose attention is in memory at a time


def grouped(queries: Tensor, heads: int) -> Tensor:
    """Queries `(1, Q, n, D)` by the KV head that they read, `(H, Q / H, n, D)`."""
    return exact(queries[0]).unflatten(0, (heads, -1))


def shown(queries: Tensor | None) -> Tensor:
    """The queries that the engine was asked to show.

    Raises:
        ValueError: it was not.
    """
    if queries is None:
        raise ValueError(
            'obs.queries and obs.probe are shown to a compressor that asks: put "queries" or "probe" in its `needs`'
        )
    return queries


def causal_attention(queries: Tensor, keys: Tensor, scaling: float, start: int) -> Tensor:
    """Weights `(H, G, n, start + n)` of queries `(H, G, n, D)` that stand at `start` on and see no later key."""
    count = queries.shape[2]
    logits = queries @ keys[:, None, : start + count].mT * scaling
    later = torch.ones(count, count, dtype=torch.bool, device=keys.device).triu(1)
    logits[..., start:].masked_fill_(later, -torch.inf)
    return logits.softmax(dim=-1)


def _last(kv: LayerKV, obs: Observation, window: int) -> Tensor:
    """Attention of the chunk's last `window` queries, `(H, G, window, T)`."""
    queries, start = grouped(shown(obs.queries), kv.keys.shape[1]), kv.tokens - window
    return causal_attention(queries[:, :, start:], rotated_keys(kv, obs), obs.scaling, start)


def snapkv(kv: LayerKV, obs: Observation, window: int, kernel: int) -> Tensor:
    """Mean attention from the chunk's last `window` queries, smoothed along the sequence (SnapKV, arXiv 2404.14469).

    The window itself is kept, its score is infinite; without one (0) the last query votes and competes with the rest.
    As in the published code: mean pooling with `kernel`, zeros beyond the ends. Query heads vote together, by their
    mean (there each has a cache of its own; kvpress' SnapKVPress groups as here).
    """
    votes = _last(kv, obs, max(1, window)).mean(dim=(1, 2))[:, : kv.tokens - window]
    smooth = avg_pool1d(votes[None], kernel, stride=1, padding=kernel // 2)[0]
    return torch.cat([smooth, smooth.new_full((len(smooth), window), torch.inf)], dim=1)


def tova(kv: LayerKV, obs: Observation) -> Tensor:
    """Attention of the last query, mean over *all* heads: every head keeps the same tokens (TOVA, arXiv 2401.06104).

    As in the published code, without a guarantee for the last token.
    """
    weights = _last(kv, obs, 1)
    return weights.mean(dim=(0, 1)).expand(len(weights), -1)


def received(kv: LayerKV, obs: Observation, average: bool) -> Tensor:
    """Causal attention that each token gets from the chunk's queries, summed (heavy hitters of H2O, arXiv 2306.14048).

    Block of queries by block: memory grows with the tokens, not with their square.

    Args:
        kv: the chunk.
        obs: with queries.
        average: divide by the number of queries that see the token; the plain sum favours early ones.
    """
    keys = rotated_keys(kv, obs)
    queries = grouped(shown(obs.queries), len(keys))
    total = keys.new_zeros(keys.shape[:2])
    for start in range(0, kv.tokens, BLOCK):
        block = queries[:, :, start : start + BLOCK]
        weights = causal_attention(block, keys, obs.scaling, start).mean(dim=1).sum(dim=1)
        total[:, : weights.shape[1]] += weights
    if average:
        total /= torch.arange(kv.tokens, 0, -1, device=keys.device)
    return total


def average_turn(obs: Observation, future: int, like: Tensor) -> Tensor:
    """`(D, D)` mean RoPE of the `future` positions behind the chunk: row i is what it makes of unit vector i.

    Positions of text: the same on every axis, from one past the chunk's largest on. RoPE is linear, so turning a basis
    with the model's own function gives its matrix, whichever channels it pairs and whatever M-RoPE assigns to them.
    """
    width, axes = like.shape[-1], obs.positions.shape[0]
    basis = torch.eye(width, dtype=like.dtype, device=like.device)[None, :, None]
    total = like.new_zeros(width, width)
    first = obs.positions.max() + 1
    for start in range(0, future, 64):  # 64 x D x D numbers at a time
        count = min(64, future - start)
        at = first + torch.arange(start, start + count, device=obs.positions.device)
        vectors = basis.expand(1, width, count, width)
        total += obs.rope.apply_rope(vectors, at.expand(axes, -1))[0].sum(dim=1)
    return total / future


def expected_attention(kv: LayerKV, obs: Observation, future: int) -> Tensor:
    """Attention that queries behind the chunk are expected to pay, times the value's norm (arXiv 2510.00636).

    Future queries are taken for Gaussian, with mean m and covariance S of the chunk's queries before RoPE, turned by
    the mean R of the next `future` rotations: E[exp(s q.k)] = exp(s k.Rm + s^2/2 k'RSR'k), normalised over the chunk,
    mean over the query heads of a KV head, times |v|.

    Adapted: R is taken at the true positions behind the chunk, on every axis (kvpress starts at the chunk's length as
    if nothing came before it). All of the chunk's queries count: the sinks that the paper leaves out are in the prompt.
    """
    keys = rotated_keys(kv, obs)
    queries = exact(shown(obs.queries))
    plain = grouped(obs.rope.unrotate(queries, obs.positions), len(keys))
    turn = average_turn(obs, future, plain)
    mean = plain.mean(dim=2, keepdim=True)  # (H, G, 1, D)
    centred = plain - mean
    covariance = turn.T @ (centred.mT @ centred / kv.tokens) @ turn
    each = keys[:, None]  # (H, 1, T, D)
    logits = (mean @ turn @ each.mT)[:, :, 0] * obs.scaling
    logits = logits + ((each @ covariance) * each).sum(dim=-1) * (obs.scaling**2 / 2)
    return logits.softmax(dim=-1).mean(dim=1) * exact(kv.values[0]).norm(dim=-1)


def non_causal(kv: LayerKV, obs: Observation, block: int) -> Tensor:
    """Attention that each token gets from all queries of its block of `block` tokens, earlier ones too, times |v|.

    One half of Compactor (arXiv 2507.08143), smoothed over 3 neighbours as kvpress' NonCausalAttnPress does, but with
    the model's factor on the logits, which that leaves out.
    """
    keys = rotated_keys(kv, obs)
    queries = grouped(shown(obs.queries), len(keys))
    parts = []
    for start in range(0, kv.tokens, block):
        span = slice(start, start + block)
        logits = queries[:, :, span] @ keys[:, None, span].mT * obs.scaling
        parts.append(logits.softmax(dim=-1).mean(dim=1).sum(dim=1))
    scores = torch.cat(parts, dim=1) * exact(kv.values[0]).norm(dim=-1)
    return avg_pool1d(scores[None], 3, stride=1, padding=1)[0]


def leverage(kv: LayerKV, obs: Observation, sketch: int) -> Tensor:
    """Approximate leverage scores of the keys before RoPE: diag(X (X'X)^-1 X'), the other half of Compactor.

    X are the keys less their mean, times a Gaussian `(D, sketch)` matrix, the same for all heads (drawn by video,
    chunk and layer); with `sketch` >= D the keys themselves, and the scores are exact. A little is added to the
    diagonal of X'X, for chunks of fewer tokens than channels.
    """
    rows = exact(kv.keys[0])
    width = rows.shape[-1]
    rows = rows - rows.mean(dim=1, keepdim=True)
    if sketch < width:
        draws = torch.randn(width, sketch, generator=generator(obs)) / sketch**0.5
        rows = rows @ draws.to(rows)
    gram = rows.mT @ rows
    ridge = 1e-4 * gram.diagonal(dim1=1, dim2=2).mean(dim=-1) + 1e-12
    ridged = gram + ridge[:, None, None] * torch.eye(gram.shape[-1]).to(gram)
    inverse = torch.linalg.inv_ex(
        ridged
    ).inverse  # inv would wait for the GPU to check what the ridge ensures
    return ((rows @ inverse) * rows).sum(dim=-1)


def standardised(scores: Tensor) -> Tensor:
    """Each head's scores `(H, T)` with mean 0 and standard deviation 1."""
    centred = scores - scores.mean(dim=-1, keepdim=True)
    return centred / scores.std(dim=-1, correction=0, keepdim=True).clamp_min(1e-6)


def probed(kv: LayerKV, obs: Observation) -> Tensor:
    """Mean attention from the queries of a probe text that was run behind the chunk.

    SnapKV with a question for its window (arXiv 2404.14469); with a text that asks nothing in particular, as StreamMem
    has it (arXiv 2508.15717).
    """
    keys = rotated_keys(kv, obs)
    logits = grouped(shown(obs.probe), len(keys)) @ keys[:, None].mT * obs.scaling
    return logits.softmax(dim=-1).mean(dim=(1, 2))
