"""What selectors share that multiply the question's queries with something made of a level's keys, head by head."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from x2l.engine.kv_store import KVStore, LevelKeys
from x2l.engine.meter import Meter
from x2l.models.interface import ModelShape, VideoModel
from x2l.selectors.base import IndexingSelector, Query, RunFacts
from x2l.selectors.calibration import Calibration, Head, heads_of
from x2l.selectors.head_keys import (
    COMBINES,
    DTYPES,
    INDEXES,
    Combine,
    KeyIndex,
    Pool,
    all_heads,
    check_heads,
    combined,
    pooled,
    products,
    read_index,
)
from x2l.selectors.question_pass import TOKENS, rated_tokens, run_question, without_content

# Products `(query heads, tokens, keys)` of a (layer, KV head) -> a value for each chunk, or for each time step.
PoolLogits = Callable[[Tensor, tuple[int, int]], Tensor]


@dataclass(frozen=True)
class KeyedSelector(IndexingSelector):
    """Abstract: products of queries with vectors made of keys, pooled over a chunk, combined over tokens and heads.

    Attributes:
        heads: (layer, query head), counted from 0; None = all from `first_layer` on.
        level: whose keys; None = the finest.
        rope: products after RoPE, as attention makes them, or before.
        tokens: `all`, options and template included, since options often say what is looked for; or `question`, its
            own words only.
        null_question: words that ask nothing, such as `N/A`, whose relevance is taken off; None takes nothing off.
        combine: see `head_keys.combined`; None = what the method says.
        index: `host`, keys are read for every question; or `resident`, a copy on the device.
        dtype: of that copy.
        calibration: where the heads come from, if from a file.
        first_layer: where no heads are named.
    """

    heads: tuple[Head, ...] | None = None
    level: str | None = None
    rope: bool = True
    tokens: str = "all"
    null_question: str | None = None
    combine: Combine | None = None
    index: str = "host"
    dtype: str = "bfloat16"
    calibration: Calibration | None = None
    name: str = "keyed"
    first_layer: ClassVar[int] = 0

    @classmethod
    def load(cls, heads: Any = None, **settings: Any) -> Self:
        """From plain values.

        Args:
            heads: null, a list of [layer, head], or the path of a calibration.
            settings: see the class.

        Raises:
            ValueError: a value that cannot work.
        """
        chosen, calibration = heads_of(heads, "keys", f"selector.{cls.name}.heads")
        return cls(heads=chosen, calibration=calibration, **settings)

    def __post_init__(self) -> None:
        """Checks the words.

        Raises:
            ValueError: an unknown one.
        """
        self.check_words(
            {"tokens": TOKENS, "index": INDEXES, "dtype": DTYPES, "combine": (None, *COMBINES)}
        )

    @abstractmethod
    def vectors_of(self, keys: LevelKeys, model: VideoModel) -> tuple[Tensor, tuple[int, ...]]:
        """Vectors `(n, D')` made of one KV head's keys, and how many belong to each chunk."""

    def matched_queries(self, queries: Tensor) -> Tensor:
        """What the vectors are multiplied with, `(Q, tokens, D')`, of queries `(Q, tokens, D)`."""
        return queries

    @property
    @abstractmethod
    def rule(self) -> tuple[Pool, Combine]:
        """How products are pooled over a chunk's vectors, and then combined."""

    def check(self, run: RunFacts) -> None:
        """The level must keep KVs; a calibration must be of this model, and not of the evaluated split."""
        run.check_level(self.name, self.level)
        if self.calibration is not None:
            field = f"selector.{self.name}.heads"
            self.calibration.check_run(run.model, run.checkpoint, run.evaluated, field)

    def check_shape(self, shape: ModelShape) -> None:
        """The model must have the heads.

        Raises:
            ValueError: it has not.
        """
        check_heads(self.name, self._heads(shape), shape)
        if not self._heads(shape):
            raise ValueError(
                f"selector={self.name}: looks at layers from {self.first_layer} on, counted from 0, but the model has "
                f"only {shape.layers}; give selector.{self.name}.heads=[[0, 0]] or others that it has"
            )

    def _heads(self, shape: ModelShape) -> tuple[Head, ...]:
        return all_heads(shape, self.first_layer) if self.heads is None else self.heads

    def remember(self, store: KVStore, model: VideoModel, meter: Meter) -> KeyIndex | None:
        """The vectors, in a dtype of few bytes."""
        if self.index == "host":
            return None
        return self._read(store, model, getattr(torch, self.dtype))[0]

    def _read(
        self, store: KVStore, model: VideoModel, dtype: torch.dtype | None
    ) -> tuple[KeyIndex, int]:
        level, heads = self.level or store.finest, self._heads(model.shape)
        return read_index(store, model, level, heads, self.vectors_of, dtype)

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """See the class.

        Raises:
            ValueError: heads that the model does not have, or a query without what `remember` made.
        """
        self.check_shape(model.shape)
        index = query.prepared
        if self.index == "host":
            index, streamed = self._read(store, model, None)
            meter.streamed_bytes += streamed
        if not isinstance(index, KeyIndex):
            raise ValueError(
                f"selector {self.name}: keeps an index of the video, which was not made; name it at the pre-fill, "
                "selectors=[...]"
            )
        pool, combine = self.rule

        def of_chunks(logits: Tensor, _: tuple[int, int]) -> Tensor:
            return pooled(logits, index.counts, pool)

        return self._scored(query, index, store, model, meter, of_chunks, combine)

    def _scored(
        self,
        query: Query,
        index: KeyIndex,
        store: KVStore,
        model: VideoModel,
        meter: Meter,
        pool: PoolLogits,
        combine: Combine,
    ) -> Tensor:
        """Combined scores, those of the words that ask nothing taken off."""
        scored = self._scored_once(query, index, store, model, meter, pool, combine)
        if self.null_question is None:
            return scored
        null = without_content(query, self.null_question, model)
        return scored - self._scored_once(null, index, store, model, meter, pool, combine)

    def _scored_once(
        self,
        query: Query,
        index: KeyIndex,
        store: KVStore,
        model: VideoModel,
        meter: Meter,
        pool: PoolLogits,
        combine: Combine,
    ) -> Tensor:
        heads, tokens = self._heads(model.shape), rated_tokens(query, self.tokens)
        run = run_question(query.question, store, model, meter, max(layer for layer, _ in heads))
        place = store.place(self.level or store.finest) if self.rope else None

        def queries_of(layer: int) -> Tensor:
            return self.matched_queries(run.queries(layer, tokens, place))

        every = products(queries_of, index, heads, model.shape, model.scaling, meter)
        scores = [
            pool(logits, of_head).cpu()
            for of_head, logits in zip(index.vectors, every, strict=True)
        ]
        return combined(torch.cat(scores), combine)
