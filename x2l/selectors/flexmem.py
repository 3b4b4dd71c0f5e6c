"""FlexMem's relevance of a clip: the attention of a question that stands right behind it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.interface import ModelShape, VideoModel
from x2l.selectors.base import ChunkSelector, Query, RunFacts
from x2l.selectors.context_attention import attention_to
from x2l.selectors.question_pass import TOKENS, rated_tokens


@dataclass(frozen=True)
class FlexMemSelector(ChunkSelector):
    """Attention to one chunk alone in the context, summed over its KVs and the layers from `first_layer` on. Final.

    FlexMem (arXiv 2603.29252, Apache-2.0 code IrisTao1219/FlexMem), encoding-based: mean over heads and the question's
    tokens, where the paper sums over tokens, which orders chunks alike. There the clip is encoded with the question
    behind it; here its KVs of a level stand for it, behind the text before the video. Its MemIndex is selector
    `mem_index`. Runs the question once for every chunk, and streams the level for it.

    Attributes:
        first_layer: counted from 0; the paper's 3 leaves out layers that attend to everything alike.
        level: None = the finest.
        tokens: `all`, options and template included; or `question`, its own words.
    """

    first_layer: int = 3
    level: str | None = None
    tokens: str = "all"
    name: str = "flexmem"

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ValueError: an unknown word, or no layer.
        """
        self.check_words({"tokens": TOKENS})
        self.check_counts("first_layer", least=0)

    def check(self, run: RunFacts) -> None:
        """The level must keep KVs."""
        run.check_level(self.name, self.level)

    def check_shape(self, shape: ModelShape) -> None:
        """The model must have such a layer.

        Raises:
            ValueError: it has not.
        """
        if self.first_layer >= shape.layers:
            raise ValueError(
                f"selector.flexmem.first_layer={self.first_layer}: must be below {shape.layers}, the model's layers; "
                "use a smaller one"
            )

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """Summed attention to each chunk."""
        self.check_shape(model.shape)
        tokens, layers = (
            rated_tokens(query, self.tokens),
            range(self.first_layer, model.shape.layers),
        )
        relevance = []
        for chunk in range(len(store.prompt.chunks)):
            alone: list[str | None] = [None] * len(store.prompt.chunks)
            alone[chunk] = self.level or store.finest
            passes = attention_to(query.question, store, model, meter, alone, layers)
            paid = [one.by_chunk()[:, tokens, chunk].mean().cpu() for one in passes]
            relevance.append(torch.stack(paid).sum())
        return torch.stack(relevance)
