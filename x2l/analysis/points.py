"""Records -> points: one row per cell, with accuracy, its interval and the mean compute.

Pure, but for the CSV. Knows nothing of figures or trackers.
"""

import csv
import dataclasses
import io
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from x2l.analysis.scoring import ALL_TASKS, headline, unparsed
from x2l.benchmarks.base import SEVERAL
from x2l.engine.stages import STAGES, VIDEO_STAGES
from x2l.runs.out_of_memory_log import Shortage, unanswered
from x2l.runs.records import Record

POINTS = "points.csv"
FULL, ALL_LOW, ALL_HIGH = "full", "all-low", "all-high"

# What may tell two cells of one compressor, selector and k apart, and how figures say it.
WORDS = {
    "model": "{}",
    "benchmark": "{}",
    "protocol": "protocol {}",
    "dtype": "{}",
    "frames": "{:g} frames",
    "fps": "{} fps",
    "chunk_frames": "{} frames a chunk",
    "ratio_low": "low {:g}x",
    "ratio_high": "high {:g}x",
    "between": "with {}",
    "context": "context {}",
    "positions": "positions {}",
    "pinned": "pinned {}",
    "seed": "seed {}",
    "selector_config": "settings {}",
    "run_id": "run {}",
}
TWO_LEVELS = "two levels"  # beside cells with more
LAST_RESORT = ("selector_config", "run_id")  # named only where nothing else tells two cells apart


@dataclass(frozen=True)
class Point:
    """One cell of the experiment, for all tasks or for a part of them.

    `task` is `all`, the name of a task, or `tag=value` for the questions that carry a tag.
    `accuracy` follows the benchmark's protocol: circular groups count as one, the mean is over
    questions or over tasks, unparsed answers are wrong, left out or guessed.

    Compute is per question. `vision`, `prefill` and `compression` are paid once per video and
    shared out among the questions that were asked about it; `first` is what a lone question costs,
    `next` what each further question on a pre-filled video costs. Bytes and FLOPs are closed
    forms, seconds are measured.
    """

    model: str
    benchmark: str
    protocol: str
    dtype: str
    fps: float | None
    frames: float  # mean over videos: short videos have fewer than asked for
    chunk_frames: int
    compressor: str
    ratio_low: float
    ratio_high: float
    context: str
    positions: str
    selector: str
    top_k: int | str | None
    pinned: str
    seed: int
    task: str
    accuracy: float
    low: float
    high: float
    n: int
    videos: int
    parse_failures: int
    accuracy_parsed: float  # among the answers that could be parsed
    recall: float
    precision: float
    hit: float  # share of questions with a ground-truth chunk re-loaded
    measured_ratio_low: float
    measured_ratio_high: float
    kv_share: float  # resident bytes as a share of the uncompressed cache
    kv_bytes_resident: float
    kv_bytes_reloaded: float
    kv_bytes_host: float
    kv_bytes_full: float
    flops: float
    flops_first: float
    flops_next: float
    flops_vision: float
    flops_prefill: float
    flops_compression: float
    flops_retrieval: float
    flops_selection: float
    flops_reload: float
    flops_decode: float
    seconds: float
    seconds_first: float
    seconds_next: float
    seconds_vision: float
    seconds_prefill: float
    seconds_compression: float
    seconds_retrieval: float
    seconds_selection: float
    seconds_reload: float
    seconds_decode: float
    questions_per_video: float
    run_id: str
    selector_config: str
    between: str = ""  # further levels: "mid 8x"
    measured_between: str = ""  # and what was obtained: "mid 7.96x"
    # Questions that ran out of memory. They are not in `n`: the accuracy is over other questions than that of a cell
    # without, and a cell where all did has none.
    out_of_memory: int = 0

    @property
    def control(self) -> str | None:
        """`full`, `all-low`, `all-high`, or None for a cell that selects."""
        if self.ratio_low == self.ratio_high == 1:
            return FULL
        return {"all": ALL_LOW, "none": ALL_HIGH}.get(self.selector)

    @property
    def knows_truth(self) -> bool:
        """Whether the cell was told where the answer lies: a bound, not a method."""
        told = self.selector.startswith(("oracle", "hit_rate"))
        return not self.control and (told or self.top_k == "gt")


