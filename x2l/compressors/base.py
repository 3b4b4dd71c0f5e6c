"""What a compressor is: it turns one layer's KVs of one chunk into exactly `keep` KVs, before any question is known.

And what a level is: such a method at one ratio.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from torch import Tensor

from x2l.compressors.layer_budgets import UNIFORM, layer_counts, layer_shares
from x2l.compressors.quantisation import Codec
from x2l.kv import LayerKV

CAN_SEE = frozenset({"queries", "probe"})


class Rope(Protocol):
    """The model's own RoPE, for methods that need to know what a position does to a vector."""

    def apply_rope(self, vectors: Tensor, positions: Tensor) -> Tensor:
        """Puts vectors `(1, heads, T, D)` at positions `(A, T)`."""

    def unrotate(self, vectors: Tensor, positions: Tensor) -> Tensor:
        """Takes the positions `(A, T)` off rotated vectors `(1, heads, T, D)`."""


@dataclass(frozen=True)
class Observation:
    """What a compressor may look at beside the KVs of the layer.

    Attributes:
        layer: index of the decoder layer.
        chunk: index of the chunk.
        grid: the chunk's visual tokens as (time steps, rows, columns), in that order in the KVs.
        video_seed: differs from video to video, for methods that draw at random.
        positions: `(A, T)` integer rotary positions of the visual tokens, those that queries and keys were rotated to.
        rope: turns vectors to positions and back.
        scaling: the model's factor on query-key products.
        queries: `(1, Q, T, D)`, rotated, of the chunk's visual tokens; None unless the compressor `needs` "queries".
        probe: `(1, Q, n, D)`, rotated, queries of the compressor's `probe` text, run behind the chunk; None unless it
            `needs` "probe".
    """

    layer: int
    chunk: int
    grid: tuple[int, int, int]
    video_seed: int
    positions: Tensor
    rope: Rope
    scaling: float
    queries: Tensor | None = None
    probe: Tensor | None = None


@dataclass(frozen=True)
class Sizes:
    """Of one layer and one chunk: what the operations of a method follow from.

    Attributes:
        heads, query_heads: KV heads; query heads.
        tokens: the chunk's visual tokens.
        keep: KVs to return.
        head_dim: size of a key.
        probe: tokens of the probe text; 0 without one.
    """

    heads: int
    query_heads: int
    tokens: int
    keep: int
    head_dim: int
    probe: int = 0

    @property
    def entries(self) -> int:
        """Numbers in the keys of the chunk's visual tokens."""
        return self.heads * self.tokens * self.head_dim


class Method(ABC):
    """Abstract: where the KVs of a level come from. Its kinds are `Compressor` and `summary_tokens.Summariser`.

    Attributes:
        name: what errors call it (records and figures use the name of its yaml).
        ragged: whether heads may keep different numbers of KVs: `keep` a head on average, exactly. It then returns
            the longest head's number, and what only fills up shorter heads weighs 0.
        draws: whether it reads `Observation.video_seed`. Only the pre-fill cache asks, and only x2l's own: of a class
            that is not x2l's it takes it for granted.
        same_in_all_layers: whether it cannot keep more KVs in one layer than in another.
    """

    name: str
    ragged: bool = False
    draws: bool = False
    same_in_all_layers: bool = False

    @property
    def needs(self) -> frozenset[str]:
        """What the engine must collect for it, a subset of `CAN_SEE`. A class may just set it."""
        return frozenset()

    @property
    def probe(self) -> str:
        """Text that the engine runs behind each chunk for a compressor that needs "probe". A class may just set it."""
        return ""

    def check_ratio(self, ratio: float) -> None:  # noqa: B027 - most methods take any
        """Says before anything is loaded whether the method can have this ratio, which is finite and at least 1.

        Raises:
            ValueError: it cannot; names value, rule and remedy.
        """

    @abstractmethod
    def counts(self, chunks: Sequence[int], ratio: float) -> tuple[int, ...]:
        """KVs a layer that are kept of each chunk, on average over layers.

        Args:
            chunks: visual tokens of all chunks of the video, in time order.
            ratio: finite.

        Raises:
            ValueError: chunks that the method does not fit at this ratio.
        """


