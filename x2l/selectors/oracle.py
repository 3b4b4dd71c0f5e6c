"""The ground truth as a selector: the chunks that hold the frames a question is about.

Not the best that selection can do: it re-loads no more chunks than hold the evidence, and selector `keys` has answered
more questions at four chunks, of which those beyond the evidence helped too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from x2l.compressors.draws import seeded
from x2l.engine.ground_truth import gt_chunks
from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.interface import VideoModel
from x2l.selectors.base import ChunkSelector, Query
from x2l.selectors.roles import Role

MISSES = ("none", "random")


@dataclass(frozen=True)
class OracleSelector(ChunkSelector):
    """Ground-truth chunks only, earlier ones first; never others, however large top_k is. Final.

    A `bound` in that it is told where the answer lies, not in that nothing can do better.
    """

    role: ClassVar[Role] = "bound"
    name: str = "oracle"

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """1 for chunks that hold a ground-truth frame, -inf for others.

        Raises:
            ValueError: the benchmark does not say where the answer lies.
        """
        relevance = torch.full((len(store.prompt.chunks),), float("-inf"))
        relevance[_truth(self.name, query, store)] = 1.0
        return relevance


@dataclass(frozen=True)
class HitRateSelector(ChunkSelector):
    """Ground-truth chunks with probability `rate`: how good must a selector be? Final.

    The authors' simulation (commit 12f72f8, at 0.7; their notebook has the curve 0, 25, 50, 70, 100 %). A question
    that is hit at one rate is hit at every higher one, so that the curve is not blurred by other draws.

    Attributes:
        rate: 0 to 1.
        miss: what a missed question re-loads: `none` (the authors'), or `random` chunks that are not the ground truth,
            for a curve at equal bytes.
        seed: with the question's key it fixes hit or miss.
    """

    rate: float
    miss: str = "none"
    seed: int = 0
    role: ClassVar[Role] = "bound"
    name: str = "hit_rate"

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ValueError: a rate that is no probability, or an unknown kind of miss.
        """
        if not (isinstance(self.rate, int | float) and 0 <= self.rate <= 1):
            raise ValueError(f"selector.hit_rate.rate={self.rate!r}: must be 0 to 1, e.g. 0.7")
        if self.miss not in MISSES:
            raise ValueError(f"selector.hit_rate.miss={self.miss!r}: must be one of {MISSES}")

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """A hit: 1 for ground-truth chunks, -inf for others. A miss: -inf for all, or draws for the others.

        Raises:
            ValueError: the benchmark does not say where the answer lies.
        """
        truth = _truth(self.name, query, store)
        generator = seeded(self.seed, "hit", query.key)
        hit = float(torch.rand(1, generator=generator)) < self.rate
        relevance = torch.full((len(store.prompt.chunks),), float("-inf"))
        if hit:
            relevance[truth] = 1.0
        elif self.miss == "random":
            relevance = torch.rand(len(relevance), generator=generator)
            relevance[truth] = float("-inf")
        return relevance


def _truth(name: str, query: Query, store: KVStore) -> list[int]:
    if query.spans is None:
        raise ValueError(
            f"selector={name}: question {query.key!r} has no ground-truth time spans; leave it out here"
        )
    return list(gt_chunks(store.prompt.chunks, query.spans))
