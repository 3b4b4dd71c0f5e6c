"""Records -> what the question browser shows: every question, and each cell's answer to it. Pure.

An overview of all questions (text, task, right or wrong in each cell) is enough to filter and to sort; the details of
one question (relevance, levels, predictions) are looked up when it is opened, in the page or from a server.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from x2l.analysis.cell_names import Names
from x2l.analysis.points import Point
from x2l.analysis.report.shown_chunks import (
    Film,
    Layout,
    chunk_seconds,
    frame_times,
    shown_frames,
)
from x2l.benchmarks.base import SEVERAL, Sample
from x2l.benchmarks.option_text import letters
from x2l.runs.condition import Condition
from x2l.runs.records import Record

QuestionKey = tuple[str, str, str]  # benchmark, protocol, id of the sample
SampleKey = tuple[str, str]  # benchmark, id of the sample
# One letter a cell, in the overview: right, wrong, no letter could be read, the answer is not known, not answered.
RIGHT, WRONG, UNPARSED, UNKNOWN, NOT_ANSWERED = "1", "0", "?", "n", "-"
ALL_SHOWN = 48  # chunks of a video that are all shown with a picture; of more, those that matter
RATED_HIGHEST = 4  # chunks of each selector that matter


@dataclass(frozen=True)
class AskedQuestion:
    """One question and its answers.

    Attributes:
        key: what makes it one question.
        answers: (number of the cell, record), in the order of cells.
        sample: the benchmark's; None where it was not found.
    """

    key: QuestionKey
    answers: tuple[tuple[int, Record], ...]
    sample: Sample | None

    @property
    def first(self) -> Record:
        """The record that what all share is taken from."""
        return self.answers[0][1]

    @property
    def layouts(self) -> list[Layout]:
        """How its video was cut into chunks, each way once."""
        return list(dict.fromkeys(Layout.of(record) for _, record in self.answers))

    def film(self, layout: Layout) -> Film | None:
        """The sampled frames that a layout is made of; None where the video's file is not known."""
        if self.sample is None:
            return None
        return Film(self.sample.video, layout.frames_asked, layout.fps, layout.sampled)

    @property
    def spans(self) -> tuple[tuple[float, float], ...]:
        """Seconds that the answer rests on; none where that is not known."""
        return (self.sample.spans if self.sample else None) or ()


