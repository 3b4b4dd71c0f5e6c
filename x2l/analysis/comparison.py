"""Cells out of folders of records, paired and compared on the questions that both answered. Knows no figures."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from x2l.analysis.power import bootstrap, holm, videos_needed
from x2l.analysis.scoring import outcomes, unparsed
from x2l.analysis.statistics import (
    Accuracy,
    Difference,
    Outcome,
    accuracy,
    changes,
    macro_accuracy,
    macro_difference,
    paired_difference,
)
from x2l.benchmarks.base import SEVERAL, Mean
from x2l.runs.records import RECORDS, Record, load

# What tells cells apart, in the order in which they are named.
FIELDS = (
    "benchmark",
    "protocol",
    "model",
    "dtype",
    "fps",
    "frames",
    "chunk_frames",
    "compressor",
    "ratio_low",
    "ratio_high",
    "between",
    "context",
    "positions",
    "selector",
    "top_k",
    "pinned",
    "seed",
)
LAST_RESORT = (
    "selector_config",
    "run_id",
)  # only where the others tell two cells of a side not apart


@dataclass(frozen=True)
class CellRecords:
    """One cell's answers, with the fields that describe it."""

    fields: Mapping[str, Any]
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Comparison:
    """Two cells on the questions that both answered.

    Attributes:
        a, b: what the cells are.
        mean: what the protocol's headline is a mean of, "questions" (micro) or "tasks" (macro); questions where
            the two sides' protocols differ in it.
        micro, macro: B minus A, over questions, and over tasks.
        accuracies: of a and b over questions, then over tasks; of what both sides count only, so that b's less
            a's is the difference.
        left_out: units (questions, or groups of tries) among the shared questions that one side or both do not
            count: unparsed where the protocol leaves such out, or a group that is not whole.
        only_a, only_b: questions that the other side has not answered; left out everywhere.
        unparsed_a, unparsed_b: answers without a readable letter, among the shared questions.
        kv_share_a, kv_share_b: bytes resident while answering, of the uncompressed cache's.
        recall_a, recall_b: mean chunk recall; NaN where nothing is known of it.
        p_holm: `headline`'s p value, corrected for all comparisons made together.
        videos_needed: to find the asked-for difference of the headline; None where nothing can be said.
        bootstrap: `micro`'s interval by drawing videos again; None unless asked for.
    """

    a: Mapping[str, Any]
    b: Mapping[str, Any]
    mean: Mean
    micro: Difference
    macro: Difference
    accuracies: tuple[Accuracy, Accuracy, Accuracy, Accuracy]
    only_a: int
    only_b: int
    left_out: int
    unparsed_a: int
    unparsed_b: int
    kv_share_a: float
    kv_share_b: float
    recall_a: float
    recall_b: float
    p_holm: float
    videos_needed: int | None
    bootstrap: tuple[float, float] | None

    @property
    def headline(self) -> Difference:
        """The difference of the mean that the protocol names."""
        return self.macro if self.mean == "tasks" else self.micro

    @property
    def headline_accuracies(self) -> tuple[Accuracy, Accuracy]:
        """Of a and b, by that mean."""
        return self.accuracies[2:] if self.mean == "tasks" else self.accuracies[:2]

    @property
    def unequal_bytes(self) -> bool:
        """Whether one side decodes from over 10 % more KV bytes than the other: no equal-compute comparison."""
        low, high = sorted((self.kv_share_a, self.kv_share_b))
        return high > 1.1 * low


def read_cells(folder: Path, wanted: Mapping[str, str]) -> list[CellRecords]:
    """The cells under a folder that fit a filter.

    Args:
        folder: a run, or a folder of runs at any depth.
        wanted: field -> value, or several joined by commas.

    Raises:
        ValueError: no folder, no records, an unknown field, or no cell that fits.
    """
    if not folder.is_dir():
        raise ValueError(f"folder={folder}: no such folder; give one that x2l wrote")
    if unknown := sorted(set(wanted) - {*FIELDS, *LAST_RESORT}):
        raise ValueError(f"{unknown[0]}: is no field; choose by {', '.join(FIELDS)}")
    found: dict[tuple[Any, ...], dict[Any, Record]] = defaultdict(dict)
    for path in sorted(folder.rglob(RECORDS)):
        for record in load(path):
            run, sample, *cell = record.key
            found[run, *cell][sample] = record
    cells = [_cell(list(records.values())) for records in found.values()]
    fitting = [c for c in cells if all(_fits(c.fields[k], v) for k, v in wanted.items())]
    if not fitting:
        asked = " ".join(f"{name}={value}" for name, value in wanted.items())
        raise ValueError(
            f"folder={folder}: holds no cell with {asked}; it has {listed(cells)}"
            if cells
            else f"folder={folder}: holds no {RECORDS} with an answer; run x2l first"
        )
    return fitting


def pair(
    a: Sequence[CellRecords], b: Sequence[CellRecords]
) -> list[tuple[CellRecords, CellRecords]]:
    """Cells that agree in every field in which both sides vary; never a cell with itself.

    Raises:
        ValueError: there are none.
    """
    names = _telling(a), _telling(b)
    both = [name for name in names[0] if name in names[1]]
    pairs = [
        (x, y)
        for x in a
        for y in b
        if all(x.fields[name] == y.fields[name] for name in both) and x.fields != y.fields
    ]
    if not pairs:
        raise ValueError(
            f"a and b: no two cells to compare; a has {listed(a)}; b has {listed(b)}; "
            "choose with --a FIELD=VALUE and --b FIELD=VALUE"
        )
    return pairs


