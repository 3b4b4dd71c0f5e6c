"""Where answers lie, from a file of annotations that is not the set's own: KFS-Bench's, in the user's copy.

KFS-Bench (Li et al., WACV 2026; github.com/NEC-VID/KFS-Bench, its own licence) annotates 1,291 questions of
LongVideoBench (`lvb_anno.csv`) and 888 of Video-MME (`vidmme_anno.csv`) with the segments that the answer rests on,
grouped into scenes. Nothing of it comes with x2l.
"""

import csv
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from x2l.benchmarks.base import DatasetError, Sample

COLUMNS = ("id", "scene_id", "start", "end")
# With hours, minutes stay below 60; seconds always do.
_TIME = re.compile(
    r"(?:(?P<hours>\d+):(?=[0-5]?\d:))?(?P<minutes>\d{1,3}):(?P<seconds>[0-5]?\d(?:\.\d+)?)"
)
log = logging.getLogger(__name__)


def annotated(samples: Iterator[Sample], path: str | None) -> Iterator[Sample]:
    """The samples that a file annotates, with its spans and scenes; all of them as they are where none is named.

    A segment lasts until the end of the second that it ends in, as in the file's own evaluation (0efe1d1 eval.py).

    Args:
        samples: of a set.
        path: a CSV file with columns `id`, `scene_id`, `start` and `end` (`m:ss` or `h:mm:ss`), a line a segment.

    Raises:
        DatasetError: the file cannot be read or is not what it should be, or it annotates none of the samples.
    """
    if path is None:
        yield from samples
        return
    segments, asked, count = _read(Path(path)), 0, 0
    for sample in samples:
        count += 1
        if (of := segments.get(sample.id)) is not None:
            asked += 1
            spans = tuple((start, end) for start, end, _ in of)
            yield replace(sample, spans=spans, scenes=tuple(scene for *_, scene in of))
    if not asked:
        raise DatasetError(
            f"benchmark.spans={path}: annotates none of the {count} questions (its first is "
            f"{next(iter(segments))!r}); give the file of this set"
        )
    others = len(segments) - asked
    log.info(
        "%s annotates %d of %d questions%s; only these are asked",
        *(path, asked, count, f", and {others} that this set has not" if others else ""),
    )


def _read(path: Path) -> dict[str, Sequence[tuple[float, float, str]]]:
    """(start, end, scene) of each segment, by question, in time order."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f"benchmark.spans={path}: cannot be read ({error})") from error
    if not rows or (missing := [name for name in COLUMNS if name not in rows[0]]):
        what = f"has no column {missing[0]}" if rows else "has no line"
        raise DatasetError(
            f"benchmark.spans={path}: {what}; must be a CSV file with {', '.join(COLUMNS)}, a line a segment"
        )
    found: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for number, row in enumerate(rows, start=2):
        if blank := [name for name in COLUMNS if not (row[name] or "").strip()]:
            raise DatasetError(
                f"{path}:{number}: {blank[0]} is missing; must be {', '.join(COLUMNS)}; correct the line"
            )
        start, end = (_seconds(row[name], f"{path}:{number}: {name}") for name in ("start", "end"))
        if end < start:
            raise DatasetError(
                f"{path}:{number}: end={row['end']} lies before start={row['start']}; correct the line"
            )
        found[row["id"].strip()].append((start, end + 1, row["scene_id"].strip()))
    return {name: sorted(segments) for name, segments in found.items()}


def _seconds(text: str, where: str) -> float:
    if (match := _TIME.fullmatch(text.strip())) is None:
        raise DatasetError(f"{where}={text}: must be m:ss or h:mm:ss; correct the line")
    return 3600 * int(match["hours"] or 0) + 60 * int(match["minutes"]) + float(match["seconds"])
