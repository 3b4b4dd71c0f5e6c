"""The question's queries against the chunks' keys: of heads found by calibration, or of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.interface import ModelShape, VideoModel
from x2l.selectors.base import IndexingSelector, Query, RunFacts
from x2l.selectors.calibration import Calibration, Head, heads_of
from x2l.selectors.head_keys import (
    DTYPES,
    INDEXES,
    POOLS,
    KeyIndex,
    Pool,
    all_heads,
    check_heads,
    combined,
    every_key,
    every_plain_key,
    pooled,
    products,
    read_index,
)
from x2l.selectors.question_pass import TOKENS, looked_at, run_question, without_content


@dataclass(frozen=True)
class KeysSelector(IndexingSelector):
    """Scaled products of the question's queries and a chunk's keys, without a softmax over the context. Final.

    With heads: the mean over them of the maximum over the question's tokens and the chunk's keys. Without: log of the
    summed exps over the chunk's keys, put on a scale of mean 0 and deviation 1 over chunks for every head and token,
    and the maximum of these. x2l's own; heads that find things are those of the retrieval-head papers (Wu et al., arXiv
    2404.15574; MMRetHead, arXiv 2605.27243, from which `null_question`).

    Attributes:
        heads: (layer, query head), counted from 0; None = all of the model.
        level: whose keys; None = the finest.
        rope: products after RoPE, as attention makes them, or before.
        tokens: `all`, options and template included, since options often say what is looked for; or `question`, its
            own words only.
        null_question: words that ask nothing, such as `N/A`, whose relevance is taken off; None takes nothing off.
        pool: `max`, `lse` or `mean` over a chunk's keys; None = `max` with heads, `lse` without.
        index: `host`, read for every question; or `resident`, a copy on the device.
        dtype: of that copy.
        calibration: where the heads come from, if from a file.
    """

    heads: tuple[Head, ...] | None = None
    level: str | None = None
    rope: bool = True
    tokens: str = "all"
    null_question: str | None = None
    pool: Pool | None = None
    index: str = "host"
    dtype: str = "bfloat16"
    calibration: Calibration | None = None
    name: str = "keys"

    @staticmethod
    def load(heads: Any = None, **settings: Any) -> KeysSelector:
        """From plain values.

        Args:
            heads: null, a list of [layer, head], or the path of a calibration.
            settings: see the class.

        Raises:
            ValueError: a value that cannot work.
        """
        chosen, calibration = heads_of(heads, "keys", "selector.keys.heads")
        return KeysSelector(heads=chosen, calibration=calibration, **settings)

    def __post_init__(self) -> None:
        """Checks the words.

        Raises:
            ValueError: an unknown one.
        """
        allowed = {"tokens": TOKENS, "index": INDEXES, "dtype": DTYPES, "pool": (None, *POOLS)}
        for field, words in allowed.items():
            if (value := getattr(self, field)) not in words:
                raise ValueError(f"selector.keys.{field}={value!r}: must be one of {words}")

    def check(self, run: RunFacts) -> None:
        """The level must keep KVs; a calibration must be of this model, and not of the evaluated split."""
        run.check_level(self.name, self.level)
        if self.calibration is not None:
            self.calibration.check_run(
                run.model, run.checkpoint, run.evaluated, f"selector.{self.name}.heads"
            )

    def check_shape(self, shape: ModelShape) -> None:
        """The model must have the heads."""
        check_heads(self.name, self.heads or (), shape)

    def remember(self, store: KVStore, model: VideoModel, meter: Meter) -> KeyIndex | None:
        """The keys that questions are compared with, rotated as they are compared."""
        if self.index == "host":
            return None
        return self._read(store, model, getattr(torch, self.dtype))[0]

    def _read(
        self, store: KVStore, model: VideoModel, dtype: torch.dtype | None
    ) -> tuple[KeyIndex, int]:
        level = self.level or store.finest
        heads = self.heads or all_heads(model.shape)
        return read_index(
            store, model, level, heads, every_key if self.rope else every_plain_key, dtype
        )

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """See the class.

        Raises:
            ValueError: heads that the model does not have, or a query without the copy that `remember` made.
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
        relevance = self._scored(query, index, store, model, meter)
        if self.null_question is not None:
            null = without_content(query, self.null_question, model)
            relevance = relevance - self._scored(null, index, store, model, meter)
        return relevance

    def _scored(
        self, query: Query, index: KeyIndex, store: KVStore, model: VideoModel, meter: Meter
    ) -> Tensor:
        heads = self.heads or all_heads(model.shape)
        asked = looked_at(query, self.tokens)
        run = run_question(query.question, store, model, meter, max(layer for layer, _ in heads))
        place = store.place(self.level or store.finest) if self.rope else None
        pool = self.pool or ("lse" if self.heads is None else "max")
        scores = [
            pooled(logits, index.counts, pool).cpu()
            for _, _, logits in products(
                lambda layer: run.queries(layer, asked, place),
                index,
                heads,
                model.shape,
                model.scaling,
                meter,
            )
        ]
        return combined(torch.cat(scores), "z_max" if self.heads is None else "mean")
