"""Quest's bound on what a page of keys can give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from x2l.engine.kv_store import LevelKeys
from x2l.models.interface import VideoModel
from x2l.selectors.head_keys import Combine, Pool, rotated_keys
from x2l.selectors.keyed import KeyedSelector


@dataclass(frozen=True)
class QuestSelector(KeyedSelector):
    """Upper bound of a query's product with any key of a page: sum over channels of max(q min, q max). Final.

    Quest (Tang et al., arXiv 2406.10774, `evaluation/quest_attention.py`), which takes pages for each token that is
    decoded, in layers from 2 on. Here the most over a chunk's pages, mean over the question's tokens and heads.

    Attributes:
        page: keys of a page; a chunk's last one may be shorter.
    """

    index: str = "resident"
    page: int = 16
    name: str = "quest"
    first_layer: ClassVar[int] = 2

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("page")

    @override
    def vectors_of(self, keys: LevelKeys, model: VideoModel) -> tuple[Tensor, tuple[int, ...]]:
        chunks = rotated_keys(keys, model, self.rope).split(list(keys.counts))
        pages = [chunk.split(self.page) for chunk in chunks]
        bounds = [torch.cat([p.amin(dim=0), p.amax(dim=0)]) for chunk in pages for p in chunk]
        return torch.stack(bounds), tuple(map(len, pages))

    @override
    def matched_queries(self, queries: Tensor) -> Tensor:
        """Negative parts, which the least key of a channel makes largest; then positive ones."""
        return torch.cat([queries.clamp(max=0), queries.clamp(min=0)], dim=-1)

    @property
    @override
    def rule(self) -> tuple[Pool, Combine]:
        return "max", self.combine or "mean"