@dataclass(frozen=True)
class QuestionBrowser:
    """Every question of a sweep.

    Attributes:
        cells: name, whether it is a bound, accuracy in percent and interval, as the tables have them.
        questions: in the order in which they were asked.
        start: numbers of the two cells that are compared at first.
    """

    cells: tuple[Mapping[str, Any], ...]
    questions: tuple[AskedQuestion, ...]
    start: tuple[int, int]

    @cached_property
    def films(self) -> Mapping[Film, int]:
        """The frames of every video whose file is known, and the number that names of its pictures begin with."""
        found = (q.film(layout) for q in self.questions for layout in q.layouts)
        unique = dict.fromkeys(film for film in found if film is not None)
        return {film: number for number, film in enumerate(unique)}

    def overview(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Plain values of some questions: enough for filters.

        Args:
            numbers: of the questions that are shown.
        """
        return {
            "cells": [dict(cell) for cell in self.cells],
            "start": list(self.start),
            "questions": [
                _overview(self.questions[number], number, len(self.cells)) for number in numbers
            ],
        }

    def details(
        self, number: int, times: Mapping[Film, Sequence[float]] | None = None
    ) -> dict[str, Any]:
        """Plain values of one question.

        Args:
            number: of the question.
            times: seconds of the sampled frames of its video, where they are known: then there are pictures of it.
                Without them, times are what duration and number of frames say.
        """
        question, times = self.questions[number], times or {}
        first, layouts = question.first, question.layouts
        choices = question.sample.choices if question.sample else ()
        ratings = list(dict.fromkeys(record.selection.relevance for _, record in question.answers))
        return {
            "answer": first.question.answer,
            "options": list(zip(letters(len(choices)), choices, strict=True)) if choices else [],
            "tags": dict(first.question.tags),
            "spans": [list(span) for span in question.spans],
            "layouts": [
                _layout(question, layout, self._place(question, layout, times), times)
                for layout in layouts
            ],
            "ratings": [list(rating) for rating in ratings],
            "answers": [
                {
                    "cell": cell,
                    "layout": layouts.index(Layout.of(record)),
                    "rating": ratings.index(record.selection.relevance),
                    "names": [level.ratio_label for level in record.condition.levels],
                    "levels": _levels(record),
                    "prediction": record.answer.prediction,
                    "parsed": record.answer.parsed,
                    "guess": record.answer.guess,
                    "recall": record.selection.recall,
                    "kv": record.answer.kv_bytes_stored / record.video.kv_bytes_full,
                }
                for cell, record in question.answers
            ],
        }

    def _place(
        self, question: AskedQuestion, layout: Layout, times: Mapping[Film, Sequence[float]]
    ) -> int | None:
        """Of the layout's film, where its times are known."""
        film = question.film(layout)
        return None if film is None or film not in times else self.films[film]


def browse(
    rows: Sequence[Point],
    records: Sequence[Record],
    called: Names,
    samples: Mapping[SampleKey, Sample] | None = None,
) -> QuestionBrowser:
    """The questions of some cells.

    Args:
        rows: cells, in the order of the tables.
        records: their answers.
        called: their names.
        samples: of the benchmarks, as far as they were found: options, spans and videos.
    """
    numbers = {p.condition: number for number, p in enumerate(rows)}
    asked: dict[QuestionKey, dict[int, Record]] = defaultdict(dict)
    for record in records:
        condition = record.condition
        key = (condition.benchmark, condition.protocol, record.question.sample_id)
        asked[key][numbers[condition]] = record
    return QuestionBrowser(
        tuple(_cell(p, called) for p in rows),
        tuple(
            AskedQuestion(
                key, tuple(sorted(answers.items())), (samples or {}).get((key[0], key[2]))
            )
            for key, answers in asked.items()
        ),
        _start(rows),
    )


def _cell(p: Point, called: Names) -> dict[str, Any]:
    known = p.questions > 0
    return {
        "name": called.cell(p.condition),
        "bound": p.condition.is_bound,
        "baseline": p.condition.baseline,
        "accuracy": f"{100 * p.accuracy:.1f}" if known else None,
        "interval": [f"{100 * v:.1f}" for v in (p.accuracy_low, p.accuracy_high)] if known else [],
    }


def _start(rows: Sequence[Point]) -> tuple[int, int]:
    """The most accurate cell that chooses chunks and is no bound, and full KVs (or the first cell)."""

    def choosing(condition: Condition) -> bool:
        return condition.baseline is None and condition.role == "method"

    def rank(number: int) -> tuple[bool, float]:
        p = rows[number]
        return choosing(p.condition), p.accuracy if p.questions else -1.0

    best = max(range(len(rows)), key=rank)
    return best, 0 if best or len(rows) < 2 else 1


def mark(record: Record) -> str:
    """Right or wrong, in a letter."""
    if record.question.answer is None:
        return UNKNOWN
    if record.answer.correct is None:
        return UNPARSED
    return RIGHT if record.answer.correct >= 1 else WRONG


def _overview(question: AskedQuestion, number: int, cells: int) -> dict[str, Any]:
    marks = dict.fromkeys(range(cells), NOT_ANSWERED)
    marks |= {cell: mark(record) for cell, record in question.answers}
    first = question.first
    return {
        "number": number,
        "id": question.key[2],
        "set": " ".join(question.key[:2]),
        "text": first.question.question,
        "tasks": first.question.task.split(SEVERAL),
        "video": first.video.video_id,
        "marks": "".join(marks[cell] for cell in range(cells)),
    }


def _levels(record: Record) -> str | list[int]:
    """The number of each chunk's level, finest 0: a text of digits."""
    place = {level.name: str(index) for index, level in enumerate(record.condition.levels)}
    numbers = [place[level] for level in record.selection.assigned]
    return "".join(numbers) if len(place) <= 10 else list(map(int, numbers))


def _layout(
    question: AskedQuestion,
    layout: Layout,
    place: int | None,
    times: Mapping[Film, Sequence[float]],
) -> dict[str, Any]:
    """One way in which the video was cut; pictures where the place of its film is given."""
    film = question.film(layout)
    at = frame_times(layout)
    if film is not None and place is not None:
        at = [times[film][frame] for frame in layout.taken]
    members = [record for _, record in question.answers if Layout.of(record) == layout]
    truth, matter = members[0].question.gt_chunks, mattering(members, layout.chunks)
    pictures: list[str | None] = [None] * layout.chunks
    if place is not None:
        for chunk, frame in enumerate(shown_frames(layout, at, question.spans)):
            if chunk in matter:
                pictures[chunk] = f"{place}.{layout.taken[frame]}"
    return {
        "frames": layout.frames,
        "about": place is None,
        "seconds": [[round(second, 2) for second in span] for span in chunk_seconds(layout, at)],
        "truth": None if truth is None else list(truth),
        "matter": sorted(matter),
        "pictures": pictures,
    }


def mattering(records: Sequence[Record], chunks: int) -> set[int]:
    """Chunks that are shown: all of a few; else those that hold the answer, were re-loaded, or are rated highest."""
    if chunks <= ALL_SHOWN:
        return set(range(chunks))
    found: set[int] = set()
    for record in records:
        found |= set(record.question.gt_chunks or ())
        if len(record.selected) <= ALL_SHOWN:
            found |= set(record.selected)
        rated = [(v, i) for i, v in enumerate(record.selection.relevance) if v is not None]
        found |= {index for _, index in sorted(rated, reverse=True)[:RATED_HIGHEST]}
    return found
