"""What a selector is: it gives every chunk a relevance to the question. How many are taken is said elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from x2l.engine.attended_keys import AttendedKeys
from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.interface import ModelShape, VideoModel
from x2l.models.prompt import Chunk, Question
from x2l.selectors.roles import Role


class Remembered(Protocol):
    """What a selector keeps of a video on the compute device."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes there."""


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
        prepared: what this selector's own `prepare` or `remember` made of the video; None for selectors without them.
    """

    question: Question
    key: str
    spans: Sequence[tuple[float, float]] | None = None
    text: str = ""
    choices: tuple[str, ...] = ()
    video: str = ""
    prepared: Any = None


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run before anything is loaded.

    Attributes:
        model: name or path of the checkpoint.
        checkpoint: hash of its weight files; None for a repository of the Hub.
        evaluated: `benchmark/split`; None for a video of the user's own.
        dropped: level name, finest first -> whether chunks are dropped at it, so that it has no keys.
    """

    model: str
    checkpoint: str | None
    evaluated: str | None
    dropped: Mapping[str, bool]

    def check_level(self, selector: str, level: str | None) -> None:
        """Checks that a selector finds keys at the level that it reads; None = the finest.

        Raises:
            ValueError: there is no such level, or it drops chunks.
        """
        having = [name for name, dropped in self.dropped.items() if not dropped]
        if level is None and next(iter(self.dropped)) in having:
            return
        if level not in having:
            raise ValueError(
                f"selector.{selector}.level={level}: must be a level that keeps KVs; use one of {', '.join(having)}"
            )


class ChunkSelector(ABC):
    """Abstract. Stateless between questions.

    Attributes:
        name: what errors call it (records and figures use the name of its yaml).
        role: `method` if it sees the question, `control` if it does not, `bound` if it is told where the answer lies.
            Recorded with every answer; figures, tables and Pareto fronts go by it and by nothing else.
        single_level: the level that it gives every chunk, whatever the question; None for one that chooses.
    """

    name: str
    role: ClassVar[Role] = "method"
    single_level: ClassVar[Literal["finest", "coarsest"] | None] = None

    def check(self, run: RunFacts) -> None:  # noqa: B027 - most fit any run
        """Says before anything is loaded whether it can work in this run.

        Raises:
            ValueError: it cannot: a level without keys, heads found on another model or on the evaluated split.
        """

    def check_shape(self, shape: ModelShape) -> None:  # noqa: B027 - most fit any model
        """Says before the first video whether it can work with the loaded model.

        Raises:
            ValueError: it cannot: heads or layers that the model does not have.
        """

    def check_words(self, allowed: Mapping[str, Sequence[object]]) -> None:
        """Checks settings that are one of some words.

        Raises:
            ValueError: one is not; names selector, setting, value and words.
        """
        for setting, words in allowed.items():
            if (value := getattr(self, setting)) not in words:
                raise ValueError(
                    f"selector.{self.name}.{setting}={value!r}: must be one of {', '.join(map(str, words))}"
                )

    def check_counts(self, *settings: str, least: int = 1) -> None:
        """Checks settings that are whole numbers.

        Raises:
            ValueError: one is not, or is below the least; names selector, setting and value.
        """
        for setting in settings:
            if type(value := getattr(self, setting)) is not int or value < least:
                raise ValueError(
                    f"selector.{self.name}.{setting}={value!r}: must be a whole number of at least {least}"
                )

    @abstractmethod
    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """Relevance of each chunk, `(chunks,)` float on the host; +inf = always re-load, -inf = never.

        Operations go to the meter's stage `selection`; the caller times it.
        """


class FrameRater(ABC):
    """Abstract: what a selector also is that can say which frames of a chunk its relevance rests on."""

    @abstractmethod
    def frame_relevance(
        self, query: Query, store: KVStore, model: VideoModel
    ) -> tuple[Tensor, ...]:
        """Of each chunk `(frames,)` float on the host: how relevant its frames are; for pictures, not for choosing."""


class Watch(ABC):
    """Abstract: looks at the frames of one video for a selector."""

    @abstractmethod
    def show(self, chunk: Chunk, pixels: Tensor) -> None:
        """The next chunk's frames, `(frames, height, width, 3)`, uint8, RGB; they are gone afterwards."""

    @abstractmethod
    def remembered(self) -> Tensor:
        """What the selector needs to remember of the frames; asked once, after the last chunk."""


class FrameSelector(ChunkSelector):
    """Abstract: a selector that looks at the frames, which the KV store does not keep.

    They are shown once a video, chunk by chunk as they are decoded; what the watch remembers comes back as
    `Query.prepared` with each question about that video, and is dropped with it. So the selector itself stays
    stateless.
    """

    @abstractmethod
    def watch(self, meter: Meter) -> Watch:
        """Begins to look at a video.

        Operations go to the meter's stage `retrieval`; the caller times it.
        """


class IndexingSelector(ChunkSelector):
    """Abstract: a selector that may keep something of a video's KVs on the compute device, made once a video.

    It is asked after the pre-fill; what `remember` returns comes back as `Query.prepared`, and its bytes are recorded.
    """

    def written(self, shape: ModelShape) -> AttendedKeys | None:
        """What the pre-fill is to write for it, found in `KVStore.indexes` then; None = it reads levels alone."""
        return None

    @abstractmethod
    def remember(self, store: KVStore, model: VideoModel, meter: Meter) -> Remembered | None:
        """What the selector keeps; None where it reads from the host anew for every question.

        Operations go to the meter's stage `retrieval`; the caller times it.
        """
