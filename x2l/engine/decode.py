"""Greedy decoding from a mixed cache, at explicit positions.

Own loop, not `generate`: that needs an attention mask and positions for every cached token, refuses layers of
different length, and is silently wrong with `inputs_embeds` on a filled cache. Tests use it as the oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from x2l.engine.context_length import check_question
from x2l.engine.flops import answer_flops
from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.attention import AttentionCapture
from x2l.models.interface import VideoModel
from x2l.models.kv_cache import BufferCache
from x2l.models.positions import Placement
from x2l.models.prompt import Question


@dataclass(frozen=True)
class Answer:
    """What the model said, and what it decoded from.

    Attributes:
        text: generated text, special tokens left out.
        token_ids: generated tokens, the end token included.
        kv_bytes_stored: of the mixed cache that the answer was decoded from, as its parts are stored, positions and
            weights included.
        kv_bytes_attended: keys and values of the decoded copy of it, which is what attention reads.
        kv_bytes_reloaded: of the parts as they are stored, brought back from the host for it.
        first_logits: `(vocabulary,)` fp32 logits of the first answer token, on the host.
    """

    text: str
    token_ids: tuple[int, ...]
    kv_bytes_stored: int
    kv_bytes_attended: int
    kv_bytes_reloaded: int
    first_logits: Tensor


def question_positions(axes: int, place: Placement, tokens: int) -> Tensor:
    """`(A, tokens)` consecutive positions from where the question goes; text is equal on all axes."""
    return (torch.arange(tokens) + place.next_position).expand(axes, -1)


def ask(
    model: VideoModel,
    cache: BufferCache,
    question: Question,
    place: Placement,
    capture: AttentionCapture | None = None,
) -> Tensor:
    """Runs the question over a filled cache; logits of the first answer token, `(vocabulary,)`."""
    return ask_batch(model, cache, question, place, 1, capture)[0]


def ask_batch(
    model: VideoModel,
    cache: BufferCache,
    question: Question,
    place: Placement,
    rows: int,
    capture: AttentionCapture | None = None,
) -> Tensor:
    """Runs the question over every row of a filled cache, `(rows, vocabulary)`; see `ask`."""
    positions = question_positions(model.axes, place, len(question.input_ids))
    embedded = model.embed_text(question.input_ids)
    embedded = replace(embedded, embeds=embedded.embeds.expand(rows, -1, -1))
    return model.logits(embedded, positions, cache, capture)


def answer(
    model: VideoModel,
    store: KVStore,
    question: Question,
    assignment: Sequence[str],
    max_new_tokens: int = 16,
    meter: Meter | None = None,
) -> Answer:
    """Mixes the cache, each chunk at the level assigned to it, and decodes greedily.

    Args:
        model: the model.
        store: from `prefill`.
        question: from `model.question`.
        assignment: a level for every chunk, as `KVStore.reloading` or `assigned` gives.
        max_new_tokens: at most that many tokens.
        meter: counts stages reload and decode.

    Raises:
        ContextError: question and answer do not fit the model's context.
    """
    meter = meter or Meter(model.device)
    with meter.stage("reload"):
        mixed = store.mix(assignment)
        question_tokens = len(question.input_ids)
        limit, start = model.shape.context_length, mixed.place.next_position
        check_question(limit, max(mixed.tokens), start, question_tokens, max_new_tokens)
        cache = model.load_cache(mixed.layers(), reserve=question_tokens + max_new_tokens)
        attended = cache.nbytes
    meter.add("reload", mixed.decode_flops)
    sizes = {level: store.stored_bytes(level) for level in set(assignment) - {store.coarsest}}
    reloaded = sum(sizes[level][i] for i, level in enumerate(assignment) if level in sizes)
    with meter.stage("decode"):
        first = ask(model, cache, question, mixed.place)
        tokens = _greedy(model, cache, first, question, mixed.place, max_new_tokens)
    meter.add("decode", answer_flops(model.shape, mixed.mean_tokens, question_tokens, len(tokens)))
    return Answer(
        model.decode_text(tokens),
        tuple(tokens),
        mixed.stored_bytes,
        attended,
        reloaded,
        first.float().cpu(),
    )


def _greedy(
    model: VideoModel,
    cache: BufferCache,
    logits: Tensor,
    question: Question,
    place: Placement,
    limit: int,
) -> list[int]:
    """Token by token until an end token or the limit.

    Generated tokens follow the question's positions, under the `hf` rule too, where both stand
    earlier than the video's end: so does `generate` of transformers 5.23 (5.17 jumped behind it).
    """
    start = place.next_position + len(question.input_ids)
    tokens: list[int] = []
    while True:
        tokens.append(int(logits.argmax()))
        if len(tokens) == limit or tokens[-1] in model.end_tokens:
            return tokens
        position = Placement(start + len(tokens) - 1, place.video_end)
        embedded = model.embed_text(torch.tensor(tokens[-1:]))
        logits = model.logits(embedded, question_positions(model.axes, position, 1), cache)[0]
