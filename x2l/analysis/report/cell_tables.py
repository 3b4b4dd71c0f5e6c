"""Points -> the report's tables of cells: accuracy, tasks, selection, compute by stage, ratios. Pure."""

import math
from collections import defaultdict
from collections.abc import Sequence

from x2l.analysis.cell_names import Names
from x2l.analysis.compute_axes import AXES, comparable, front
from x2l.analysis.points import Point
from x2l.analysis.report.table import (
    Bar,
    Column,
    Table,
    Value,
    largest,
    number,
    percent,
    unit,
    words,
)
from x2l.analysis.scoring import ALL_TASKS
from x2l.engine.stages import STAGES

BUDGETS = (0.05, 0.10, 0.25, 0.50)
NAMES_OF_STAGES = {
    "vision": "vision encoder",
    "prefill": "pre-fill",
    "compression": "compression",
    "retrieval": "retrieval",
    "selection": "selection",
    "reload": "re-load",
    "decode": "decode",
}
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
        Column("KV %", title="bytes resident while answering, of the uncompressed cache's"),
        Column(f"KV {kv[1]}", title=AXES[0].words),
        Column(flops[1], title=AXES[1].words),
        Column(f"next {flops[1]}", title="of one more question on a pre-filled video"),
        Column("s", title=AXES[2].words),
        Column("next s", title="of one more question on a pre-filled video"),
        Column("Pareto front", numbers=False, title="kinds of compute on whose front the cell is"),
    )
    found = [
        (
            cell_name(p, called),
            percent(p.accuracy, p.low, p.high),
            number(p.n, "{:.0f}"),
            number(p.parse_failures, "{:.0f}"),
            *([number(p.out_of_memory, "{:.0f}")] if short else []),
            percent(p.kv_share),
            number(p.kv_bytes_resident, scale=kv[0]),
            number(p.flops, scale=flops[0]),
            number(p.flops_next, scale=flops[0]),
            number(p.seconds),
            number(p.seconds_next),
            words(", ".join(a.name.split("_")[0] for a in AXES if id(p) in fronts[a.name])),
        )
        for p in rows
    ]
    return Table("Cells", columns, tuple(found))


def cell_name(point: Point, called: Names) -> Value:
    """The cell's name; what was told where the answer lies says so."""
    return words(called.cell(point), "(bound)" * point.knows_truth)


def tasks_table(rows: Sequence[Point], task_rows: Sequence[Point], called: Names) -> Table | None:
    """Accuracy of each cell by task and tag; None where there is one task only.

    Args:
        rows: cells over all tasks, in the order of the table.
        task_rows: the same and their parts, see `points(by_task=True)`.
        called: names of cells.
    """
    by_cell: dict[tuple[object, ...], dict[str, Point]] = defaultdict(dict)
    for point in task_rows:
        by_cell[_identity(point)][point.task] = point
    tasks = sorted({p.task for p in task_rows} - {ALL_TASKS}, key=lambda t: ("=" in t, t))
    if len(tasks) < 2:
        return None
    columns = [_CELL, Column("all %")]
    for task in tasks:
        counts = sorted({p.n for p in task_rows if p.task == task})
        n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
        columns.append(Column(f"{task} %", title=n))
    found = []
    for whole in rows:
        parts = by_cell[_identity(whole)]
        cells = [whole, *(parts.get(task) for task in tasks)]
        values = [percent(p.accuracy, p.low, p.high) if p else words("–") for p in cells]
        found.append((cell_name(whole, called), *values))
    return Table("Accuracy by task and tag", tuple(columns), tuple(found))


def _identity(p: Point) -> tuple[object, ...]:
    return p.run_id, p.selector, p.selector_config, p.top_k, p.pinned


def selection_table(rows: Sequence[Point], called: Names) -> Table | None:
    """How well chunks were chosen; None where no benchmark says which chunks hold the answer."""
    known = [p for p in rows if not p.control and math.isfinite(p.recall)]
    if not known:
        return None
    scale, name = unit(largest([p.kv_bytes_reloaded for p in known]), "B")
    columns = (
        _CELL,
        Column("recall %", title="share of ground-truth chunks that were re-loaded"),
        Column("hit %", title="share of questions with a ground-truth chunk re-loaded"),
        Column("precision %", title="share of re-loaded chunks that hold the answer"),
        Column("accuracy %"),
        Column(f"re-loaded {name}", title="bytes brought back per question"),
    )
    found = [
        (
            cell_name(p, called),
            percent(p.recall),
            percent(p.hit),
            percent(p.precision),
            percent(p.accuracy, p.low, p.high),
            number(p.kv_bytes_reloaded, scale=scale),
        )
        for p in known
    ]
    return Table("Selection", columns, tuple(found))


