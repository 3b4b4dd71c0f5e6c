"""What the runner may ask of a benchmark: samples, their prompts and their scores.

Three jobs are kept apart: a sample says what is asked, `Benchmark.score` parses and marks one
answer, and aggregation (accuracy, intervals, the four-way circular rule) is `x2l.analysis.statistics`' work.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from x2l import UserError

# What the headline number is a mean of: questions (micro), or the accuracies of tasks (macro).
Mean = Literal["questions", "tasks"]
# What becomes of an answer without a readable letter. Whatever it is, such answers are counted.
Unparsed = Literal["wrong", "left out", "guessed"]
SEVERAL = " + "  # joins the tasks of a question that belongs to more than one


class DatasetError(UserError, ValueError):
    """What lies on the disk is not the set that was asked for: the user's to correct."""


@dataclass(frozen=True)
class Sample:
    """One question about one video, multiple choice unless it has no options.

    Attributes:
        id: unique in its benchmark; records and resuming go by it.
        video_id: samples with the same one share a video, so its pre-fill, and one cluster.
        video: path of the video file.
        task: short name of what is asked, e.g. `retrieval`; several are joined by ` + `.
        question: the question alone, without its options.
        choices: the options' texts, in the order of their letters; none where the answer is free.
        answer: the letter of the right option, or a free answer; None where the set keeps it back.
        spans: seconds `(start, end)` of everything in the video that the answer rests on, in time
            order; None where the benchmark does not know.
        tags: further labels that accuracy can be split by, `duration` among them.
        row: number of the question in the set's own file, from 0; None where there is none.
        scenes: of each span the scene that it is a part of; None: each is one of its own.
        video_seconds: length of the video, as far as the set says; None where it does not.
    """

    id: str
    video_id: str
    video: str
    task: str
    question: str
    choices: tuple[str, ...]
    answer: str | None
    spans: tuple[tuple[float, float], ...] | None
    tags: Mapping[str, str]
    row: int | None = None
    scenes: tuple[str, ...] | None = None
    video_seconds: float | None = None


@dataclass(frozen=True)
class Score:
    """The mark of one answer.

    Attributes:
        value: 1.0 right, 0.0 wrong, NaN where no option could be read from the text (NaN is kept
            apart from wrong, so that parse failures are counted and seen) or no truth is known.
        parsed: the letter that was read, or what a free answer says; None where neither could be told.
        guess: the letter that a protocol drew because none could be read; `value` is the guess's.
    """

    value: float
    parsed: str | None
    guess: str | None = None


class Benchmark(ABC):
    """A fixed set of samples.

    Attributes:
        name: short name, goes into every record.
        protocol: name of the rules by which questions are put and answers are read and summed up.
        mean: what its headline number is a mean of.
        unparsed: what becomes of an answer without a readable letter.
        max_new_tokens: what the protocol lets a model write; None = it does not say.
        tries: samples in a whole group; a group with fewer answers is neither right nor wrong.
    """

    name: str
    protocol: str = "x2l"
    mean: Mean = "questions"
    unparsed: Unparsed = "wrong"
    max_new_tokens: int | None = None
    tries: int = 4

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
    def prompt(self, sample: Sample, seconds: Sequence[float] = ()) -> str:
        """The text of the user's turn, after the video.

        Args:
            sample: the question.
            seconds: times of the frames that the model sees, rising; subtitles go by them.
        """

    @abstractmethod
    def score(self, sample: Sample, text: str) -> Score:
        """Marks the model's text."""

    @abstractmethod
    def group(self, sample: Sample) -> str | None:
        """Samples of one group count as right only together (circular rule); None: each alone."""