class Compressor(Method):
    """Abstract. A new method is a subclass with `compress`, and a yaml in conf/compressor."""

    def counts(self, chunks: Sequence[int], ratio: float) -> tuple[int, ...]:
        """One rule for all compressors, whatever the other chunks are."""
        return tuple(kept_tokens(tokens, ratio) for tokens in chunks)

    def check(self, tokens: int, keep: int) -> None:  # noqa: B027 - most methods fit any chunk
        """Says before anything runs whether `keep` of a chunk's `tokens` can be kept as the method is meant.

        Raises:
            ValueError: a window, a sink or a group does not fit; names method, field, value, rule and remedy.
        """

    @abstractmethod
    def compress(self, kv: LayerKV, obs: Observation, keep: int) -> LayerKV:
        """Returns exactly `keep` KVs, in time order.

        Args:
            kv: visual tokens of one chunk, `(1, H, T, D)`, keys un-rotated.
            obs: grid, layer, queries if needed.
            keep: number of KVs to return, 1 <= keep < T. Given, not derived from the ratio by every method again:
                rounding is one rule (`kept_tokens`), so methods are compared at exactly equal sizes.
        """

    @abstractmethod
    def flops(self, sizes: Sizes) -> int:
        """Floating point operations of `compress` for one layer, 2 per multiply-add."""


def kept_tokens(tokens: int, ratio: float) -> int:
    """ceil(tokens / ratio), exactly.

    In rationals: with floats `int(1440 * (1 - 2/3))` loses a token, as other packages do.
    """
    return math.ceil(Fraction(tokens) / Fraction(str(ratio)))


@dataclass(frozen=True)
class Level:
    """One method at one ratio.

    Attributes:
        compressor: the method, which compresses KVs, or lets summary tokens take their place.
        ratio: tokens in / tokens out, >= 1; 2 keeps half, 32 keeps 1/32. Never the fraction removed. Infinite: chunks
            at this level are dropped, text between their tokens included.
        codec: the form in which its KVs are stored; None = as the model computes them.
        layers: how the budget is spread over layers, see `layer_shares`; None = evenly.
    """

    compressor: Method
    ratio: float
    codec: Codec | None = None
    layers: str | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Checks the ratio, and the word for layers if it is one.

        Raises:
            ValueError: ratio < 1 or NaN, or one that the method cannot have; an unknown word, or one that does not
                fit the method.
        """
        if isinstance(self.layers, str):
            layer_shares(self.layers, 1)
        if not self.ratio >= 1:
            raise ValueError(
                f"ratio={self.ratio}: must be tokens in / tokens out, a number >= 1; "
                f"to keep a share s of the tokens write ratio=1/s, e.g. 2 to keep half"
            )
        if not self.dropped:
            self.compressor.check_ratio(self.ratio)
        if self.compressor.same_in_all_layers and self.layers not in (None, UNIFORM):
            raise ValueError(
                f"levels.*.layers={self.layers!r}: must be {UNIFORM!r} (or null) for compressor "
                f"{self.compressor.name}, whose KVs are as many in every layer"
            )

    @property
    def dropped(self) -> bool:
        """Whether chunks at this level are dropped."""
        return self.ratio == math.inf

    @property
    def even(self) -> bool:
        """Whether all layers and heads keep the same number of KVs."""
        return self.dropped or self.layers in (None, UNIFORM) and not self.compressor.ragged

    def counts(self, chunks: Sequence[int], layers: int) -> tuple[tuple[int, ...], ...]:
        """KVs that each layer keeps of each chunk, in all `layers` times what the method says.

        Args:
            chunks: visual tokens of all chunks of the video, in time order.
            layers: of the model.

        Raises:
            ValueError: shares that do not fit the number of layers, or chunks that do not fit the method.
        """
        if self.dropped:
            return ((0,) * layers,) * len(chunks)
        means = self.compressor.counts(chunks, self.ratio)
        spread = {
            (keep, tokens): layer_counts(self.layers, layers, layers * keep, tokens)
            for keep, tokens in {*zip(means, chunks, strict=True)}
        }
        return tuple(spread[pair] for pair in zip(means, chunks, strict=True))
