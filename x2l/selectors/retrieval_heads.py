"""Attention of retrieval heads, less what they pay anyway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.interface import ModelShape, VideoModel
from x2l.selectors.base import ChunkSelector, Query, RunFacts
from x2l.selectors.calibration import Calibration, Head, heads_of
from x2l.selectors.context_attention import attention_to
from x2l.selectors.head_keys import all_heads, check_heads
from x2l.selectors.question_pass import TOKENS, rated_tokens, without_content


@dataclass(frozen=True)
class RetrievalHeadsSelector(ChunkSelector):
    """Attention to a chunk's KVs in the whole context, mean over some heads and the question's tokens. Final.

    MMRetHead (arXiv 2605.27243, eq. 2): less the same for a question that asks nothing. Its published heads of
    Qwen2.5-VL and Qwen3-VL are read as they are (github.com/ab-cli/MMRetHead, `configs/retriever/*_head_score.json`).
    Runs the question over a level of every chunk as far as the last head's layer; the finest is streamed for it.

    Attributes:
        heads: (layer, query head), counted from 0; None = all of the model.
        level: the context; None = the finest.
        tokens: `question`, its own words, as in the paper; or `all`, options and template included.
        null_question: words that ask nothing; None takes nothing off.
        calibration: where the heads come from, if from a file.
    """

    heads: tuple[Head, ...] | None = None
    level: str | None = None
    tokens: str = "question"
    null_question: str | None = "N/A"
    calibration: Calibration | None = None
    name: str = "retrieval_heads"

    @staticmethod
    def load(heads: Any = None, **settings: Any) -> RetrievalHeadsSelector:
        """From plain values.

        Args:
            heads: null, a list of [layer, head], or the path of a calibration or of a published file.
            settings: see the class.

        Raises:
            ValueError: a value that cannot work.
        """
        chosen, found = heads_of(heads, "attention", "selector.retrieval_heads.heads")
        return RetrievalHeadsSelector(heads=chosen, calibration=found, **settings)

    def __post_init__(self) -> None:
        """Checks the words.

        Raises:
            ValueError: an unknown one.
        """
        self.check_words({"tokens": TOKENS})

    def check(self, run: RunFacts) -> None:
        """The level must keep KVs; a calibration must be of this model, and not of the evaluated split."""
        run.check_level(self.name, self.level)
        if self.calibration is not None:
            field = f"selector.{self.name}.heads"
            self.calibration.check_run(run.model, run.checkpoint, run.evaluated, field)

    def check_shape(self, shape: ModelShape) -> None:
        """The model must have the heads."""
        check_heads(self.name, self.heads or (), shape)

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """See the class.

        Raises:
            ValueError: heads that the model does not have.
        """
        self.check_shape(model.shape)
        relevance = self._paid(query, store, model, meter)
        if self.null_question is not None:
            null = without_content(query, self.null_question, model)
            relevance = relevance - self._paid(null, store, model, meter)
        return relevance

    def _paid(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        heads: dict[int, list[int]] = {}
        for layer, head in self.heads or all_heads(model.shape):
            heads.setdefault(layer, []).append(head)
        tokens = rated_tokens(query, self.tokens)
        context = [self.level or store.finest] * len(store.prompt.chunks)
        paid = [
            one.by_chunk()[heads[one.layer]][:, tokens].mean(dim=1).cpu()
            for one in attention_to(query.question, store, model, meter, context, sorted(heads))
        ]
        return torch.cat(paid).mean(dim=0)
