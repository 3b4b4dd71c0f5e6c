"""The ground truth as a selector: what selection could gain at best, apart from what compression loses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from x2l.compute import Meter
from x2l.models.base import VideoModel
from x2l.selection import gt_chunks
from x2l.selectors.base import ChunkSelector, Query
from x2l.store import KVStore


@dataclass(frozen=True)
class OracleSelector(ChunkSelector):
    """Ground-truth chunks only, earlier ones first; never others, however large top_k is. Final."""

    name: str = "oracle"

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """1 for chunks that hold a ground-truth frame, -inf for others.

        Raises:
            ValueError: the benchmark does not say where the answer lies.
        """
        if query.spans is None:
            raise ValueError(
                f"selector=oracle: question {query.key!r} has no ground-truth time spans; leave the oracle out here"
            )
        relevance = torch.full((len(store.prompt.chunks),), float("-inf"))
        relevance[list(gt_chunks(store.prompt.chunks, query.spans))] = 1.0
        return relevance
