"""The question's queries against the chunks' keys: of heads found by calibration, or of all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from x2l.engine.kv_store import KVStore, LevelKeys
from x2l.engine.meter import Meter
from x2l.models.interface import VideoModel
from x2l.models.prompt import Prompt
from x2l.selectors.base import FrameRater, Query
from x2l.selectors.head_keys import POOLS, Combine, Pool, kv_heads, rotated_keys
from x2l.selectors.keyed import KeyedSelector


@dataclass(frozen=True)
class KeysSelector(KeyedSelector, FrameRater):
    """Scaled products of the question's queries and a chunk's keys, without a softmax over the context. Final.

    With heads: the mean over them of the maximum over the question's tokens and the chunk's keys. Without: log of the
    summed exps over the chunk's keys, put on a scale of mean 0 and deviation 1 over chunks for every head and token,
    and the maximum of these. x2l's own; heads that find things are those of the retrieval-head papers (Wu et al., arXiv
    2404.15574; MMRetHead, arXiv 2605.27243, from which `null_question`).

    Attributes:
        pool: `max`, `lse` or `mean` over a chunk's keys; None = `max` with heads, `lse` without.
    """

    pool: Pool | None = None
    name: str = "keys"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_words({"pool": (None, *POOLS)})

    @override
    def vectors_of(self, keys: LevelKeys, model: VideoModel) -> tuple[Tensor, tuple[int, ...]]:
        return rotated_keys(keys, model, self.rope), keys.counts

    @property
    @override
    def rule(self) -> tuple[Pool, Combine]:
        pool: Pool = "lse" if self.heads is None else "max"
        return self.pool or pool, self.combine or ("z_max" if self.heads is None else "max")

    @override
    def frame_relevance(
        self, query: Query, store: KVStore, model: VideoModel
    ) -> tuple[Tensor, ...]:
        """As relevance, of the largest product with a key of the frame's time step; keys are read from the host.

        A step of which a head has no key has the lowest value that the head gives to any.
        """
        level, heads = self.level or store.finest, self._heads(model.shape)
        at_home = replace(store, positions="keep")  # where keys were before gaps were closed
        chunks, places = store.prompt.chunks, {}
        for layer, groups in kv_heads(heads, model.shape).items():
            for head, keys in zip(groups, at_home.keys(level, layer, list(groups)), strict=True):
                places[layer, head] = step_of_keys(keys, store.prompt)
        count = sum(len(chunk.steps) for chunk in chunks)

        def of_steps(logits: Tensor, of_head: tuple[int, int]) -> Tensor:
            lowest = logits.amin(dim=-1, keepdim=True).expand(*logits.shape[:-1], count)
            index = places[of_head].to(logits.device).expand_as(logits)
            return lowest.scatter_reduce(-1, index, logits, reduce="amax")

        index, _ = self._read(store, model, None)
        scores = self._scored(query, index, store, model, Meter(), of_steps, self.rule[1])
        by_chunk = scores.split([len(chunk.steps) for chunk in chunks])
        return tuple(
            steps[torch.arange(stop - start) * len(steps) // (stop - start)]
            for steps, (start, stop) in zip(by_chunk, (c.frames for c in chunks), strict=True)
        )


def step_of_keys(keys: LevelKeys, prompt: Prompt) -> Tensor:
    """Of each key the time step, counted over all chunks, of the visual token that stands nearest to it: `(T,)`."""
    steps, first = [], 0
    for chunk, positions in zip(
        prompt.chunks, keys.positions.split(list(keys.counts), dim=1), strict=True
    ):
        visual = chunk.positions[:, chunk.is_visual].to(positions.device)
        owner = torch.arange(len(chunk.steps)).repeat_interleave(torch.tensor(chunk.steps))
        nearest = torch.cdist(positions.T.double(), visual.T.double(), p=1).argmin(dim=1)
        steps.append(first + owner[nearest.cpu()])
        first += len(chunk.steps)
    return torch.cat(steps)