def points(
    records: Iterable[Record], by_task: bool = False, shortages: Iterable[Shortage] = ()
) -> list[Point]:
    """One point per cell, in a stable order; several runs of one cell are one.

    Sums are exact (`fsum`), so the order of the records, another one after a resume, is no matter.

    Args:
        records: of any set of runs.
        by_task: add a point for every task of a cell, and for every value of a tag that has several,
            after the one for all.
        shortages: the answers that ran out of memory; those that a record has made up for do not count.
    """
    unique = {record.key: record for record in records}
    short = {one.key: one for one in unanswered(shortages, unique.values())}
    cells: dict[tuple[str, ...], list[Record | Shortage]] = defaultdict(list)
    every: list[Record | Shortage] = [*unique.values(), *short.values()]
    for member in every:
        run_id, _, *cell = member.key
        cells[(run_id, *cell)].append(member)
    found: list[Point] = []
    for members in cells.values():
        asked = Counter(member.video_id for member in members if isinstance(member, Record))
        found.append(_point(members, ALL_TASKS, asked))
        if by_task:
            for name, part in _parts(members).items():
                found.append(_point(part, name, asked))
    return sorted(found, key=_order)


def _parts(members: Sequence[Record | Shortage]) -> dict[str, list[Record | Shortage]]:
    """The answers of each task, and of each value of a tag, where there is more than one."""
    parts: dict[str, list[Record | Shortage]] = defaultdict(list)
    for member in members:
        for task in member.task.split(SEVERAL):
            parts[task].append(member)
    values: dict[str, set[str]] = defaultdict(set)
    for member in members:
        for tag, value in member.tags.items():
            values[tag].add(value)
    for member in members:
        for tag, value in member.tags.items():
            if len(values[tag]) > 1:
                parts[f"{tag}={value}"].append(member)
    return parts


def write_points(path: str | Path, rows: Sequence[Point]) -> None:
    """Writes the points as CSV, replacing the file in one step."""
    text = io.StringIO()
    names = [field.name for field in dataclasses.fields(Point)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "control"])
    for row in rows:
        values = [getattr(row, name) for name in names]
        writer.writerow([*("" if v is None else v for v in values), row.control or ""])
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text.getvalue())
    os.replace(temporary, path)


def pareto(rows: Sequence[Point], x: str) -> list[Point]:
    """The points that no other beats in both accuracy and `x` (a compute field), cheapest first.

    Cells that were told the truth are passed over: nobody can have them. So are those that ran out of memory for some
    questions: the accuracy over the others may be higher for it.
    """
    front: list[Point] = []
    for row in sorted(
        (row for row in rows if not row.knows_truth and not row.out_of_memory),
        key=lambda p: (getattr(p, x), -p.accuracy),
    ):
        if not math.isnan(row.accuracy) and (not front or row.accuracy > front[-1].accuracy):
            front.append(row)
    return front


def told(name: str, value: object) -> str:
    """How figures and tables say the value of a field of `WORDS`."""
    return TWO_LEVELS if name == "between" and not value else WORDS[name].format(value)


def telling_apart(rows: Sequence[Point]) -> list[str]:
    """The fields of `WORDS` that differ among some points.

    Those of `LAST_RESORT` are among them only where no other tells two cells apart (one selector with
    several settings; runs of other benchmark settings): such cells must never be joined to one line.
    """
    names = [name for name in WORDS if name not in LAST_RESORT]
    # The mean over the videos that fitted into memory tells no two cells apart.
    whole = [row for row in rows if not row.out_of_memory] or rows
    counted = {name: whole if name == "frames" else rows for name in names}
    names = [name for name in names if len({getattr(row, name) for row in counted[name]}) > 1]
    for last in LAST_RESORT:
        if _apart(rows, [*names, last]) > _apart(rows, names):
            names.append(last)
    return names


def of_several_settings(rows: Sequence[Point]) -> set[str]:
    """The selectors of which only `selector_config` tells some points apart: each setting is a line of its own."""
    by_selector: dict[str, list[Point]] = defaultdict(list)
    for row in rows:
        by_selector[row.selector].append(row)
    return {s for s, own in by_selector.items() if "selector_config" in telling_apart(own)}


def _apart(rows: Sequence[Point], names: Sequence[str]) -> int:
    """How many cells some fields tell apart, beside compressor, selector and k."""
    return len({(r.compressor, r.selector, r.top_k, *(getattr(r, n) for n in names)) for r in rows})


