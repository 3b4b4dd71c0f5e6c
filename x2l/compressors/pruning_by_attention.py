"""Pruning: by attention, from the chunk's own queries, from those that are expected, or from those of a probe.

Attention here is that of these queries to the chunk's own visual keys: a softmax over these alone. That is the model's
attention but for one factor a query: what falls on the prompt and on other chunks is left out, and the rest sums to 1.
Query heads are grouped on KV heads by their mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d
from typing_extensions import override

from x2l.compressors.base import Observation, Sizes
from x2l.compressors.draws import seeded
from x2l.compressors.pruning_base import (
    RankedPruning,
    ScoredPruning,
    check_fits,
    check_whole,
    exact,
    rotated_keys,
)
from x2l.kv import LayerKV

QUERIES = frozenset({"queries"})
BLOCK = 256  # queries whose attention is in memory at a time


@dataclass(frozen=True)
class SnapKV(RankedPruning):
    """Keeps what the chunk's last queries attend to, and these themselves (SnapKV, arXiv 2404.14469). Final.

    Adapted: the observation window is the tail of each chunk, since the question is not known; it attends to the
    chunk's visual tokens.

    Attributes:
        window: last tokens that vote and are always kept; null = a quarter of the kept count (below 4 kept, the last
            token votes and nothing is kept unseen).
        kernel: tokens that votes are averaged over, odd; 1 = none.
    """

    window: int | None = None
    kernel: int = 5
    name: str = "snapkv"
    needs: ClassVar[frozenset[str]] = QUERIES

    def __post_init__(self) -> None:
        """Checks window and kernel."""
        if self.window is not None:
            check_whole(self.name, "window", self.window, 1)
        check_whole(self.name, "kernel", self.kernel, 1, odd=True)

    def check(self, tokens: int, keep: int) -> None:
        """Whether the window leaves KVs to vote for.

        Raises:
            ValueError: it does not.
        """
        check_fits(self.name, "window", self.window, tokens, keep)

    def importance(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """Mean attention from the window, smoothed along the sequence; the window's own score is infinite.

        As in the published code: mean pooling, zeros beyond the ends. Query heads vote together, by their mean (there
        each has a cache of its own; kvpress' SnapKVPress groups as here).
        """
        self.check(kv.tokens, keep)
        window = self._window(keep)
        votes = _last(kv, obs, max(1, window)).mean(dim=(1, 2))[:, : kv.tokens - window]
        smooth = avg_pool1d(votes[None], self.kernel, stride=1, padding=self.kernel // 2)[0]
        return torch.cat([smooth, smooth.new_full((len(smooth), window), torch.inf)], dim=1)

    def _window(self, keep: int) -> int:
        return keep // 4 if self.window is None else self.window

    def flops(self, sizes: Sizes) -> int:
        """Logits of the window's queries."""
        window = max(1, self._window(sizes.keep))
        return 2 * sizes.query_heads * window * sizes.tokens * sizes.head_dim


@dataclass(frozen=True)
class TOVA(ScoredPruning):
    """Keeps what the chunk's last query attends to, the same tokens in every head (TOVA, arXiv 2401.06104). Final.

    Adapted: once for a chunk, by its last visual token, instead of once for every token that is added. As in the
    published code, without a guarantee for the last token.
    """

    name: str = "tova"
    needs: ClassVar[frozenset[str]] = QUERIES

    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """Attention of the last query, mean over *all* heads."""
        weights = _last(kv, obs, 1)
        return weights.mean(dim=(0, 1)).expand(len(weights), -1)

    @override
    def flops(self, sizes: Sizes) -> int:
        return 2 * sizes.query_heads * sizes.tokens * sizes.head_dim


@dataclass(frozen=True)
class AttentionReceived(ScoredPruning):
    """Keeps the heavy hitters of the chunk: what its own queries attended to most (H2O, arXiv 2306.14048). Final.

    Adapted: once, over the whole chunk, in place of greedily for each new token; and without H2O's half of recent
    tokens, which would be spent on the end of every chunk.

    Attributes:
        average: divide by the number of queries that see a token, which the sum of the paper favours early tokens by.
    """

    average: bool = False
    name: str = "attention_received"
    needs: ClassVar[frozenset[str]] = QUERIES

    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """Causal attention that each token gets from the chunk's queries, summed.

        Block of queries by block: memory grows with the tokens, not with their square.
        """
        keys = rotated_keys(kv, obs)
        queries = _grouped(_shown(obs.queries), len(keys))
        total = keys.new_zeros(keys.shape[:2])
        for start in range(0, kv.tokens, BLOCK):
            block = queries[:, :, start : start + BLOCK]
            weights = _causal_attention(block, keys, obs.scaling, start).mean(dim=1).sum(dim=1)
            total[:, : weights.shape[1]] += weights
        if self.average:
            total /= torch.arange(kv.tokens, 0, -1, device=keys.device)
        return total

    def flops(self, sizes: Sizes) -> int:
        """Logits, block of queries by block, up to the end of each."""
        starts = range(0, sizes.tokens, BLOCK)
        ends = [min(start + BLOCK, sizes.tokens) for start in starts]
        pairs = sum((end - start) * end for start, end in zip(starts, ends, strict=True))
        return 2 * sizes.query_heads * pairs * sizes.head_dim


@dataclass(frozen=True)
class ExpectedAttention(ScoredPruning):
    """Keeps what queries behind the chunk are expected to attend to (Devoto et al., arXiv 2510.00636). Final.

    Future queries are taken for Gaussian, with mean m and covariance S of the chunk's queries before RoPE, turned by
    the mean R of the next `future` rotations: E[exp(s q.k)] = exp(s k.Rm + s^2/2 k'RSR'k), normalised over the chunk,
    mean over the query heads of a KV head, times |v|.

    Adapted: R is taken at the true positions behind the chunk, on every axis of M-RoPE (kvpress starts at the chunk's
    length as if nothing came before it). All of the chunk's queries count: the sinks that the paper leaves out are in
    the prompt.

    Attributes:
        future: positions that are averaged over.
    """

    future: int = 512
    name: str = "expected_attention"
    needs: ClassVar[frozenset[str]] = QUERIES

    def __post_init__(self) -> None:
        """Checks the number of positions."""
        check_whole(self.name, "future", self.future, 1)

    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """Expected attention, times the value's norm."""
        keys = rotated_keys(kv, obs)
        queries = exact(_shown(obs.queries))
        plain = _grouped(obs.rope.unrotate(queries, obs.positions), len(keys))
        turn = self._average_turn(obs, plain)
        mean = plain.mean(dim=2, keepdim=True)  # (H, G, 1, D)
        centred = plain - mean
        covariance = turn.T @ (centred.mT @ centred / kv.tokens) @ turn
        grouped_keys = keys[:, None]  # (H, 1, T, D)
        logits = (mean @ turn @ grouped_keys.mT)[:, :, 0] * obs.scaling
        quadratic = ((grouped_keys @ covariance) * grouped_keys).sum(dim=-1)
        logits = logits + quadratic * (obs.scaling**2 / 2)
        return logits.softmax(dim=-1).mean(dim=1) * exact(kv.values[0]).norm(dim=-1)

    def _average_turn(self, obs: Observation, queries: Tensor) -> Tensor:
        """`(D, D)` mean RoPE of the `future` positions behind the chunk: row i is what it makes of unit vector i.

        Positions of text: the same on every axis, from one past the chunk's largest on. RoPE is linear, so turning a
        basis with the model's own function gives its matrix, whichever channels it pairs and whatever M-RoPE assigns
        to them.
        """
        width, axes = queries.shape[-1], obs.positions.shape[0]
        basis = torch.eye(width, dtype=queries.dtype, device=queries.device)[None, :, None]
        total = queries.new_zeros(width, width)
        first = obs.positions.max() + 1
        for start in range(0, self.future, 64):  # 64 x D x D numbers at a time
            count = min(64, self.future - start)
            places = first + torch.arange(start, start + count, device=obs.positions.device)
            vectors = basis.expand(1, width, count, width)
            total += obs.rope.apply_rope(vectors, places.expand(axes, -1))[0].sum(dim=1)
        return total / self.future

    def flops(self, sizes: Sizes) -> int:
        """Covariance and its quadratic form, the turned mean, and the turned covariance."""
        each = (
            sizes.tokens * (2 * sizes.head_dim**2 + sizes.head_dim)
            + 2 * sizes.head_dim**3
            + sizes.head_dim**2
        )
        return 2 * sizes.query_heads * each


@dataclass(frozen=True)
class Compactor(RankedPruning):
    """Keeps outliers among keys and what attends without a causal mask (Compactor, arXiv 2507.08143). Final.

    blending * leverage + non-causal attention, each with mean 0 and deviation 1 over the chunk of each head (kvpress:
    over all heads). Adapted: no sinks and no recent tokens are kept, a chunk's ends are not the prompt's.

    Attributes:
        block: tokens that attend to each other.
        sketch: columns of the Gaussian sketch; as many as channels or more = exact leverage scores.
        blending: weight of leverage; null = the fraction that is removed (kvpress' choice).
    """

    block: int = 256
    sketch: int = 48
    blending: float | None = None
    name: str = "compactor"
    draws = True  # the sketch
    needs: ClassVar[frozenset[str]] = QUERIES

    def __post_init__(self) -> None:
        """Checks all three.

        Raises:
            ValueError: a value that cannot work.
        """
        check_whole(self.name, "block", self.block, 2)
        check_whole(self.name, "sketch", self.sketch, 1)
        if self.blending is not None and not self.blending >= 0:
            raise ValueError(f"{self.name}: blending={self.blending}: must be a number >= 0")

    @override
    def importance(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        blending = 1 - keep / kv.tokens if self.blending is None else self.blending
        return blending * _standardised(self.leverage(kv, obs)) + _standardised(
            self.attention(kv, obs)
        )

    def attention(self, kv: LayerKV, obs: Observation) -> Tensor:
        """`(H, T)` attention from all queries of a token's block, earlier ones too, times |v|.

        Smoothed over 3 neighbours as kvpress' NonCausalAttnPress does, but with the model's factor on the logits, which
        that leaves out.
        """
        keys = rotated_keys(kv, obs)
        queries = _grouped(_shown(obs.queries), len(keys))
        parts = []
        for start in range(0, kv.tokens, self.block):
            span = slice(start, start + self.block)
            logits = queries[:, :, span] @ keys[:, None, span].mT * obs.scaling
            parts.append(logits.softmax(dim=-1).mean(dim=1).sum(dim=1))
        scores = torch.cat(parts, dim=1) * exact(kv.values[0]).norm(dim=-1)
        return avg_pool1d(scores[None], 3, stride=1, padding=1)[0]

    def leverage(self, kv: LayerKV, obs: Observation) -> Tensor:
        """`(H, T)` approximate leverage scores of the keys before RoPE: diag(X (X'X)^-1 X').

        X are the keys less their mean, times a Gaussian `(D, sketch)` matrix, the same for all heads (drawn by video,
        chunk and layer); with `sketch` >= D the keys themselves, and the scores are exact. A little is added to the
        diagonal of X'X, for chunks of fewer tokens than channels.
        """
        rows = exact(kv.keys[0])
        width = rows.shape[-1]
        rows = rows - rows.mean(dim=1, keepdim=True)
        if self.sketch < width:
            generator = seeded(obs.video_seed, obs.chunk, obs.layer)
            sketch = torch.randn(width, self.sketch, generator=generator) / self.sketch**0.5
            rows = rows @ sketch.to(rows)
        gram = rows.mT @ rows
        ridge = 1e-4 * gram.diagonal(dim1=1, dim2=2).mean(dim=-1) + 1e-12
        ridged = gram + ridge[:, None, None] * torch.eye(gram.shape[-1]).to(gram)
        # `inv` would wait for the GPU to check what the ridge ensures.
        inverse = torch.linalg.inv_ex(ridged).inverse
        return ((rows @ inverse) * rows).sum(dim=-1)

    def flops(self, sizes: Sizes) -> int:
        """Logits within blocks; sketch, Gram matrix and quadratic form (its inverse is not counted)."""
        sides = [
            min(self.block, sizes.tokens - start) for start in range(0, sizes.tokens, self.block)
        ]
        logits = 2 * sizes.query_heads * sum(side**2 for side in sides) * sizes.head_dim
        columns = min(self.sketch, sizes.head_dim)
        sketch = sizes.head_dim * columns if self.sketch < sizes.head_dim else 0
        return logits + 2 * sizes.heads * sizes.tokens * (sketch + 2 * columns**2)


@dataclass(frozen=True)
class TaskAware(ScoredPruning):
    """Keeps what a probe text attends to when it is asked right behind the chunk. Final.

    SnapKV with the question for its window (arXiv 2404.14469). The text is the same for every question of a run, so
    that a video is pre-filled once: a question that is known beforehand, or one that asks nothing in particular, as
    StreamMem's (arXiv 2508.15717), whose probe is the chat template alone: `probe=""`.

    Attributes:
        probe: the text; the engine closes it with the chat template, whose tokens count as well.
    """

    probe: str = "What happens in the video?"
    name: str = "task_aware"
    needs: ClassVar[frozenset[str]] = frozenset({"probe"})

    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """Mean attention from the probe's queries."""
        keys = rotated_keys(kv, obs)
        logits = _grouped(_shown(obs.probe), len(keys)) @ keys[:, None].mT * obs.scaling
        return logits.softmax(dim=-1).mean(dim=(1, 2))

    def flops(self, sizes: Sizes) -> int:
        """Logits of the probe's queries; running the text through the model is counted by the engine."""
        return 2 * sizes.query_heads * sizes.probe * sizes.tokens * sizes.head_dim


def _grouped(queries: Tensor, heads: int) -> Tensor:
    """Queries `(1, Q, n, D)` by the KV head that they read, `(H, Q / H, n, D)`."""
    return exact(queries[0]).unflatten(0, (heads, -1))


def _shown(queries: Tensor | None) -> Tensor:
    """The queries that the engine was asked to show.

    Raises:
        ValueError: it was not.
    """
    if queries is None:
        raise ValueError(
            'obs.queries and obs.probe are shown to a compressor that asks: put "queries" or "probe" in its `needs`'
        )
    return queries


def _causal_attention(queries: Tensor, keys: Tensor, scaling: float, start: int) -> Tensor:
    """Weights `(H, G, n, start + n)` of queries `(H, G, n, D)` that stand at `start` on and see no later key."""
    count = queries.shape[2]
    logits = queries @ keys[:, None, : start + count].mT * scaling
    later = torch.ones(count, count, dtype=torch.bool, device=keys.device).triu(1)
    logits[..., start:].masked_fill_(later, -torch.inf)
    return logits.softmax(dim=-1)


def _last(kv: LayerKV, obs: Observation, window: int) -> Tensor:
    """Attention of the chunk's last `window` queries, `(H, G, window, T)`."""
    queries, start = _grouped(_shown(obs.queries), kv.keys.shape[1]), kv.tokens - window
    return _causal_attention(queries[:, :, start:], rotated_keys(kv, obs), obs.scaling, start)


def _standardised(scores: Tensor) -> Tensor:
    """Each head's scores `(H, T)` with mean 0 and standard deviation 1."""
    centred = scores - scores.mean(dim=-1, keepdim=True)
    return centred / scores.std(dim=-1, correction=0, keepdim=True).clamp_min(1e-6)
