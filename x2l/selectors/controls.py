"""Selectors that do not look at the question: controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from x2l.compressors.draws import seeded
from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.interface import VideoModel
from x2l.selectors.base import ChunkSelector, Query
from x2l.selectors.roles import Role


@dataclass(frozen=True)
class SelectAll(ChunkSelector):
    """Every chunk is re-loaded: the all-low control. Final."""

    role: ClassVar[Role] = "control"
    single_level: ClassVar[Literal["finest", "coarsest"] | None] = "finest"
    name: str = "all"

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """+inf for all."""
        return torch.full((len(store.prompt.chunks),), float("inf"))


@dataclass(frozen=True)
class SelectNone(ChunkSelector):
    """No chunk is re-loaded: the all-high control. Final."""

    role: ClassVar[Role] = "control"
    single_level: ClassVar[Literal["finest", "coarsest"] | None] = "coarsest"
    name: str = "none"

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """-inf for all."""
        return torch.full((len(store.prompt.chunks),), float("-inf"))


@dataclass(frozen=True)
class RandomSelector(ChunkSelector):
    """A random order of the chunks, drawn anew for every question; larger top_k adds to smaller. Final.

    Attributes:
        seed: with the question's key it fixes the order.
    """

    seed: int = 0
    role: ClassVar[Role] = "control"
    name: str = "random"

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """Uniform draws."""
        return torch.rand(len(store.prompt.chunks), generator=seeded(self.seed, query.key))


@dataclass(frozen=True)
class MatchedRandomSelector(ChunkSelector):
    """Random chunks whose re-loaded bytes match what another selector of the run re-loads for the question. Final.

    The authors' control (commit ca42c78: 3 + 2 random chunks against top 3 with the first and the last pinned): the
    other selector may re-load fewer than top_k (the oracle, a file), pinned chunks on top, or the short last chunk;
    `random` at the same top_k would then compare unequal budgets. Nothing is pinned here: pinned chunks are part of
    the budget. The bytes are as near to it as whole chunks allow, half a chunk off at most.

    Attributes:
        to: name of the other selector in the run; its cell of the same top_k is matched.
        seed: with the question's key it fixes the order.
    """

    to: str
    seed: int = 0
    role: ClassVar[Role] = "control"
    name: str = "random_matched"

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """Uniform draws, the same as `random`'s; how many are taken follows from the budget."""
        return torch.rand(len(store.prompt.chunks), generator=seeded(self.seed, query.key))


@dataclass(frozen=True)
class FirstLastSelector(ChunkSelector):
    """Both ends of the video, inwards: first, last, second, last but one, ... (authors' commit ab7d258). Final."""

    role: ClassVar[Role] = "control"
    name: str = "first_last"

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """Minus the distance from the nearer end; the earlier chunk wins a tie."""
        at = torch.arange(len(store.prompt.chunks), dtype=torch.float32)
        return -torch.minimum(at, at.flip(0))


@dataclass(frozen=True)
class LastSelector(ChunkSelector):
    """The end of the video (authors' commit e65712e). Final."""

    role: ClassVar[Role] = "control"
    name: str = "last"

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """The chunk's place."""
        return torch.arange(len(store.prompt.chunks), dtype=torch.float32)


@dataclass(frozen=True)
class UniformSelector(ChunkSelector):
    """Chunks spread evenly over the video, whatever the question. Final.

    The order halves the widest gap each time (van der Corput's sequence), so any top_k is spread and adds to the one
    before it.
    """

    role: ClassVar[Role] = "control"
    name: str = "uniform"

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """Minus the place in that order."""
        chunks = len(store.prompt.chunks)
        bits = max(1, (chunks - 1).bit_length())
        # Reading the counter's bits backwards visits 1/2, 1/4, 3/4, 1/8, ...; 0 (the first chunk) comes last.
        visits = [int(format(i, f"0{bits}b")[::-1], 2) for i in range(1, 2**bits)] + [0]
        order = [chunk for chunk in visits if chunk < chunks]
        relevance = torch.empty(chunks)
        relevance[order] = -torch.arange(chunks, dtype=torch.float32)
        return relevance
