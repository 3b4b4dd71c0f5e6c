"""What the question browser's page holds: as many questions and pictures as fit, as JSON that no text breaks out of."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from x2l.analysis.report.questions import QuestionBrowser
from x2l.analysis.report.shown_chunks import Film
from x2l.analysis.report.thumbnails import ThumbnailReader

# Bytes in a page that holds them itself, so that it stays below 5 MB with its figures.
MOST_TEXT = 2_000_000
MOST_PICTURES = 1_400_000
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PageData:
    """What a page says of its questions.

    Attributes:
        data: JSON, for a script element.
        notes: what is not in it and what to do.
    """

    data: Markup
    notes: tuple[str, ...]


def script_json(values: Any) -> Markup:
    """JSON that may stand inside a script element: it holds no `<`, so nothing in it ends the element."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text.encode("utf-8", "backslashreplace").decode())


def served_data(browser: QuestionBrowser) -> PageData:
    """Of a page that asks a server for details and pictures."""
    every = range(len(browser.questions))
    return PageData(script_json({**browser.overview(every), "served": True}), ())


def page_data(browser: QuestionBrowser, progress: Progress | None = None) -> PageData:
    """Of a page that holds everything itself.

    Args:
        browser: the questions.
        progress: called with (videos read, videos) where there are pictures to read.
    """
    sizes = [len(json.dumps(browser.details(n))) for n in range(len(browser.questions))]
    numbers = _spread(sizes, MOST_TEXT)
    times, pictures, without = _pictures(browser, numbers, progress)
    details = {str(number): browser.details(number, times) for number in numbers}
    values = {**browser.overview(numbers), "details": details, "pictures": pictures}
    return PageData(script_json(values), (*_left_out(len(numbers), len(sizes)), *without))


def _spread(sizes: Sequence[int], most: int) -> list[int]:
    """All numbers, or so many of them, evenly spread, that their sizes fit."""
    step = 1
    while sum(sizes[::step]) > most and step < len(sizes):
        step += 1
    return list(range(0, len(sizes), step))


def _left_out(shown: int, every: int) -> list[str]:
    if shown == every:
        return []
    return [
        f"{shown:,} of {every:,} questions, evenly spread, are in this file; x2l-report --serve shows all"
    ]


def _pictures(
    browser: QuestionBrowser, numbers: Sequence[int], progress: Progress | None
) -> tuple[dict[Film, tuple[float, ...]], dict[str, str], list[str]]:
    """Times of the videos that were found, their pictures as data URIs by name, and what is to be said."""
    asked: dict[Film, list[int]] = defaultdict(list)
    for number in numbers:
        question = browser.questions[number]
        for film in dict.fromkeys(map(question.film, question.layouts)):
            if film is not None:
                asked[film].append(number)
    videos = {browser.questions[n].first.video.video_id for n in numbers}
    reader, times, pictures = ThumbnailReader(), dict[Film, tuple[float, ...]](), dict[str, str]()
    size, full = 0, False
    found = set()
    for done, (film, members) in enumerate(asked.items(), start=1):
        if full or (thumbnails := reader.read(film)) is None:
            continue
        times[film] = thumbnails.times
        found.add(browser.questions[members[0]].first.video.video_id)
        for name in _names(browser, film, members, thumbnails.times):
            frame = int(name.partition(".")[2])
            data = base64.b64encode(thumbnails.jpeg(frame)).decode()
            size += len(data)
            full |= size > MOST_PICTURES
            if full:
                break
            pictures[name] = data
        if progress is not None:
            progress(done, len(asked))
    return times, pictures, _without(len(videos - found), len(videos), full)


def _names(
    browser: QuestionBrowser, film: Film, numbers: Sequence[int], times: tuple[float, ...]
) -> list[str]:
    """Of the pictures of one video that some questions show."""
    found: Mapping[str, None] = {
        name: None
        for number in numbers
        for layout in browser.details(number, {film: times})["layouts"]
        for name in layout["pictures"]
        if name is not None
    }
    return list(found)


def _without(missing: int, every: int, full: bool) -> list[str]:
    if full:
        return ["pictures of some videos would not fit in this file; x2l-report --serve shows all"]
    if missing:
        return [
            f"no pictures of {missing:,} of {every:,} videos, whose files were not found or give other frames; run "
            "x2l-report where the sweep was run"
        ]
    return []
