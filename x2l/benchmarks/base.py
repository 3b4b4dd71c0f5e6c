"""What the runner may ask of a benchmark: samples, their prompts and their scores.

Three jobs are kept apart: a sample says what is asked, `Benchmark.score` parses and marks one
answer, and aggregation (accuracy, intervals, the four-way circular rule) is `x2l.statistics`' work.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One multiple-choice question about one video.

    Attributes:
        id: unique in its benchmark; records and resuming go by it.
        video_id: samples with the same one share a video, so its pre-fill, and one cluster.
        video: path of the video file.
        task: short name of what is asked, e.g. `retrieval`.
        question: the question alone, without its options.
        choices: the options' texts, in the order of their letters.
        answer: the letter of the right option.
        spans: seconds `(start, end)` of everything in the video that the answer rests on, in time
            order; None where the benchmark does not know.
        tags: further labels that accuracy can be split by.
    """

    id: str
    video_id: str
    video: str
    task: str
    question: str
    choices: tuple[str, ...]
    answer: str
    spans: tuple[tuple[float, float], ...] | None
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Score:
    """The mark of one answer.

    Attributes:
        value: 1.0 right, 0.0 wrong, NaN where no option could be read from the text. NaN is kept
            apart from wrong, so that parse failures are counted and seen.
        parsed: the letter that was read, or None.
    """

    value: float
    parsed: str | None


class Benchmark(ABC):
    """A fixed set of samples.

    Attributes:
        name: short name, goes into every record.
    """

    name: str

    @abstractmethod
    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Makes or checks the files that the samples need; a second call does nothing.

        Args:
            progress: called with (videos done, videos) meanwhile.
        """

    @abstractmethod
    def samples(self) -> tuple[Sample, ...]:
        """Every sample, grouped by video, in an order that never changes."""

    @abstractmethod
    def prompt(self, sample: Sample) -> str:
        """The text of the user's turn, after the video."""

    @abstractmethod
    def score(self, sample: Sample, text: str) -> Score:
        """Marks the model's text."""

    @abstractmethod
    def group(self, sample: Sample) -> str | None:
        """Samples of one group count as right only together (circular rule); None: each alone."""
