"""Cells out of folders of records, paired and compared on the questions that both answered. Knows no figures."""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from x2l.analysis.cell_names import value_text, varying
from x2l.analysis.points import kv_share, mean_of_known
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
from x2l.runs.condition import Condition, choice_names
from x2l.runs.records import RECORDS, Record, load


@dataclass(frozen=True)
class CellRecords:
    """One cell's answers."""

    condition: Condition
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
        kv_share_a, kv_share_b: bytes stored of what is answered from, of the uncompressed cache's.
        recall_a, recall_b: mean chunk recall; NaN where nothing is known of it.
        same_by_construction: the two cells differ in how chunks are chosen alone, and chose alike throughout (k = 0,
            say): they share their answers, so that there is nothing to test.
        p_holm: `headline`'s p value, corrected for all comparisons made together that are tested; NaN where none is.
        videos_needed: to find the asked-for difference of the headline; None where nothing can be said.
        bootstrap: `micro`'s interval by drawing videos again; None unless asked for.
    """

    a: Condition
    b: Condition
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
    same_by_construction: bool
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
        """Whether one side decodes from over 10 % more KV bytes than the other: not at equal KV bytes."""
        low, high = sorted((self.kv_share_a, self.kv_share_b))
        return high > 1.1 * low


def read_cells(folder: Path, wanted: Mapping[str, str]) -> list[CellRecords]:
    """The cells under a folder that fit a filter.

    Args:
        folder: a run, or a folder of runs at any depth.
        wanted: column of points.csv (`selector`, `ratio.high`, `baseline`, ...) -> value, or several joined by commas.

    Raises:
        ValueError: no folder, no records, an unknown column, or no cell that fits.
    """
    if not folder.is_dir():
        raise ValueError(f"folder={folder}: no such folder; give one that x2l wrote")
    cells = cells_of(record for path in sorted(folder.rglob(RECORDS)) for record in load(path))
    if not cells:
        raise ValueError(f"folder={folder}: holds no {RECORDS} with an answer; run x2l first")
    known = dict.fromkeys(name for cell in cells for name in cell.condition.columns)
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"{unknown[0]}: is no field; choose by {', '.join(known)}")
    fitting = [
        cell
        for cell in cells
        if all(_fits(cell.condition.columns.get(name), value) for name, value in wanted.items())
    ]
    if not fitting:
        asked = " ".join(f"{name}={value}" for name, value in wanted.items())
        raise ValueError(f"folder={folder}: holds no cell with {asked}; it has {listed(cells)}")
    return fitting


def cells_of(records: Iterable[Record]) -> list[CellRecords]:
    """Answers by cell; one that lies in several folders counts once."""
    by_cell: dict[Condition, dict[str, Record]] = defaultdict(dict)
    for record in records:
        by_cell[record.condition][record.question.sample_id] = record
    return [CellRecords(cell, tuple(answers.values())) for cell, answers in by_cell.items()]


def pair(
    a: Sequence[CellRecords], b: Sequence[CellRecords]
) -> list[tuple[CellRecords, CellRecords]]:
    """Cells that agree in every trait in which both sides vary; never a cell with itself.

    Raises:
        ValueError: there are none.
    """
    on_a, on_b = (varying(cell.condition for cell in side) for side in (a, b))
    both = [name for name in on_a if name in on_b]

    def agreed(cell: CellRecords) -> list[Hashable]:
        traits = cell.condition.traits
        return [traits.get(name) for name in both]

    pairs = [(x, y) for x in a for y in b if agreed(x) == agreed(y) and x.condition != y.condition]
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
    comparisons = [_compared(a, b, points / 100, draws) for a, b in pairs]
    tested = [comparison for comparison in comparisons if not comparison.same_by_construction]
    corrected = iter(holm([comparison.headline.p_value for comparison in tested]))
    return [
        c if c.same_by_construction else replace(c, p_holm=next(corrected)) for c in comparisons
    ]


def _compared(a: CellRecords, b: CellRecords, difference: float, draws: int) -> Comparison:
    ids = [{record.question.sample_id for record in side.records} for side in (a, b)]
    shared = ids[0] & ids[1]
    if not shared:
        raise ValueError(
            f"a and b: {listed([a])} and {listed([b])} share no question; compare runs of one "
            "benchmark with the same benchmark settings"
        )
    on_a = [record for record in a.records if record.question.sample_id in shared]
    on_b = [record for record in b.records if record.question.sample_id in shared]
    all_a, all_b = _paired(outcomes(on_a), outcomes(on_b))
    tasks_a, tasks_b = _by_task(on_a), _by_task(on_b)
    for task in tasks_a.keys() & tasks_b.keys():
        tasks_a[task], tasks_b[task] = _paired(tasks_a[task], tasks_b[task])
    micro = paired_difference(all_a, all_b)
    macro = macro_difference(tasks_a, tasks_b) if len(tasks_a) > 1 else micro
    means = {on_a[0].question.mean, on_b[0].question.mean}
    mean: Mean = "tasks" if means == {"tasks"} else "questions"
    questions = [record.question for record in on_a if record.question.answer is not None]
    units = {question.group or question.sample_id for question in questions}
    return Comparison(
        a=a.condition,
        b=b.condition,
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
        kv_share_a=kv_share(on_a),
        kv_share_b=kv_share(on_b),
        recall_a=mean_of_known(record.selection.recall for record in on_a),
        recall_b=mean_of_known(record.selection.recall for record in on_b),
        same_by_construction=micro.identical and _one_answer(on_a, on_b),
        p_holm=math.nan,
        videos_needed=videos_needed(macro if mean == "tasks" else micro, difference),
        bootstrap=bootstrap(changes(all_a, all_b), draws=draws) if draws else None,
    )


def _one_answer(a: Sequence[Record], b: Sequence[Record]) -> bool:
    """Whether answers to the same questions are one answer: one pre-fill, and each chunk at one level."""

    def made(condition: Condition) -> dict[str, object]:
        chosen = (*choice_names(), "single_level", "role")
        return {
            f.name: getattr(condition, f.name) for f in fields(condition) if f.name not in chosen
        }

    levels = {record.question.sample_id: record.selection.assigned for record in b}
    return made(a[0].condition) == made(b[0].condition) and all(
        record.selection.assigned == levels[record.question.sample_id] for record in a
    )


def _paired(a: Sequence[Outcome], b: Sequence[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
    """Of both sides the units that the other has as well."""
    both = {outcome.unit for outcome in a} & {outcome.unit for outcome in b}
    return [o for o in a if o.unit in both], [o for o in b if o.unit in both]


def _by_task(records: Iterable[Record]) -> dict[str, list[Outcome]]:
    """Outcomes of each task; a question of several tasks counts in each."""
    tasks: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        for task in record.question.task.split(SEVERAL):
            tasks[task].append(record)
    return {task: outcomes(of_task) for task, of_task in sorted(tasks.items())}


def _fits(value: Hashable, wanted: str) -> bool:
    words = [word or "-" for word in wanted.split(",")]  # nothing, as in points.csv
    return value_text(value) in words or any(_number(value) == _number(word) for word in words)


def _number(value: Any) -> float | str:
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def listed(cells: Sequence[CellRecords]) -> str:
    """Cells in short, by what tells them apart."""
    names = varying(cell.condition for cell in cells) or ["compressor", "selector", "top_k"]
    traits = [cell.condition.traits for cell in cells[:12]]
    words = [" ".join(f"{n}={value_text(of.get(n))}" for n in names) for of in traits]
    more = [f"and {len(cells) - 12} more"] if len(cells) > 12 else []
    return ", ".join([*words, *more])
