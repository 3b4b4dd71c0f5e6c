"""Greedy decoding from mixed caches, at explicit positions; several questions and caches of a video at once.

Rows of a batch are filled up to equal lengths: caches behind their last KV, questions before their first token, always
with KVs that nothing attends to.

Own loop, not `generate`: that needs an attention mask and positions for every cached token, refuses layers of
different length, and is silently wrong with `inputs_embeds` on a filled cache. Tests use it as the oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from x2l.engine.context_length import check_question
from x2l.engine.flops import answer_flops, kv_bytes
from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.attention import AttentionCapture
from x2l.models.interface import Embedded, VideoModel
from x2l.models.kv_cache import BufferCache, Buffers
from x2l.models.positions import Placement
from x2l.models.prompt import Question


@dataclass(frozen=True)
class Request:
    """A question, and the cache that it is to be answered from.

    Attributes:
        question: from `model.question`.
        assignment: a level for every chunk, as `KVStore.reloading` or `assigned` gives.
    """

    question: Question
    assignment: tuple[str, ...]


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
    return ask_rows(model, cache, [question], [place], capture)[0]


def ask_rows(
    model: VideoModel,
    cache: BufferCache,
    questions: Sequence[Question],
    places: Sequence[Placement],
    capture: AttentionCapture | None = None,
) -> Tensor:
    """Runs a question over each row of a filled cache; logits of the first answer tokens, `(rows, vocabulary)`.

    Args:
        model: the model.
        cache: from `load_cache` or `load_rows`.
        questions: of each row.
        places: of each row, where its question goes.
        capture: collects what attention sees, shorter questions filled up at their start.
    """
    counts = torch.tensor([len(question.input_ids) for question in questions])
    longest = int(counts.max())
    ids = torch.stack(
        [
            functional.pad(question.input_ids, (longest - len(question.input_ids), 0))
            for question in questions
        ]
    )
    padding = longest - counts
    if padding.any():
        cache.hide_next(padding)
    starts = torch.tensor([place.next_position for place in places])
    positions = starts[:, None] + (torch.arange(longest) - padding[:, None]).clamp(min=0)
    return _logits(model, cache, ids, positions, capture)


def _logits(
    model: VideoModel,
    cache: BufferCache,
    ids: Tensor,
    positions: Tensor,
    capture: AttentionCapture | None = None,
) -> Tensor:
    """Runs text `(rows, T)` at positions `(rows, T)`, equal on all axes; logits after its end, `(rows, vocabulary)`."""
    embeds = model.embed_text(ids.flatten()).embeds[0].unflatten(0, ids.shape)
    return model.logits(Embedded(embeds), positions.expand(model.axes, -1, -1), cache, capture)


def answer(
    model: VideoModel,
    store: KVStore,
    question: Question,
    assignment: Sequence[str],
    max_new_tokens: int = 16,
    meter: Meter | None = None,
) -> Answer:
    """One answer, see `answers`."""
    request = Request(question, tuple(assignment))
    (said,) = answers(model, store, [request], max_new_tokens, [meter or Meter(model.device)])
    return said


def answers(
    model: VideoModel,
    store: KVStore,
    requests: Sequence[Request],
    max_new_tokens: int,
    meters: Sequence[Meter],
    buffers: Buffers | None = None,
) -> tuple[Answer, ...]:
    """Mixes a cache for each request, each chunk at the level assigned to it; decodes all of them together, greedily.

    Args:
        model: the model.
        store: from `prefill`.
        requests: at least one.
        max_new_tokens: at most that many tokens of each.
        meters: of each request, stages reload and decode. FLOPs are those of the request alone; seconds are its share
            of all, by KVs (reload) and by FLOPs (decode); the peak is that of all.
        buffers: of earlier requests, whose caches are done with.

    Raises:
        ContextError: a question and its answer do not fit the model's context.
        NotFiniteError: logits of one of them are no numbers.
    """
    whole = Meter(model.device)
    lengths = [len(request.question.input_ids) for request in requests]
    with whole.stage("reload"):
        mixed = store.mix_rows([request.assignment for request in requests])
        limit = model.shape.context_length
        for tokens, place, length in zip(mixed.tokens, mixed.places, lengths, strict=True):
            check_question(limit, max(tokens), place.next_position, length, max_new_tokens)
        reserve = max(lengths) + max_new_tokens
        cache = model.load_rows(mixed.layers(), mixed.rows, reserve, buffers)
    with whole.stage("decode"):
        questions = [request.question for request in requests]
        first = ask_rows(model, cache, questions, mixed.places)
        starts = [place.next_position for place in mixed.places]
        after = [start + length for start, length in zip(starts, lengths, strict=True)]
        written = _greedy(model, cache, first, after, max_new_tokens)
    kvs = [sum(tokens) for tokens in mixed.tokens]
    flops = [
        answer_flops(model.shape, cached, length, len(tokens))
        for cached, length, tokens in zip(mixed.mean_tokens, lengths, written, strict=True)
    ]
    for index, (request, meter) in enumerate(zip(requests, meters, strict=True)):
        meter.take(whole, "reload", kvs[index] / sum(kvs))
        meter.take(whole, "decode", flops[index] / sum(flops))
        meter.add("reload", sum(_of_chunks(store.decode_flops, request.assignment)))
        meter.add("decode", flops[index])
    token_bytes = kv_bytes(model.shape, 1) // model.shape.layers
    return tuple(
        Answer(
            text=model.decode_text(tokens),
            token_ids=tuple(tokens),
            kv_bytes_stored=store.prefix.stored_bytes
            + sum(_of_chunks(store.stored_bytes, request.assignment)),
            kv_bytes_attended=count * token_bytes,
            kv_bytes_reloaded=sum(
                _of_chunks(store.stored_bytes, request.assignment, store.coarsest)
            ),
            first_logits=logits,
        )
        for request, tokens, count, logits in zip(
            requests, written, kvs, first.float().cpu(), strict=True
        )
    )


def _of_chunks(
    sizes: Callable[[str], Sequence[int]], assignment: Sequence[str], without: str | None = None
) -> list[int]:
    """The size of each chunk at its level, but for those at the level `without`."""
    return [sizes(level)[i] for i, level in enumerate(assignment) if level != without]


def _greedy(
    model: VideoModel, cache: BufferCache, logits: Tensor, after: Sequence[int], limit: int
) -> list[list[int]]:
    """Token by token until all rows have met an end token or the limit.

    Generated tokens follow the question's positions, under the `hf` rule too, where both stand
    earlier than the video's end: so does `generate` of transformers 5.23 (5.17 jumped behind it).

    Args:
        model: the model.
        cache: with the question.
        logits: of the first tokens, `(rows, vocabulary)`.
        after: of each row, the position behind its question.
        limit: at most that many tokens.
    """
    ends, rows = model.end_tokens, list(range(len(after)))
    written: list[list[int]] = [[] for _ in rows]

    def goes_on(row: int) -> bool:
        tokens = written[row]
        return not tokens or (len(tokens) < limit and tokens[-1] not in ends)

    while True:
        for row, token in zip(rows, logits.argmax(dim=-1).tolist(), strict=True):
            if goes_on(row):
                written[row].append(token)
        going = [index for index, row in enumerate(rows) if goes_on(row)]
        if not going:
            return written
        if 2 * len(going) <= len(rows):  # what is copied is soon won back
            cache.keep_rows(going)
            rows = [rows[index] for index in going]
        ids = torch.tensor([written[row][-1:] for row in rows])
        positions = torch.tensor([[after[row] + len(written[row]) - 1] for row in rows])
        logits = _logits(model, cache, ids, positions)
