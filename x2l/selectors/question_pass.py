"""The question's own queries: run over what is on the device anyway, and no further than they are needed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from x2l.engine.decode import question_positions
from x2l.engine.flops import decoder_flops
from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.attention import AttentionCapture
from x2l.models.interface import ModelShape, VideoModel
from x2l.models.positions import Placement
from x2l.models.prompt import Question
from x2l.selectors.base import Query

TOKENS = ("question", "all")


@dataclass(frozen=True)
class QuestionPass:
    """A question that was run over the coarsest level of every chunk.

    Attributes:
        model: that ran it.
        capture: queries, rotated, of every layer up to the last one asked for.
        positions: `(A, n)` of the question's tokens.
    """

    model: VideoModel
    capture: AttentionCapture
    positions: Tensor

    def queries(self, layer: int, tokens: Tensor, place: Placement | None) -> Tensor:
        """Queries `(Q, n, D)` of some of its tokens in one layer, in fp32 at least.

        Args:
            layer: of the model.
            tokens: `(n,)` indices.
            place: where the question is to stand; None = before RoPE.
        """
        rotated, positions = self.capture.queries[layer][:, :, tokens], self.positions[:, tokens]
        wide = rotated.to(torch.promote_types(rotated.dtype, torch.float32))
        if place is not None and place.next_position == int(self.positions[0, 0]):
            return wide[0]
        plain = self.model.unrotate(wide, positions)
        if place is None:
            return plain[0]
        moved = positions - int(self.positions[0, 0]) + place.next_position
        return self.model.apply_rope(plain, moved)[0]


def run_question(
    question: Question, store: KVStore, model: VideoModel, meter: Meter, last: int
) -> QuestionPass:
    """Runs a question over the coarsest level up to where a layer's queries are known.

    Args:
        question: all of its tokens are run.
        store: of the video.
        model: the model.
        meter: counts stage `selection`.
        last: the layer; KVs of later ones, and its own, are not even assembled.
    """
    mixed = store.mix([store.coarsest] * len(store.prompt.chunks))
    cache = model.load_cache(mixed.layers(last), reserve=len(question.input_ids))
    capture = AttentionCapture(last=last)
    count = len(question.input_ids)
    positions = question_positions(model.axes, mixed.place, count)
    model.prefill_span(model.embed_text(question.input_ids), positions, cache, capture)
    meter.add("selection", pass_flops(model.shape, count, mixed.mean_tokens, last))
    return QuestionPass(model, capture, positions)


def pass_flops(shape: ModelShape, tokens: int, cached: int, last: int) -> int:
    """Operations of running a question as far as the queries, keys and values of layer `last`."""
    whole = decoder_flops(shape.first(last), tokens, cached + tokens)
    width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    return whole + 2 * tokens * shape.hidden * width


def rated_tokens(query: Query, tokens: str) -> Tensor:
    """Indices of the tokens whose queries count: of the `question` alone, or `all`, options and template included."""
    if tokens == "all":
        return torch.arange(len(query.question.input_ids))
    return query.question.tokens_of(query.text or query.question.text)


def without_content(query: Query, words: str, model: VideoModel) -> Query:
    """The same query with the question's words replaced by others that ask nothing, e.g. `N/A`."""
    whole = query.question.text
    question_words = query.text or whole
    before, found, after = whole.rpartition(question_words)
    text = f"{before}{words}{after}" if found else words
    return replace(query, question=model.question(text), text=words)
