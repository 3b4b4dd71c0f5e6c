"""LVBench: 1,549 questions on 103 videos of an hour and more (arXiv 2406.08035).

`zai-org/LVBench` on the Hub (formerly `THUDM/LVBench`) holds the questions; videos are named by their
YouTube id. This file is the example of docs/benchmarks.md for adding a set.
"""

import re
from collections.abc import Iterator, Sequence

from x2l.benchmarks.annotation_row import Row
from x2l.benchmarks.answer_extraction import inside_brackets
from x2l.benchmarks.base import SEVERAL, DatasetError, Sample
from x2l.benchmarks.dataset_folder import Folder, Source
from x2l.benchmarks.multiple_choice import ChoiceSet, Protocol
from x2l.benchmarks.option_text import bracketed, letters

SOURCE = Source(
    "zai-org/LVBench",
    unpack=(
        "jq -r .key video_info.meta.jsonl | "
        "yt-dlp -f 'bv*[height<=480][ext=mp4]' -o 'videos/%(id)s.%(ext)s' -a -",
    ),
)
_OPTION = re.compile(r"^\s*\(([A-Z])\)\s*", re.MULTILINE)


def _official(sample: Sample, _: Sequence[str] | None) -> str:
    """LVBench publishes no prompt; this is lmms-eval's (9c25ff5 tasks/lvbench)."""
    question = f"{sample.question}\n{bracketed(sample.choices)}"
    return f"{question}\nAnswer the question with the option letter"


PROTOCOLS = {"official": Protocol(_official, inside_brackets)}


def lvbench(
    root: str,
    protocol: str = "official",
    tasks: Sequence[str] | str | None = None,
    durations: Sequence[str] | str | None = None,
    shard: str | None = None,
) -> ChoiceSet:
    """LVBench as `SOURCE` leaves it in `root`; see `ChoiceSet` for the values.

    `tasks` are its six question types (a question may have several), `durations` its whole hours.
    """
    folder = Folder("lvbench", root, SOURCE)
    return ChoiceSet(
        "lvbench", folder, _samples(folder), PROTOCOLS, protocol, tasks, durations, shard
    )


def _samples(folder: Folder) -> Iterator[Sample]:
    number = 0
    for row in folder.rows("video_info.meta.jsonl", "data/video_info.meta.jsonl"):
        for qa in row.rows("qa"):
            question, *options = _OPTION.split(qa.text("question"))
            if "".join(options[::2]) != letters(26)[: len(options) // 2]:
                raise DatasetError(f"{row.path}: {qa['uid']}: options must run (A), (B), (C) ...")
            if not question.strip():
                raise DatasetError(f"{row.path}: {qa['uid']}: has options and no question")
            yield Sample(
                id=qa.label("uid"),
                video_id=row.text("key"),
                video=str(folder.video(row.text("key"), ("videos", "all_videos"))),
                task=SEVERAL.join(qa.labels("question_type")),
                question=question.strip(),
                choices=tuple(option.strip() for option in options[1::2]),
                answer=qa.text("answer"),
                spans=_span(qa.text("time_reference")) if qa.get("time_reference") else None,
                tags={"type": row.text("type"), "duration": _hours(row)},
                row=number,
                video_seconds=60 * row.inner("video_info").number_of("duration_minutes"),
            )
            number += 1


def _hours(row: Row) -> str:
    return f"{int(row.inner('video_info').number_of('duration_minutes')) // 60}h"


def _span(reference: str) -> tuple[tuple[float, float], ...] | None:
    """`MM:SS-MM:SS` or `HH:MM:SS-HH:MM:SS`; None where it cannot be read."""
    if not re.fullmatch(r"\s*(\d+:)?\d+:\d+\s*-\s*(\d+:)?\d+:\d+\s*", reference):
        return None
    start, end = (_seconds(clock) for clock in reference.split("-"))
    return ((start, end),) if start <= end else None


def _seconds(clock: str) -> float:
    parts = [float(part) for part in clock.split(":")]
    return sum(part * 60**place for place, part in enumerate(reversed(parts)))
