"""Points -> the report's tables of cells: accuracy, tasks, selection, compute by stage, ratios. Pure."""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

from x2l.analysis.cell_names import Names, trait_names
from x2l.analysis.compute_axes import AXES, KV_ATTENDED, comparable, front
from x2l.analysis.points import Point
from x2l.analysis.published import Beside, entries, heading
from x2l.analysis.report.table import (
    Bar,
    Column,
    Table,
    Value,
    largest,
    number,
    percent,
    words,
)
from x2l.analysis.scoring import ALL_TASKS
from x2l.analysis.units import prefix
from x2l.engine.stages import STAGES
from x2l.runs.condition import Condition

_STAGES = {"vision": "vision encoder", "prefill": "pre-fill", "reload": "re-load"}
BUDGETS = (0.05, 0.10, 0.25, 0.50)
_CELL = Column("cell", numbers=False)


def cells_table(rows: Sequence[Point], called: Names) -> Table:
    """Every cell with its accuracy and compute; `front` names the axes on whose Pareto front it lies."""
    scales = {axis.name: axis.scaled(largest([axis.value(p) for p in rows])) for axis in AXES}
    fronts = {axis.name: set(map(id, front(rows, axis))) for axis in AXES}
    kv, flops, _ = (scales[axis.name] for axis in AXES)
    short = any(p.out_of_memory for p in rows)
    columns = (
        _CELL,
        Column("accuracy %", title="with its 95 % interval, clustered by video"),
        Column("n", title="questions that count (or groups of tries)"),
        Column("unparsed", title="answers without a readable letter"),
        *([Column("out of memory", title="questions")] if short else []),
        Column(
            "KV %",
            title="bytes stored, positions and weights included, of the uncompressed cache's",
        ),
        Column(f"KV {kv[1]}", title=AXES[0].words),
        Column(f"attended {kv[1]}", title=KV_ATTENDED.words),
        Column(flops[1], title=AXES[1].words),
        Column(f"next {flops[1]}", title="of one more question on a pre-filled video"),
        Column("s", title=AXES[2].words),
        Column("next s", title="of one more question on a pre-filled video"),
        Column("Pareto front", numbers=False, title="kinds of compute on whose front the cell is"),
    )
    table_rows = [
        (
            cell_name(p, called),
            _accuracy(p),
            number(p.questions, "{:.0f}"),
            number(p.parse_failures, "{:.0f}"),
            *([number(p.out_of_memory, "{:.0f}")] if short else []),
            percent(p.kv_share),
            number(p.kv_bytes_stored, scale=kv[0]),
            number(p.kv_bytes_attended, scale=kv[0]),
            number(p.flops_total, scale=flops[0]),
            number(p.flops_next, scale=flops[0]),
            number(p.seconds_total),
            number(p.seconds_next),
            words(", ".join(a.name.split("_")[0] for a in AXES if id(p) in fronts[a.name])),
        )
        for p in rows
    ]
    return Table("Cells", columns, tuple(table_rows))


def published_table(group: Beside, called: Names) -> Table:
    """Cells, and what others reported of the same model, set and number of frames, best first."""
    columns = (
        Column("whose", numbers=False),
        Column("cell, or method (part of the set)", numbers=False),
        Column("budget", numbers=False),
        Column("accuracy %", title="here with its 95 % interval, clustered by video"),
        Column("its base", title="the base model's own number in the same paper"),
        Column("source", numbers=False),
    )
    rows = []
    for entry in entries(group, called):
        accuracy = Value(entry["accuracy"], float(entry["accuracy"]), entry["interval"])
        told = (entry["who"], entry["what"], entry["budget"])
        rows.append((*map(words, told), accuracy, words(entry["base"]), words(entry["source"])))
    return Table(heading(group), columns, tuple(rows))


def cell_name(point: Point, called: Names) -> Value:
    """The cell's name; a bound says so."""
    return words(called.cell(point.condition), "(bound)" * point.condition.is_bound)


def stage_name(stage: str) -> str:
    """For people."""
    return _STAGES.get(stage, stage)


def _accuracy(point: Point) -> Value:
    return percent(point.accuracy, point.accuracy_low, point.accuracy_high)


def tasks_table(rows: Sequence[Point], task_rows: Sequence[Point], called: Names) -> Table | None:
    """Accuracy of each cell by task and tag; None where there is one task only.

    Args:
        rows: cells over all tasks, in the order of the table.
        task_rows: the same and their parts, see `points(by_task=True)`.
        called: names of cells.
    """
    by_cell: dict[Condition, dict[str, Point]] = defaultdict(dict)
    for point in task_rows:
        by_cell[point.condition][point.task] = point
    tasks = sorted({p.task for p in task_rows} - {ALL_TASKS}, key=lambda t: ("=" in t, t))
    if len(tasks) < 2:
        return None
    columns = [_CELL, Column("all %")]
    for task in tasks:
        counts = sorted({p.questions for p in task_rows if p.task == task})
        n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
        columns.append(Column(f"{task} %", title=n))
    table_rows = []
    for whole in rows:
        parts = by_cell[whole.condition]
        cells = [whole, *(parts.get(task) for task in tasks)]
        values = [_accuracy(p) if p else words("–") for p in cells]
        table_rows.append((cell_name(whole, called), *values))
    return Table("Accuracy by task and tag", tuple(columns), tuple(table_rows))


