"""How well each head of a model finds the chunks that a question asks about: what a calibration is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.interface import VideoModel
from x2l.selectors.base import Query
from x2l.selectors.calibration import Head
from x2l.selectors.context_attention import attention_to
from x2l.selectors.head_keys import all_heads, pooled, products, read_index, rotated_keys
from x2l.selectors.question_pass import rated_tokens, run_question, without_content

COUNTS = (1, 2, 4, 8, 16, 32)
SHARE = 0.05  # of all heads that MMRetHead keeps
NULL = "N/A"


@dataclass(frozen=True)
class Found:
    """What each head says about one question.

    Attributes:
        keys: `(layers, heads, chunks)`, the most that a token's query makes with a chunk's key, as selector `keys`.
        attention: `(layers, heads)`, attention of the question to the ground-truth chunks, less that of `N/A`, mean
            over tokens (MMRetHead, arXiv 2605.27243, eq. 1).
        truth: ground-truth chunks.
    """

    keys: Tensor
    attention: Tensor
    truth: tuple[int, ...]


def look(query: Query, store: KVStore, model: VideoModel, truth: Sequence[int]) -> Found:
    """Asks every head, of the finest level's keys."""
    meter, shape = Meter(model.device), model.shape
    heads, tokens = all_heads(shape), rated_tokens(query, "all")
    index, _ = read_index(
        store,
        model,
        store.finest,
        heads,
        lambda keys, model: (rotated_keys(keys, model, True), keys.counts),
    )
    run = run_question(query.question, store, model, meter, shape.layers - 1)
    place = store.place(store.finest)
    scores = [
        pooled(logits, index.counts, "max").amax(dim=1).cpu()
        for logits in products(
            lambda layer: run.queries(layer, tokens, place),
            index,
            heads,
            shape,
            model.scaling,
            meter,
        )
    ]
    keys = torch.cat(scores).unflatten(0, (shape.layers, shape.heads))
    evidence = _evidence(query, store, model, truth)
    null = _evidence(without_content(query, NULL, model), store, model, truth)
    return Found(keys.double(), evidence - null, tuple(truth))


def _evidence(query: Query, store: KVStore, model: VideoModel, truth: Sequence[int]) -> Tensor:
    """Attention to some chunks, `(layers, heads)`, mean over the tokens that ask."""
    assignment = [store.finest] * len(store.prompt.chunks)
    layers, meter = range(model.shape.layers), Meter(model.device)
    asked = rated_tokens(query, "question")
    found = [
        one.by_chunk()[:, asked][..., list(truth)].sum(dim=-1).mean(dim=1).cpu()
        for one in attention_to(query.question, store, model, meter, assignment, layers)
    ]
    return torch.stack(found).double()


def average_precision(scores: Tensor, truth: Sequence[int]) -> Tensor:
    """Mean precision at the rank of each true chunk, `(...)`, of `(..., chunks)`; of equal scores the earlier first."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    hits = torch.isin(order, torch.tensor(list(truth))).double()
    ranks = torch.arange(1, scores.shape[-1] + 1)
    return (hits.cumsum(dim=-1) / ranks * hits).sum(dim=-1) / len(truth)


def separation(scores: Tensor, truth: Sequence[int]) -> Tensor:
    """How many deviations (over chunks) the true chunks stand above the mean, `(...)`, of `(..., chunks)`."""
    spread = scores.std(dim=-1, correction=0).clamp(min=torch.finfo(scores.dtype).tiny)
    return (scores[..., list(truth)].mean(dim=-1) - scores.mean(dim=-1)) / spread


def key_scores(found: Sequence[Found]) -> list[list[float]]:
    """Score of every head for selector `keys`: mean average precision over questions; ties by separation.

    Few questions leave many heads at the same average precision, hence the small share of the separation.
    """
    each = [average_precision(f.keys, f.truth) + 1e-2 * separation(f.keys, f.truth) for f in found]
    return torch.stack(each).mean(dim=0).tolist()


def attention_scores(found: Sequence[Found]) -> list[list[float]]:
    """Score of every head for selector `retrieval_heads`: mean attention to the evidence over questions."""
    return torch.stack([f.attention for f in found]).mean(dim=0).tolist()


def best_count(found: Sequence[Found], heads: Sequence[Head]) -> int:
    """How many of the best heads find most together, by mean average precision; of equal numbers the fewest."""

    def together(count: int) -> float:
        at = tuple(zip(*heads[:count], strict=True))
        each = [average_precision(f.keys[at].mean(dim=0), f.truth) for f in found]
        return float(torch.stack(each).mean())

    return max((count for count in COUNTS if count <= len(heads)), key=together)
