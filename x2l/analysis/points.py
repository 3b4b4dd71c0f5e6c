"""Records -> points: one row per cell, with accuracy, its interval and the mean compute.

Pure, but for the CSV. Knows nothing of figures or trackers.
"""

import csv
import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from x2l.analysis.scoring import ALL_TASKS, chance, headline, unparsed
from x2l.benchmarks.base import SEVERAL
from x2l.engine.stages import QUESTION_STAGES, STAGES, VIDEO_STAGES
from x2l.engine.top_k import order_key
from x2l.runs.condition import FULL, Condition
from x2l.runs.out_of_memory_log import OutOfMemory, unanswered
from x2l.runs.records import Record
from x2l.runs.whole_file import whole_file

POINTS = "points.csv"


def _by(separator: str) -> Any:
    """A measure with a value for each stage or level: columns of points.csv are called NAME, separator, STAGE."""
    return dataclasses.field(metadata={"separator": separator})


@dataclass(frozen=True)
class Point:
    """One cell of the experiment, for all tasks or for a part of them.

    Compute is per question. The stages of the video (vision, pre-fill, compression, retrieval) are paid once for each
    and shared out among the questions that were asked about it. Bytes and FLOPs are closed forms, seconds are measured.

    Attributes:
        task: `all`, the name of a task, or `tag=value` for the questions that carry a tag.
        accuracy: by the benchmark's protocol: circular groups count as one, the mean is over questions or over tasks,
            unparsed answers are wrong, left out or guessed.
        accuracy_low, accuracy_high: its 95 % interval, clustered by video.
        chance: the accuracy of guessing; NaN where it is not known.
        questions: that count, or groups of tries.
        parse_failures: answers without a readable letter.
        accuracy_parsed: among the answers that could be parsed.
        frames_sampled: mean; short videos have fewer than asked for.
        hit: share of questions with a ground-truth chunk re-loaded.
        scene_hit: share of a question's ground-truth scenes of which a chunk was re-loaded, mean.
        measured_ratio: level -> tokens in / tokens out.
        kv_share: bytes stored as a share of the uncompressed cache's keys and values.
        kv_bytes_stored: of what an answer is decoded from, as stored, positions and weights included.
        kv_bytes_attended: of the decoded copy of it that attention reads.
        kv_bytes_streamed: read from the host by the selector.
        selector_bytes_resident: kept on the device by the selector, not in `kv_bytes_stored`.
        kv_bytes_budget, flops_budget: what a control of fewer frames had to match, beside what it stored or took
            (`kv_bytes_stored`, `flops_first`); NaN for all else.
        flops: stage -> FLOPs.
        flops_total: of all stages.
        flops_first: of a lone question about a video.
        flops_next: of each further question on a pre-filled video.
        peak_memory: stage -> the most bytes during it, of all questions; NaN where it is not known.
        peak_memory_question: the most over selection, reload and decode.
        seconds: stage -> seconds; its total, first and next as those of FLOPs.
        out_of_memory: questions that ran out of memory. They are not in `questions`: the accuracy is over other ones
            than that of a cell without, and a cell where all did has none.
    """

    condition: Condition
    task: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    chance: float
    questions: int
    videos: int
    parse_failures: int
    accuracy_parsed: float
    frames_sampled: float
    questions_per_video: float
    recall: float
    precision: float
    hit: float
    scene_hit: float
    kv_share: float
    kv_bytes_stored: float
    kv_bytes_attended: float
    kv_bytes_reloaded: float
    kv_bytes_streamed: float
    selector_bytes_resident: float
    kv_bytes_host: float
    kv_bytes_full: float
    kv_bytes_budget: float
    flops_budget: float
    flops_total: float
    flops_first: float
    flops_next: float
    seconds_total: float
    seconds_first: float
    seconds_next: float
    peak_memory_question: float
    out_of_memory: int
    measured_ratio: Mapping[str, float] = _by(".")
    flops: Mapping[str, float] = _by("_")
    seconds: Mapping[str, float] = _by("_")
    peak_memory: Mapping[str, float] = _by("_")

    @property
    def measures(self) -> dict[str, float]:
        """What was measured, by the names of points.csv."""
        values: dict[str, float] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if separator := field.metadata.get("separator"):
                values |= {f"{field.name}{separator}{key}": part for key, part in value.items()}
            elif field.name not in ("condition", "task"):
                values[field.name] = value
        return values


