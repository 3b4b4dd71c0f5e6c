"""ShallowStream: the first layers vote for chunks, and may find that none is needed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.interface import ModelShape, VideoModel
from x2l.selectors.base import ChunkSelector, Query, RunFacts
from x2l.selectors.context_attention import attention_to
from x2l.selectors.first_answer import first_logits, log_odds

GATE = (
    "{}\nDo the last moments of the video tell the answer, or is an earlier part needed? "
    "Answer with one word, recent or earlier."
)


@dataclass(frozen=True)
class ShallowVotesSelector(ChunkSelector):
    """Votes of the first layers: each for the KVs that the prompt's last token attends to most. Final.

    ShallowStream (arXiv 2609.02780): 5 layers of Qwen3-VL-8B, 4 of LLaVA-OneVision-7B, 64 votes each; attention is the
    mean over heads in the whole context of a level. Equal votes go by attention. Then it takes chunks that differ, 8 of
    the 32 with most votes, so that the distance of the two nearest is large: here greedily, the one with most votes
    first, then always the one whose nearest taken chunk is farthest. That is an order, so smaller top_k are part of
    larger ones. What its distance is was not to be had: here of cosines of the chunks' mean input embeddings.

    Attributes:
        layers: that vote.
        votes: of each layer.
        candidates: chunks with most votes that are put in the order above, before all others; relevance then is each
            chunk's rank from the end. None = votes alone.
        level: the context; None = the finest, which is streamed for it as far as the last voting layer.
        gate: whether the model is first asked, over the coarsest level, if it needs an earlier part of the video at
            all; where it does not, no chunk is re-loaded.
        threshold: least logit of "earlier" less that of "recent" at which it does.
    """

    layers: int = 5
    votes: int = 64
    candidates: int | None = None
    level: str | None = None
    gate: bool = False
    threshold: float | None = None
    name: str = "shallow_votes"

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ValueError: no layer or vote, or a gate without a threshold.
        """
        self.check_counts("layers", "votes", *([] if self.candidates is None else ["candidates"]))
        number = isinstance(self.threshold, int | float) and math.isfinite(self.threshold)
        if self.gate is not number or (self.threshold is not None and not number):
            raise ValueError(
                f"selector.shallow_votes.threshold={self.threshold}: must be given with gate=true, and only then; it "
                "is the least difference of two logits, a finite number such as 0"
            )

    def check(self, run: RunFacts) -> None:
        """The level must keep KVs; the gate reads the coarsest."""
        run.check_level(self.name, self.level)
        if self.gate:
            run.check_level(self.name, tuple(run.dropped)[-1])

    def check_shape(self, shape: ModelShape) -> None:
        """The model must have the layers.

        Raises:
            ValueError: it has not.
        """
        if self.layers > shape.layers:
            raise ValueError(
                f"selector.shallow_votes.layers={self.layers}: must be at most {shape.layers}, the model's layers; use "
                "fewer"
            )

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """Votes for each chunk; -inf for all where the gate stays shut."""
        self.check_shape(model.shape)
        chunks = len(store.prompt.chunks)
        if self.gate and self._gap(query, store, model, meter) < float(self.threshold or 0):
            return torch.full((chunks,), float("-inf"))
        context = [self.level or store.finest] * chunks
        layers = range(self.layers)
        total = torch.zeros(chunks, dtype=torch.float64)
        for one in attention_to(query.question, store, model, meter, context, layers):
            paid = one.paid[:, -1].mean(dim=0)
            first, last = one.spans[0][0], one.spans[-1][1]
            ranked = paid[first:last].argsort(descending=True, stable=True) + first
            voted = torch.zeros_like(paid).index_fill(0, ranked[: self.votes], 1.0)
            both = torch.stack(
                [voted, paid / len(layers)]
            )  # of attention all layers have less than one vote
            total += torch.stack([both[:, a:b].sum() for a, b in one.spans]).cpu().double()
        return total if self.candidates is None else self._diverse(total, store, meter)

    def _diverse(self, votes: Tensor, store: KVStore, meter: Meter) -> Tensor:
        """Ranks from the end, of the candidates put in order and all others by votes behind them."""
        chunks, owner = len(votes), torch.tensor(store.step_chunk)
        order = votes.argsort(descending=True, stable=True).tolist()
        candidates = order[: self.candidates]
        means = torch.stack([store.step_embeds[owner == c].mean(dim=0) for c in candidates])
        distances = 1 - cosine_similarity(means[:, None], means[None], dim=-1)
        meter.add("selection", 2 * len(candidates) * means.numel())
        order[: len(candidates)] = [candidates[index] for index in farthest_first(distances)]
        relevance = torch.empty(chunks, dtype=votes.dtype)
        relevance[order] = torch.arange(chunks, 0, -1, dtype=votes.dtype)
        return relevance

    def _gap(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> float:
        """How much rather the model says that it needs an earlier part of the video."""
        question = model.question(GATE.format(query.text or query.question.text))
        everything = [store.coarsest] * len(store.prompt.chunks)
        logits = first_logits(question, store, model, meter, [everything])
        return float(log_odds(logits, model, ("earlier", "recent")))


def farthest_first(distances: Tensor) -> list[int]:
    """An order that begins with the first; next is always the one whose nearest of those before it is farthest.

    Args:
        distances: `(n, n)`, of each two, none below 0 by more than rounding.
    """
    taken, nearest = [0], distances[0].clone()
    while len(taken) < len(distances):
        nearest[taken] = -1  # no distance is
        taken.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, distances[taken[-1]])
    return taken