def _point(members: Sequence[Record | Shortage], task: str, asked: Mapping[str, int]) -> Point:
    """One point; `asked` is the number of questions of all tasks about each video."""
    first = members[0]
    records = [member for member in members if isinstance(member, Record)]
    score = headline(records)

    def mean(name: str) -> float:
        return _share([getattr(record, name) for record in records])

    def stage_costs(unit: str) -> tuple[dict[str, float], float, float]:
        """Mean per question by stage (shared out), of a lone question, of a further one."""
        once = {stage: mean(f"{unit}_{stage}") for stage in STAGES}
        shared = dict(once)
        for stage in VIDEO_STAGES:
            shares = (getattr(r, f"{unit}_{stage}") / asked[r.video_id] for r in records)
            shared[stage] = math.fsum(shares) / len(records) if records else math.nan
        further = math.fsum(once[stage] for stage in STAGES if stage not in VIDEO_STAGES)
        return shared, math.fsum(once.values()), further

    flops, flops_first, flops_next = stage_costs("flops")
    seconds, seconds_first, seconds_next = stage_costs("seconds")
    return Point(
        model=first.model,
        benchmark=first.benchmark,
        protocol=first.protocol,
        dtype=first.dtype,
        fps=first.fps,
        frames=mean("frames") if records else float(first.frames or math.nan),
        chunk_frames=first.chunk_frames,
        compressor=first.compressor,
        ratio_low=first.ratio_low,
        ratio_high=first.ratio_high,
        context=first.context,
        positions=first.positions,
        selector=first.selector,
        top_k=first.top_k,
        pinned="+".join(first.pinned),
        seed=first.seed,
        task=task,
        accuracy=score.value,
        low=score.low,
        high=score.high,
        n=score.count,
        videos=score.videos,
        parse_failures=sum(map(unparsed, records)),
        accuracy_parsed=_share([r.correct for r in records if not unparsed(r)]),
        recall=mean("recall"),
        precision=mean("precision"),
        hit=mean("hit"),
        measured_ratio_low=mean("measured_ratio_low"),
        measured_ratio_high=mean("measured_ratio_high"),
        kv_share=(
            sum(r.kv_bytes_resident for r in records) / sum(r.kv_bytes_full for r in records)
            if records
            else math.nan
        ),
        kv_bytes_resident=mean("kv_bytes_resident"),
        kv_bytes_reloaded=mean("kv_bytes_reloaded"),
        kv_bytes_host=mean("kv_bytes_host"),
        kv_bytes_full=mean("kv_bytes_full"),
        flops=math.fsum(flops.values()),
        flops_first=flops_first,
        flops_next=flops_next,
        **{f"flops_{stage}": flops[stage] for stage in STAGES},
        seconds=math.fsum(seconds.values()),
        seconds_first=seconds_first,
        seconds_next=seconds_next,
        **{f"seconds_{stage}": seconds[stage] for stage in STAGES},
        questions_per_video=(
            len(records) / len({record.video_id for record in records}) if records else math.nan
        ),
        run_id=first.run_id,
        selector_config=first.selector_config,
        between=first.between,
        measured_between=_measured_between(records),
        out_of_memory=len(members) - len(records),
    )


def _share(values: Iterable[float | None]) -> float:
    """Mean of what is known; NaN where nothing is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else math.nan


def _measured_between(records: Sequence[Record]) -> str:
    """Ratios really obtained at the levels between, mean over records."""
    nominal = records[0].ratios_between if records else {}  # none answered: out of memory
    found = {}
    for level in sorted(nominal, key=nominal.__getitem__):
        ratios = [
            r.measured_ratio_low * sum(r.kept_low) / sum(r.kept_between[level])
            for r in records
            if level in r.kept_between  # not so in the control of fewer frames
        ]
        if ratios:
            found[level] = math.fsum(ratios) / len(ratios)
    return ", ".join(f"{level} {ratio:.2f}x" for level, ratio in found.items())


def k_order(top_k: int | str | None) -> tuple[float, str]:
    """Numbers first, then words by the numbers in them: ladders and budgets rise, `gt` and `task` come last."""
    if not isinstance(top_k, str):
        return (-1.0 if top_k is None else float(top_k)), ""
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", top_k)]
    return (sum(numbers) if numbers else math.inf), top_k


def _order(point: Point) -> tuple[str | float, ...]:
    """Controls first, then by method, then by k; `gt` after the numbers."""
    controls = (FULL, ALL_LOW, ALL_HIGH)
    rank = controls.index(point.control) if point.control else len(controls)
    return (
        point.model,
        point.benchmark,
        point.compressor if rank else "",
        point.chunk_frames,
        point.context,
        point.ratio_low,
        point.ratio_high,
        rank,
        point.selector,
        *k_order(point.top_k),
        point.pinned,
        point.seed,
        point.selector_config,
        point.run_id,
        point.task != ALL_TASKS,
        point.task,
    )