def points(
    records: Iterable[Record], by_task: bool = False, out_of_memory: Iterable[OutOfMemory] = ()
) -> list[Point]:
    """One point per cell, in a stable order; several runs of one cell are one.

    Sums are exact (`fsum`), so the order of the records, another one after a resume, is no matter.

    Args:
        records: of any set of runs.
        by_task: add a point for every task of a cell, and for every value of a tag that has several,
            after the one for all.
        out_of_memory: the answers that memory ran out for; those that a record has made up for do not count.
    """
    unique = {record.key: record for record in records}
    missing = {entry.key: entry for entry in unanswered(out_of_memory, unique.values())}
    cells: dict[Condition, list[Record | OutOfMemory]] = defaultdict(list)
    for record in unique.values():
        cells[record.condition].append(record)
    for entry in missing.values():
        cells[entry.condition].append(entry)
    rows: list[Point] = []
    for condition in sorted(cells, key=_order):
        members = cells[condition]
        per_video = Counter(m.video.video_id for m in members if isinstance(m, Record))
        rows.append(_point(condition, ALL_TASKS, members, per_video))
        if by_task:
            for name, part in sorted(_parts(members).items()):
                rows.append(_point(condition, name, part, per_video))
    return rows


def _parts(members: Sequence[Record | OutOfMemory]) -> dict[str, list[Record | OutOfMemory]]:
    """The answers of each task, and of each value of a tag, where there is more than one."""
    parts: dict[str, list[Record | OutOfMemory]] = defaultdict(list)
    by_tag: dict[str, dict[str, list[Record | OutOfMemory]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for member in members:
        question = member.question if isinstance(member, Record) else member
        for task in question.task.split(SEVERAL):
            parts[task].append(member)
        for tag, value in question.tags.items():
            by_tag[tag][value].append(member)
    for tag, values in by_tag.items():
        if len(values) > 1:
            parts |= {f"{tag}={value}": of_value for value, of_value in values.items()}
    return parts


def point_row(point: Point) -> dict[str, Any]:
    """One point as flat values: traits of the condition (`ratio.low`, ...), then `task` and the measures."""
    return {**point.condition.columns, "task": point.task, **point.measures}


def write_points(path: str | Path, rows: Sequence[Point]) -> None:
    """Writes the points as CSV, replacing the file in one step.

    One column a trait of the condition (`ratio.low`, `ratio.high`, ... of its levels), then `task` and the measures.
    """
    flat = [point_row(p) for p in rows]
    columns = dict.fromkeys(name for row in sorted(flat, key=len, reverse=True) for name in row)
    with (
        whole_file(path) as part,
        part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        for row in flat:
            writer.writerow({k: "+".join(v) if isinstance(v, tuple) else v for k, v in row.items()})


def pareto(rows: Sequence[Point], x: str) -> list[Point]:
    """The points that no other beats in both accuracy and `x` (a compute field), cheapest first.

    Bounds are passed over: nobody can have them. So are cells that ran out of memory for some questions: the accuracy
    over the others may be higher for it.
    """
    competing = [p for p in rows if not p.condition.is_bound and not p.out_of_memory]
    front: list[Point] = []
    for point in sorted(competing, key=lambda p: (getattr(p, x), -p.accuracy)):
        beats = not front or point.accuracy > front[-1].accuracy
        if not math.isnan(point.accuracy) and beats:
            front.append(point)
    return front


def _point(
    condition: Condition,
    task: str,
    members: Sequence[Record | OutOfMemory],
    per_video: Mapping[str, int],
) -> Point:
    """One point; `per_video` is the number of questions of all tasks about each video."""
    records = [member for member in members if isinstance(member, Record)]
    score = headline(records)

    def mean(value: Callable[[Record], float | None]) -> float:
        return mean_of_known(map(value, records))

    def stage_costs(measure: str) -> tuple[dict[str, float], float, float]:
        """Mean per question by stage (shared out), of a lone question, of a further one."""
        by_stage = [(record.video.video_id, getattr(record, measure)) for record in records]
        once = {stage: mean_of_known(of[stage] for _, of in by_stage) for stage in STAGES}
        shared = dict(once)
        for stage in VIDEO_STAGES:
            shares = (of[stage] / per_video[video] for video, of in by_stage)
            shared[stage] = math.fsum(shares) / len(records) if records else math.nan
        further = math.fsum(once[stage] for stage in STAGES if stage not in VIDEO_STAGES)
        return shared, math.fsum(once.values()), further

    flops, flops_first, flops_next = stage_costs("flops")
    seconds, seconds_first, seconds_next = stage_costs("seconds")
    peaks = {stage: largest_known(r.peak_memory[stage] for r in records) for stage in STAGES}
    videos = len({record.video.video_id for record in records})
    return Point(
        condition=condition,
        task=task,
        accuracy=score.value,
        accuracy_low=score.low,
        accuracy_high=score.high,
        chance=chance(records),
        questions=score.count,
        videos=score.videos,
        parse_failures=sum(map(unparsed, records)),
        accuracy_parsed=mean_of_known(r.answer.correct for r in records if not unparsed(r)),
        frames_sampled=mean(lambda r: r.video.frames_sampled),
        questions_per_video=len(records) / videos if records else math.nan,
        recall=mean(lambda r: r.selection.recall),
        precision=mean(lambda r: r.selection.precision),
        hit=mean(lambda r: r.selection.hit),
        scene_hit=mean(lambda r: r.selection.scene_hit),
        measured_ratio={
            level.name: mean_of_known(r.video.measured_ratio.get(level.name) for r in records)
            for level in condition.levels
        },
        kv_share=kv_share(records),
        kv_bytes_stored=mean(lambda r: r.answer.kv_bytes_stored),
        kv_bytes_attended=mean(lambda r: r.answer.kv_bytes_attended),
        kv_bytes_reloaded=mean(lambda r: r.answer.kv_bytes_reloaded),
        kv_bytes_streamed=mean(lambda r: r.selection.kv_bytes_streamed),
        selector_bytes_resident=mean(lambda r: r.selection.selector_bytes_resident),
        kv_bytes_host=mean(lambda r: r.video.kv_bytes_host),
        kv_bytes_full=mean(lambda r: r.video.kv_bytes_full),
        kv_bytes_budget=mean(lambda r: r.video.kv_bytes_budget),
        flops_budget=mean(lambda r: r.video.flops_budget),
        flops_total=math.fsum(flops.values()),
        flops_first=flops_first,
        flops_next=flops_next,
        flops=flops,
        seconds_total=math.fsum(seconds.values()),
        seconds_first=seconds_first,
        seconds_next=seconds_next,
        seconds=seconds,
        peak_memory=peaks,
        peak_memory_question=largest_known(peaks[stage] for stage in QUESTION_STAGES),
        out_of_memory=len(members) - len(records),
    )


def mean_of_known(values: Iterable[float | None]) -> float:
    """Mean of what is known; NaN where nothing is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else math.nan


def largest_known(values: Iterable[float | None]) -> float:
    """Largest of what is known; NaN where nothing is."""
    known = (value for value in values if value is not None and not math.isnan(value))
    return float(max(known, default=math.nan))


def kv_share(records: Sequence[Record]) -> float:
    """Bytes stored of what answers are decoded from, of the uncompressed caches'; NaN without records."""
    full = sum(r.video.kv_bytes_full for r in records)
    return sum(r.answer.kv_bytes_stored for r in records) / full if records else math.nan


def _order(condition: Condition) -> tuple[Any, ...]:
    """Baselines first, finest first, then by method and k; whatever else tells conditions apart comes last."""
    baselines = [FULL, *(f"all-{level.name}" for level in condition.levels)]
    is_full = condition.baseline == FULL
    return (
        condition.model,
        condition.benchmark,
        "" if is_full else condition.compressor,
        condition.chunk_frames,
        condition.context,
        [math.inf if level.ratio is None else level.ratio for level in condition.levels],
        baselines.index(condition.baseline) if condition.baseline else len(baselines),
        condition.chosen_by,
        order_key(condition.top_k),
        condition.pinned,
        condition.taking,
        condition.seed,
        repr(condition),
    )
