"""The model itself is asked of every chunk whether it helps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.interface import VideoModel
from x2l.selectors.base import ChunkSelector, Query, RunFacts
from x2l.selectors.first_answer import first_logits, log_odds

ASKED = (
    "{}\nDoes this part of the video help to answer the question? Answer with one word, Yes or No."
)


@dataclass(frozen=True)
class YesNoSelector(ChunkSelector):
    """Probability of "Yes", of "Yes" and "No", to whether one chunk, alone in the context, helps to answer. Final.

    The idea of FRAG (arXiv 2504.17447), which scores each frame alone with a two-option prompt; written anew over KVs,
    without its code. Runs the question once for every chunk.

    Attributes:
        level: the chunk's; None = the coarsest, which streams nothing.
        batch: contexts of one chunk that are in memory and run at once.
    """

    level: str | None = None
    batch: int = 8
    name: str = "yes_no"

    def __post_init__(self) -> None:
        """Checks the batch.

        Raises:
            ValueError: a batch of nothing.
        """
        self.check_counts("batch")

    def check(self, run: RunFacts) -> None:
        """The level must keep KVs."""
        run.check_level(self.name, self.level or tuple(run.dropped)[-1])

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """Probability for each chunk."""
        words = "\n".join([query.text or query.question.text, *query.choices])
        question, chunks = model.question(ASKED.format(words)), len(store.prompt.chunks)
        level = self.level or store.coarsest
        alone = [[level if c == chunk else None for c in range(chunks)] for chunk in range(chunks)]
        logits = first_logits(question, store, model, meter, alone, self.batch)
        return log_odds(logits, model, ("Yes", "No")).sigmoid()
