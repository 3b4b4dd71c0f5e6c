"""Selectors that do not look at the question: controls."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from x2l.compute import Meter
from x2l.models.base import VideoModel
from x2l.selectors.base import ChunkSelector, Query
from x2l.store import KVStore


@dataclass(frozen=True)
class SelectAll(ChunkSelector):
    """Every chunk is re-loaded: the all-low control. Final."""

    name: str = "all"

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """+inf for all."""
        return torch.full((len(store.prompt.chunks),), float("inf"))


@dataclass(frozen=True)
class SelectNone(ChunkSelector):
    """No chunk is re-loaded: the all-high control. Final."""

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
    name: str = "random"

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """Uniform draws."""
        digest = hashlib.sha256(f"{self.seed}/{query.key}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.rand(len(store.prompt.chunks), generator=generator)


@dataclass(frozen=True)
class UniformSelector(ChunkSelector):
    """Chunks spread evenly over the video, whatever the question. Final.

    The order halves the widest gap each time (van der Corput's sequence), so any top_k is spread and adds to the one
    before it.
    """

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