def selection_table(rows: Sequence[Point], called: Names) -> Table | None:
    """How well chunks were chosen; None where no benchmark says which chunks hold the answer."""
    known = [p for p in rows if not p.condition.baseline and math.isfinite(p.recall)]
    if not known:
        return None
    scale, name = prefix(largest([p.kv_bytes_reloaded for p in known]), "B")
    columns = (
        _CELL,
        Column("recall %", title="share of ground-truth chunks that were re-loaded"),
        Column("hit %", title="share of questions with a ground-truth chunk re-loaded"),
        Column("precision %", title="share of re-loaded chunks that hold the answer"),
        Column("accuracy %"),
        Column(f"re-loaded {name}", title="bytes brought back per question"),
    )
    table_rows = [
        (
            cell_name(p, called),
            percent(p.recall),
            percent(p.hit),
            percent(p.precision),
            _accuracy(p),
            number(p.kv_bytes_reloaded, scale=scale),
        )
        for p in known
    ]
    return Table("Selection", columns, tuple(table_rows))


def stages_table(rows: Sequence[Point], called: Names) -> Table:
    """Compute of a question by stage: FLOPs (closed form) and seconds (measured), as stacked bars."""
    flops, name = prefix(largest([p.flops_total for p in rows]), "FLOPs")
    columns = (
        _CELL,
        Column(name),
        Column("FLOPs by stage", numbers=False),
        Column("s"),
        Column("seconds by stage", numbers=False),
    )
    most_flops = largest([p.flops_total for p in rows])
    most_seconds = largest([p.seconds_total for p in rows])
    table_rows = [
        (
            cell_name(p, called),
            number(p.flops_total, scale=flops),
            _bar(p.flops, most_flops),
            number(p.seconds_total),
            _bar(p.seconds, most_seconds),
        )
        for p in rows
    ]
    return Table("Compute by stage", columns, tuple(table_rows))


def _bar(by_stage: Mapping[str, float], longest: float) -> Value:
    total = math.fsum(by_stage.values())
    parts = [
        (index, 100 * value / longest, f"{stage_name(stage)} {100 * value / total:.3g} %")
        for index, stage in enumerate(STAGES)
        if (value := by_stage[stage]) > 0
    ]
    bar = Bar(tuple(parts))
    most = sorted(parts, key=lambda part: -part[1])[:3]
    return Value(bar.words, picture=bar, note=", ".join(text for _, _, text in most))


def ratios_table(rows: Sequence[Point]) -> Table:
    """Ratios that were really obtained against those asked for; one row for each way to compress."""
    groups: dict[Hashable, list[Point]] = defaultdict(list)
    answered = [p for p in rows if any(map(math.isfinite, p.measured_ratio.values()))]
    for p in answered:  # the others ran out of memory throughout
        groups[p.condition.model, p.condition.levels, p.condition.chunk_frames].append(p)
    traits = trait_names(p.condition for p in answered)
    levels = [name.removeprefix("ratio.") for name in traits if name.startswith("ratio.")]
    columns = (
        Column("compressor", numbers=False),
        Column("model", numbers=False),
        Column("frames a chunk"),
        *(
            Column(f"{level} {what}")
            for level in levels
            for what in ("nominal", "measured", "off %")
        ),
    )
    table = []
    for members in groups.values():
        condition = members[0].condition
        values = [words(condition.compressor), words(condition.model)]
        values.append(number(condition.chunk_frames, "{:.0f}"))
        for level in levels:
            nominal = condition.traits.get(f"ratio.{level}")
            if not isinstance(nominal, float | int) or not math.isfinite(nominal):
                values += [words("–" if nominal is None else "dropped"), words("–"), words("–")]
                continue
            measured = math.fsum(p.measured_ratio[level] for p in members) / len(members)
            values += [number(nominal, "{:g}"), number(measured, "{:.2f}")]
            values.append(number(measured / nominal - 1, "{:+.1f}", 100))
        table.append(tuple(values))
    return Table("Measured against nominal ratios", columns, tuple(table))


def budget_table(rows: Sequence[Point], called: Names) -> Table | None:
    """The best cell within a share of the uncompressed cache's bytes; None where no cell is that small."""
    table_rows = []
    groups = comparable(p for p in rows if not p.condition.is_bound)
    for group in groups:
        for budget in BUDGETS:
            within = [p for p in group if p.kv_share <= budget]
            if within:
                best = max(within, key=lambda p: (p.accuracy, -p.kv_share))
                setting = f"{best.condition.benchmark}, {best.condition.model}"
                table_rows.append(
                    (
                        Value(
                            f"up to {100 * budget:g} %",
                            sort=budget,
                            note=setting * (len(groups) > 1),
                        ),
                        cell_name(best, called),
                        _accuracy(best),
                        percent(best.kv_share),
                    )
                )
    columns = (
        Column("KV bytes", numbers=False),
        Column("best cell", numbers=False),
        Column("accuracy %"),
        Column("KV %"),
    )
    return (
        Table("What a budget of KV bytes buys", columns, tuple(table_rows)) if table_rows else None
    )