def stages_table(rows: Sequence[Point], called: Names) -> Table:
    """Compute of a question by stage: FLOPs (closed form) and seconds (measured), as stacked bars."""
    flops, name = unit(largest([p.flops for p in rows]), "FLOPs")
    columns = (
        _CELL,
        Column(name),
        Column("FLOPs by stage", numbers=False),
        Column("s"),
        Column("seconds by stage", numbers=False),
    )
    longest = {u: largest([getattr(p, u) for p in rows]) or 1.0 for u in ("flops", "seconds")}
    found = [
        (
            cell_name(p, called),
            number(p.flops, scale=flops),
            _bar(p, "flops", longest["flops"]),
            number(p.seconds),
            _bar(p, "seconds", longest["seconds"]),
        )
        for p in rows
    ]
    return Table("Compute by stage", columns, tuple(found))


def _bar(point: Point, measure: str, longest: float) -> Value:
    total = getattr(point, measure) or 1.0
    parts = []
    for number_, stage in enumerate(STAGES):
        value = getattr(point, f"{measure}_{stage}")
        if value > 0:
            told = f"{NAMES_OF_STAGES[stage]} {100 * value / total:.3g} %"
            parts.append((number_, 100 * value / longest, told))
    bar = Bar(tuple(parts))
    most = sorted(parts, key=lambda part: -part[1])[:3]
    return Value(bar.words, picture=bar, note=", ".join(told for _, _, told in most))


def ratios_table(rows: Sequence[Point]) -> Table:
    """Ratios that were really obtained against those asked for; one row for each way to compress."""
    groups: dict[tuple[object, ...], list[Point]] = defaultdict(list)
    for p in rows:
        if not math.isfinite(p.measured_ratio_low):  # out of memory throughout
            continue
        ratios = (p.ratio_low, p.between, p.ratio_high)
        groups[p.model, p.compressor, ratios, p.chunk_frames].append(p)
    more = any(p.between for p in rows)
    columns = (
        Column("compressor", numbers=False),
        Column("model", numbers=False),
        Column("frames a chunk"),
        *(
            Column(f"{level} {what}")
            for level in ("low", "high")
            for what in ("nominal", "measured", "off %")
        ),
        *(Column(f"between, {what}", numbers=False) for what in ("nominal", "measured") if more),
    )
    found = []
    for members in groups.values():
        first = members[0]
        values = []
        for level in ("low", "high"):
            nominal = getattr(first, f"ratio_{level}")
            measured = math.fsum(getattr(p, f"measured_ratio_{level}") for p in members) / len(
                members
            )
            off = measured / nominal - 1
            values += [
                number(nominal, "{:g}"),
                number(measured, "{:.2f}"),
                number(off, "{:+.1f}", 100),
            ]
        if more:
            values += [words(first.between or "-"), words(first.measured_between or "-")]
        chunk = number(first.chunk_frames, "{:.0f}")
        found.append((words(first.compressor), words(first.model), chunk, *values))
    return Table("Measured against nominal ratios", columns, tuple(found))


def budget_table(rows: Sequence[Point], called: Names) -> Table | None:
    """The best cell within a share of the uncompressed cache's bytes; None where no cell is that small."""
    found = []
    groups = comparable(p for p in rows if not p.knows_truth)
    for group in groups:
        for budget in BUDGETS:
            within = [p for p in group if p.kv_share <= budget]
            if within:
                best = max(within, key=lambda p: (p.accuracy, -p.kv_share))
                where = f"{best.benchmark}, {best.model}" if len(groups) > 1 else ""
                found.append(
                    (
                        Value(f"up to {100 * budget:g} %", sort=budget, note=where),
                        cell_name(best, called),
                        percent(best.accuracy, best.low, best.high),
                        percent(best.kv_share),
                    )
                )
    columns = (
        Column("KV bytes", numbers=False),
        Column("best cell", numbers=False),
        Column("accuracy %"),
        Column("KV %"),
    )
    return Table("What a budget of KV bytes buys", columns, tuple(found)) if found else None
