"""What a selector is: it gives every chunk a relevance to the question. How many are taken is said elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.interface import VideoModel
from x2l.models.prompt import Chunk, Question
from x2l.video import Frames


@dataclass(frozen=True)
class Query:
    """A question about a pre-filled video, as selectors see it.

    Attributes:
        question: its tokens, the benchmark's whole prompt.
        key: of the question, the same for all its tries (circular rule); seeds selectors that draw at random.
        spans: ground-truth seconds, where the benchmark knows them; only selectors that are told the truth may look.
        text: the question alone, without options or instructions.
        choices: the options' texts.
        video: path of the video file.
        prepared: what this selector's own `prepare` made of the video; None for selectors that see no frames.
    """

    question: Question
    key: str
    spans: Sequence[tuple[float, float]] | None = None
    text: str = ""
    choices: tuple[str, ...] = ()
    video: str = ""
    prepared: Tensor | None = None


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


class FrameSelector(ChunkSelector):
    """Abstract: a selector that looks at the frames, which the KV store does not keep.

    The frames are shown once a video, before the pre-fill; what `prepare` returns comes back as `Query.prepared` with
    each question about that video, and is dropped with it. So the selector itself stays stateless.
    """

    @abstractmethod
    def prepare(self, frames: Frames, chunks: Sequence[Chunk], meter: Meter) -> Tensor:
        """What the selector needs to remember of the frames.

        Operations go to the meter's stage `retrieval`; the caller times it.
        """
