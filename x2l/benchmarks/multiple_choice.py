"""A set of questions on the disk, most of them multiple choice, asked by one of its protocols."""

import hashlib
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from x2l.benchmarks.base import SEVERAL, Benchmark, DatasetError, Mean, Sample, Score, Unparsed
from x2l.benchmarks.dataset_folder import Folder
from x2l.benchmarks.free_answer import FreeAnswer
from x2l.benchmarks.option_text import letters
from x2l.benchmarks.sharding import shards
from x2l.benchmarks.subtitles import Subtitles

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Protocol:
    """The rules of one piece of code that scores a set.

    Attributes:
        prompt: (sample, subtitles on the frames or None without subtitles) -> the user's turn.
        extract: (answer, number of options) -> letter or None.
        mean: what the headline number is a mean of.
        unparsed: what becomes of an answer without a letter.
        max_new_tokens: what a model may write.
        free: how answers to questions without options are marked; None = the set has none.
    """

    prompt: Callable[[Sample, Sequence[str] | None], str]
    extract: Callable[[str, int], str | None]
    mean: Mean = "questions"
    unparsed: Unparsed = "wrong"
    max_new_tokens: int = 16
    free: FreeAnswer | None = None


class ChoiceSet(Benchmark):
    """Samples of a folder, filtered, checked and grouped by video; final.

    Attributes:
        folder: where the set lies.
        subtitles: by video; None = they are off.
        whole: number of questions before `durations`, `tasks` and `shard` took their part.
    """

    def __init__(
        self,
        name: str,
        folder: Folder,
        samples: Iterable[Sample],
        protocols: Mapping[str, Protocol],
        protocol: str,
        tasks: Sequence[str] | str | None = None,
        durations: Sequence[str] | str | None = None,
        shard: str | None = None,
        *,
        circular: bool = False,
        subtitles: Mapping[str, Subtitles] | None = None,
        seed: int = 0,
    ) -> None:
        """Reads and checks every sample.

        Args:
            name: short name, goes into every record.
            folder: where the set lies.
            samples: all of them, in the order of the set's own file; read only once `protocol` and
                `shard` are known to be right.
            protocols: by name.
            protocol: one of them.
            tasks: ask these only; None = all.
            durations: ask about videos of these duration groups only; None = all.
            shard: `i/n`: the i-th of n parts, from 1, of as many videos and lengths each (see `sharding`);
                together they hold every video exactly once.
            circular: the questions about one video count as right only together.
            subtitles: by `video_id`, may still be empty until `samples` is read; None = off.
            seed: of guesses.

        Raises:
            DatasetError: the set is not there or not what it should be.
            ValueError: a value that cannot work.
        """
        if protocol not in protocols:
            raise ValueError(
                f"benchmark.protocol={protocol!r}: must be one of {', '.join(protocols)}"
            )
        rules = protocols[protocol]
        index, count = _shard(shard)
        self.name, self.folder, self.protocol = name, folder, protocol
        self.mean, self.unparsed, self.max_new_tokens = (
            rules.mean,
            rules.unparsed,
            rules.max_new_tokens,
        )
        self.subtitles = subtitles
        self._rules, self._circular, self._seed = rules, circular, seed
        everything = list(samples)
        _check(everything, folder, free=rules.free is not None)
        self.whole = len(everything)
        kept = _filtered(everything, "tasks", tasks, lambda s: s.task.split(SEVERAL))
        kept = _filtered(kept, "durations", durations, lambda s: [s.tags.get("duration", "")])
        videos = list(dict.fromkeys(sample.video_id for sample in kept))
        place = {video: number for number, video in enumerate(videos)}
        seconds = {sample.video_id: sample.video_seconds for sample in kept}
        parts = dict(zip(videos, shards([seconds[video] for video in videos], count), strict=True))
        chosen = [sample for sample in kept if parts[sample.video_id] == index]
        # A stable sort: questions stay in the set's order within their video.
        self._samples = tuple(sorted(chosen, key=lambda sample: place[sample.video_id]))

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Makes nothing; warns of videos that are missing, so that it shows before the first hour."""
        missing = self.missing()
        if missing:
            log.warning(
                "%d of %d videos of %s are missing, e.g. %s; x2l-data check names all",
                len(missing),
                len({sample.video for sample in self._samples}),
                self.name,
                missing[0],
            )

    def missing(self) -> list[str]:
        """Paths of videos that are not there."""
        paths = dict.fromkeys(sample.video for sample in self._samples)
        return [path for path in paths if not Path(path).is_file()]

    def samples(self) -> tuple[Sample, ...]:
        """The chosen samples, video by video, in the order of the set's own file."""
        return self._samples

    def prompt(self, sample: Sample, seconds: Sequence[float] = ()) -> str:
        """The protocol's, with the subtitles that stand on the frames at `seconds`."""
        if self.subtitles is None:
            return self._rules.prompt(sample, None)
        return self._rules.prompt(sample, self.subtitles[sample.video_id].shown(seconds))

    def score(self, sample: Sample, text: str) -> Score:
        """The protocol's mark. A guess depends on seed and question alone, whatever was asked before."""
        if self._rules.free is not None and not sample.choices:
            return _free_score(self._rules.free, sample, text)
        parsed = self._rules.extract(text, len(sample.choices))
        guess = None
        if parsed is None and self.unparsed == "guessed":
            options = letters(len(sample.choices))
            digest = hashlib.sha256(f"{self._seed}/{sample.id}".encode()).digest()
            guess = options[int.from_bytes(digest[:8], "big") % len(options)]
        letter = parsed or guess
        if letter is None or sample.answer is None:
            return Score(math.nan, parsed, guess)
        return Score(float(letter == sample.answer), parsed, guess)

    def group(self, sample: Sample) -> str | None:
        """The tries of one video, where they count only together."""
        return sample.video_id if self._circular else None


