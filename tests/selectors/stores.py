"""Pre-filled videos of tiny random models in fp64, and questions about them."""

from functools import lru_cache

import torch

from tests.tiny import frames, ours
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.decode import ask
from x2l.engine.meter import Meter
from x2l.engine.prefill import prefill
from x2l.models.attention import AttentionCapture
from x2l.selectors.base import Query

QUESTION = "What is the colour of the star?"
PROMPT = f"Watch.\n{QUESTION}\nA. red\nB. blue"


def model_of(family):
    return ours(family, torch.float64)


@lru_cache
def store_of(family, positions="keep", **levels):
    levels = levels or {"low": Level(KeyNorm(), 2), "high": Level(ToMe(), 8)}
    model = model_of(family)
    return prefill(model, model.prompt(frames(14), 4), levels, positions=positions)


def query_of(family, text=PROMPT, **fields):
    values = {"text": QUESTION, "choices": ("red", "blue"), "spans": ((4.0, 6.0),)} | fields
    return Query(model_of(family).question(text), "q", **values)


def watched(family, store, assignment, question):
    """The question run to the end over a mixed cache: the oracle of every shorter way. (mixed, capture)"""
    model, capture = model_of(family), AttentionCapture(want_keys=True)
    mixed = store.mix(assignment)
    ask(model, model.load_cache(mixed.kv), question, mixed.place, capture)
    return mixed, capture


def attention(family, store, assignment, question, layer):
    """Attention by a softmax for every head and token, `(Q, n, T)` over the cached KVs; and each chunk's span."""
    mixed, capture = watched(family, store, assignment, question)
    queries, keys = capture.queries[layer][0], capture.keys[layer][0]
    cached, count = mixed.kv.tokens[layer], len(question.input_ids)
    weights = mixed.kv.layers[layer].weights
    rows = []
    for head, of_head in enumerate(queries):
        own = head // (len(queries) // len(keys))
        for token, query in enumerate(of_head):
            logits = keys[own, : cached + token + 1] @ query * capture.scaling[layer]
            logits[:cached] += weights[own % len(weights)].log()
            rows.append(logits.softmax(dim=0)[:cached])
    return torch.stack(rows).view(len(queries), count, cached), mixed.spans[layer]


def by_chunk(paid, spans):
    """Attention to each chunk, `(Q, n, chunks)`."""
    return torch.stack([paid[..., start:stop].sum(dim=-1) for start, stop in spans], dim=-1)


def remembered(selector, video, chunks, meter=None):
    """What a selector remembers of frames that it is shown chunk by chunk."""
    watch = selector.watch(meter or Meter())
    for chunk, pixels in zip(chunks, video.blocks(c.frames for c in chunks), strict=True):
        watch.show(chunk, pixels)
    return watch.remembered()
