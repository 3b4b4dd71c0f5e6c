"""What a selector is: it gives every chunk a relevance to the question. How many are taken is selection.py's job."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from x2l.chunks import Question
from x2l.compute import Meter
from x2l.models.base import VideoModel
from x2l.store import KVStore


@dataclass(frozen=True)
class Query:
    """A question about a pre-filled video, as selectors see it.

    Attributes:
        question: its tokens.
        key: unique to the question; seeds selectors that draw at random.
        spans: ground-truth seconds, where the benchmark knows them; only the oracle may look.
    """

    question: Question
    key: str
    spans: Sequence[tuple[float, float]] | None = None


class ChunkSelector(ABC):
    """Abstract. Stateless between questions.

    Attributes:
        name: what errors call it (records and figures use the name of its yaml).
    """

    name: str

    @abstractmethod
    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """Relevance of each chunk, `(chunks,)` float on the host; +inf = always re-load, -inf = never.

        Operations go to the meter's stage `selection`; the caller times it.
        """