def _free_score(rule: FreeAnswer, sample: Sample, text: str) -> Score:
    read = rule.read(text)
    if read is None or sample.answer is None:
        return Score(math.nan, read)
    return Score(float(rule.right(read, sample.answer)), read)


def _check(samples: Sequence[Sample], folder: Folder, free: bool) -> None:
    where = f"benchmark.root={folder.root}"
    if not samples:
        raise DatasetError(f"{where}: {folder.name} holds no question; fetch it again")
    first: dict[str, Sample] = {}
    for sample in samples:
        if sample.id in first:
            raise DatasetError(
                f"{where}: question id {sample.id} is there twice (rows {first[sample.id].row} and "
                f"{sample.row}); fetch {folder.name} again, or remove one"
            )
        first[sample.id] = sample
        count = len(sample.choices)
        if free and not count:
            continue
        if not 2 <= count <= 26:
            raise DatasetError(
                f"{where}: question {sample.id} (row {sample.row}) has {count} options; must be 2 "
                "to 26"
            )
        if sample.answer is not None and sample.answer not in letters(count):
            raise DatasetError(
                f"{where}: question {sample.id} (row {sample.row}) has the answer "
                f"{sample.answer!r}; must be one of {letters(count)}"
            )


def _filtered(
    samples: Sequence[Sample],
    field: str,
    wanted: Sequence[str] | str | None,
    labels: Callable[[Sample], Sequence[str]],
) -> list[Sample]:
    """The samples that carry one of the wanted labels."""
    if wanted is None:
        return list(samples)
    names = [wanted] if isinstance(wanted, str) else [str(name) for name in wanted]
    known = dict.fromkeys(label for sample in samples for label in labels(sample))
    if not names or set(names) - known.keys():
        raise ValueError(
            f"benchmark.{field}={names}: must be one or more of {', '.join(known)}; null for all"
        )
    return [sample for sample in samples if set(labels(sample)) & set(names)]


def _shard(shard: str | None) -> tuple[int, int]:
    """(index from 0, number of shards)."""
    if shard is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", str(shard))
    if match:
        index, count = int(match[1]), int(match[2])
        if 1 <= index <= count:
            return index - 1, count
    raise ValueError(
        f"benchmark.shard={shard}: must be i/n with 1 <= i <= n, e.g. 1/4 for the first of four"
    )
