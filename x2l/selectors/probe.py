"""Every chunk is re-loaded on trial: which one changes the answer?"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.interface import VideoModel
from x2l.selectors.base import ChunkSelector, Query
from x2l.selectors.first_answer import first_logits

SCORES = ("kl", "confidence")


@dataclass(frozen=True)
class ProbeSelector(ChunkSelector):
    """What re-loading one chunk alone does to the distribution of the first answer token. Final.

    x2l's own; `confidence` is the measure in the notebook of the official repository. Runs the question once for every
    chunk, and streams the whole finest level.

    Attributes:
        score: `kl`, the divergence from the mean over chunks, KL(p_c || mean p); or `confidence`, the largest p_c.
        batch: mixed caches, each with another chunk re-loaded, that are in memory and run at once.
    """

    score: str = "kl"
    batch: int = 8
    name: str = "probe"

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ValueError: an unknown one, or a batch of nothing.
        """
        self.check_words({"score": SCORES})
        self.check_counts("batch")

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """The score of each chunk."""
        trials = [store.reloading((chunk,)) for chunk in range(len(store.prompt.chunks))]
        logits = first_logits(query.question, store, model, meter, trials, self.batch)
        logs = logits.log_softmax(dim=-1)
        if self.score == "confidence":
            return logs.amax(dim=-1).exp()
        mean = logs.exp().mean(dim=0).log()
        return (logs.exp() * (logs - mean)).sum(dim=-1)
