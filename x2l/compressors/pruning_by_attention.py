"""Pruning by attention: what the chunk's own queries look at, what later ones are expected to, what a probe does.

All are kept head by head, query heads grouped on KV heads by their mean; see attention_scorers.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from x2l.compressors import attention_scorers as scorers
from x2l.compressors.base import Observation, Sizes
from x2l.compressors.pruning_by_keys import RankedPruning, ScoredPruning, fits, whole
from x2l.kv import LayerKV

QUERIES = frozenset({"queries"})


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
            whole(self.name, "window", self.window, 1)
        whole(self.name, "kernel", self.kernel, 1, odd=True)

    def check(self, tokens: int, keep: int) -> None:
        """Whether the window leaves KVs to vote for.

        Raises:
            ValueError: it does not.
        """
        fits(self.name, "window", self.window, tokens, keep)

    def importance(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """Votes of the window."""
        self.check(kv.tokens, keep)
        return scorers.snapkv(kv, obs, self._window(keep), self.kernel)

    def _window(self, keep: int) -> int:
        return keep // 4 if self.window is None else self.window

    def flops(self, sizes: Sizes) -> int:
        """Logits of the window's queries."""
        window = max(1, self._window(sizes.keep))
        return 2 * sizes.query_heads * window * sizes.tokens * sizes.head_dim


@dataclass(frozen=True)
class TOVA(ScoredPruning):
    """Keeps what the chunk's last query attends to, the same tokens in every head (TOVA, arXiv 2401.06104). Final.

    Adapted: once for a chunk, by its last visual token, instead of once for every token that is added.
    """

    name: str = "tova"
    needs: ClassVar[frozenset[str]] = QUERIES

    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """Attention of the last query."""
        return scorers.tova(kv, obs)

    def flops(self, sizes: Sizes) -> int:
        """Logits of one query."""
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
        """Attention received."""
        return scorers.received(kv, obs, self.average)

    def flops(self, sizes: Sizes) -> int:
        """Logits, block of queries by block, up to the end of each."""
        starts = range(0, sizes.tokens, scorers.BLOCK)
        ends = [min(start + scorers.BLOCK, sizes.tokens) for start in starts]
        pairs = sum((end - start) * end for start, end in zip(starts, ends, strict=True))
        return 2 * sizes.query_heads * pairs * sizes.head_dim


@dataclass(frozen=True)
class ExpectedAttention(ScoredPruning):
    """Keeps what queries behind the chunk are expected to attend to (Devoto et al., arXiv 2510.00636). Final.

    Adapted: at the true positions behind the chunk, M-RoPE included.

    Attributes:
        future: positions that are averaged over.
    """

    future: int = 512
    name: str = "expected_attention"
    needs: ClassVar[frozenset[str]] = QUERIES

    def __post_init__(self) -> None:
        """Checks the number of positions."""
        whole(self.name, "future", self.future, 1)

    def score(self, kv: LayerKV, obs: Observation) -> Tensor:
        """Expected attention."""
        return scorers.expected_attention(kv, obs, self.future)

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
        whole(self.name, "block", self.block, 2)
        whole(self.name, "sketch", self.sketch, 1)
        if self.blending is not None and not self.blending >= 0:
            raise ValueError(f"{self.name}: blending={self.blending}: must be a number >= 0")

    def importance(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """The blend."""
        blending = 1 - keep / kv.tokens if self.blending is None else self.blending
        leverage = scorers.standardised(scorers.leverage(kv, obs, self.sketch))
        attention = scorers.standardised(scorers.non_causal(kv, obs, self.block))
        return blending * leverage + attention

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
        """Attention of the probe."""
        return scorers.probed(kv, obs)

    def flops(self, sizes: Sizes) -> int:
        """Logits of the probe's queries; running the text through the model is counted by the engine."""
        return 2 * sizes.query_heads * sizes.probe * sizes.tokens * sizes.head_dim
