"""Subtitles of a video, and which of them stand on the frames that a model sees."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from x2l.benchmarks.annotation_row import number, text
from x2l.benchmarks.base import DatasetError

_FONT = re.compile(r'<font color="white" size=".72c">(.*?)</font>')
_SPAN = re.compile(r"(\d+):(\d+):(\d+)[,.](\d+) --> (\d+):(\d+):(\d+)[,.](\d+)")


class Subtitles(ABC):
    """The subtitles of one video.

    Attributes:
        path: their file.
        optional: whether a video without one is as published.
    """

    path: Path
    optional: ClassVar[bool] = False

    @abstractmethod
    def shown(self, seconds: Sequence[float]) -> list[str]:
        """Texts that stand on at least one of the frames at `seconds`, in time order.

        Raises:
            DatasetError: the file is damaged.
        """


@dataclass(frozen=True)
class Srt(Subtitles):
    """VideoMME's .srt files; final. Videos without speech have none.

    As in lmms-eval (tasks/videomme/utils.py), a text stands from its start to before its end, and
    only text inside the files' own font tag is read.
    """

    path: Path
    optional: ClassVar[bool] = True

    def shown(self, seconds: Sequence[float]) -> list[str]:
        """See `Subtitles`; a missing file gives lmms-eval's words for it."""
        if not self.path.exists():
            return ["No subtitles available"]
        try:
            content = self.path.read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise _damaged(self.path, error) from error
        if not _SPAN.search(content):
            raise _damaged(self.path, ValueError("no text with a time in it"))
        texts = []
        for block in content.split("\n\n"):
            lines = block.strip("\n").split("\n")
            span = _SPAN.match(lines[1]) if len(lines) >= 3 else None
            text = _FONT.search(" ".join(lines[2:]))
            if span and text:
                start, end = _clock(*span.groups()[:4]), _clock(*span.groups()[4:])
                if any(start <= second < end for second in seconds):
                    texts.append(text.group(1))
        return texts


@dataclass(frozen=True)
class LongVideoBenchJson(Subtitles):
    """LongVideoBench's .json files, in either of their two forms; final.

    A file covers the whole source film, of which the video is a part that begins at `offset`. As
    in the official loader (longvideobench_dataset.py at 2aa4f91), a text shorter than a second is
    widened to one, and stands on frames strictly inside its span.

    Attributes:
        path: the file.
        offset: `starting_timestamp_for_subtitles`, seconds.
        duration: of the video, seconds; the end of a text without one, before `offset` is taken off
            (as published).
    """

    path: Path
    offset: float
    duration: float

    def shown(self, seconds: Sequence[float]) -> list[str]:
        """See `Subtitles`."""
        try:
            entries = json.loads(self.path.read_text(encoding="utf-8-sig"))
            spans = [self._span(entry) for entry in entries]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _damaged(self.path, error) from error
        texts = []
        for start, end, words in spans:
            if end - start < 1:
                start, end = (start + end) / 2 - 0.5, (start + end) / 2 + 0.5
            if any(start < second < end for second in seconds):
                texts.append(words)
        return texts

    def _span(self, entry: dict[str, Any]) -> tuple[float, float, str]:
        if "timestamp" in entry:
            start, end = entry["timestamp"]
            last = number(end) if isinstance(end, float) else self.duration
            return number(start) - self.offset, last - self.offset, text(entry["text"])
        start, last = (number(_seconds(entry[side])) for side in ("start", "end"))
        return start - self.offset, last - self.offset, text(entry["line"])


def _damaged(path: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"{path}: subtitles cannot be read ({type(error).__name__}: {error}); fetch them again, or set "
        "benchmark.subtitles=false"
    )


def _seconds(clock: str) -> float:
    hours, minutes, seconds = clock.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _clock(hours: str, minutes: str, seconds: str, thousandths: str) -> float:
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(thousandths) / 1000