def compare(
    pairs: Sequence[tuple[CellRecords, CellRecords]], points: float = 5.0, draws: int = 0
) -> list[Comparison]:
    """Compares pairs of cells on the questions that both have answered.

    Args:
        pairs: of cells.
        points: the difference that `videos_needed` is about, in percentage points.
        draws: of the bootstrap; 0 = none.

    Raises:
        ValueError: two cells share no question.
    """
    found = [_compared(a, b, points / 100, draws) for a, b in pairs]
    corrected = holm([one.headline.p_value for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]


def _compared(a: CellRecords, b: CellRecords, difference: float, draws: int) -> Comparison:
    ids = [{record.sample_id for record in side.records} for side in (a, b)]
    shared = ids[0] & ids[1]
    if not shared:
        raise ValueError(
            f"a and b: {listed([a])} and {listed([b])} share no question; compare runs of one "
            "benchmark with the same benchmark settings"
        )
    on_a = [record for record in a.records if record.sample_id in shared]
    on_b = [record for record in b.records if record.sample_id in shared]
    all_a, all_b = _paired(outcomes(on_a), outcomes(on_b))
    tasks_a, tasks_b = _by_task(on_a), _by_task(on_b)
    for task in tasks_a.keys() & tasks_b.keys():
        tasks_a[task], tasks_b[task] = _paired(tasks_a[task], tasks_b[task])
    micro = paired_difference(all_a, all_b)
    macro = macro_difference(tasks_a, tasks_b) if len(tasks_a) > 1 else micro
    mean: Mean = "tasks" if on_a[0].mean == on_b[0].mean == "tasks" else "questions"
    units = {record.group or record.sample_id for record in on_a if record.answer is not None}
    return Comparison(
        a=a.fields,
        b=b.fields,
        mean=mean,
        micro=micro,
        macro=macro,
        accuracies=(
            accuracy(all_a),
            accuracy(all_b),
            macro_accuracy(tasks_a),
            macro_accuracy(tasks_b),
        ),
        left_out=len(units) - micro.count,
        only_a=len(ids[0] - shared),
        only_b=len(ids[1] - shared),
        unparsed_a=sum(map(unparsed, on_a)),
        unparsed_b=sum(map(unparsed, on_b)),
        kv_share_a=_share(on_a),
        kv_share_b=_share(on_b),
        recall_a=_mean(record.recall for record in on_a),
        recall_b=_mean(record.recall for record in on_b),
        p_holm=math.nan,
        videos_needed=videos_needed(macro if mean == "tasks" else micro, difference),
        bootstrap=bootstrap(changes(all_a, all_b), draws=draws) if draws else None,
    )


def _paired(a: Sequence[Outcome], b: Sequence[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
    """Of both sides the units that the other has as well."""
    both = {outcome.unit for outcome in a} & {outcome.unit for outcome in b}
    return [o for o in a if o.unit in both], [o for o in b if o.unit in both]


def _by_task(records: Iterable[Record]) -> dict[str, list[Outcome]]:
    """Outcomes of each task; a question of several tasks counts in each."""
    tasks: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        for task in record.task.split(SEVERAL):
            tasks[task].append(record)
    return {task: outcomes(of_task) for task, of_task in sorted(tasks.items())}


def _share(records: Sequence[Record]) -> float:
    return sum(r.kv_bytes_resident for r in records) / sum(r.kv_bytes_full for r in records)


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else math.nan


def _cell(records: Sequence[Record]) -> CellRecords:
    first = records[0]
    fields = {name: getattr(first, name) for name in (*FIELDS, *LAST_RESORT)}
    fields |= {"frames": max(r.frames for r in records), "pinned": "+".join(first.pinned)}
    return CellRecords(fields, tuple(records))


def _telling(cells: Sequence[CellRecords]) -> list[str]:
    """The fields in which the cells of one side vary; those of last resort only where they must."""
    for names in (FIELDS, (*FIELDS, LAST_RESORT[0]), (*FIELDS, *LAST_RESORT)):
        if len({tuple(cell.fields[name] for name in names) for cell in cells}) == len(cells):
            break
    return [name for name in names if len({cell.fields[name] for cell in cells}) > 1]


def _fits(value: Any, wanted: str) -> bool:
    return any(str(value) == word or _number(value) == _number(word) for word in wanted.split(","))


def _number(value: Any) -> float | str:
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def listed(cells: Sequence[CellRecords]) -> str:
    """Cells in short, by what tells them apart."""
    names = _telling(cells) or ["compressor", "selector", "top_k"]
    words = [" ".join(f"{n}={text(c.fields[n])}" for n in names) for c in cells[:12]]
    more = [f"and {len(cells) - 12} more"] if len(cells) > 12 else []
    return ", ".join([*words, *more])


def text(value: Any) -> str:
    """A field's value as words."""
    return f"{value:g}" if isinstance(value, float) else "-" if value is None else str(value)
