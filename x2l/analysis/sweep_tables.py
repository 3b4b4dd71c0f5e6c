"""Points -> the tables and charts that a tracker shows of a sweep. Pure."""

import math
from collections.abc import Hashable, Sequence

from x2l.analysis.cell_names import Names, names, trait_names, value_text
from x2l.analysis.compute_axes import AXES, ComputeAxis, drawable, front
from x2l.analysis.points import Point
from x2l.analysis.scoring import ALL_TASKS
from x2l.runs.condition import FULL, trait_label
from x2l.runs.trackers.base import Chart, SweepTables


def sweep_title(rows: Sequence[Point]) -> str:
    """One line: benchmark, model, videos, and the ratios where all cells share them."""
    rows = [row for row in rows if row.questions or not row.out_of_memory] or rows
    conditions = [row.condition for row in rows]
    compressed = [cell for cell in conditions if cell.baseline != FULL] or conditions
    traits = [condition.traits for condition in compressed]
    ratios = [
        trait_label(name, traits[0][name])
        for name in trait_names(compressed)
        if name.startswith("ratio.") and len({of.get(name) for of in traits}) == 1
    ]
    frames = sorted({f"{row.frames_sampled:.0f}" for row in rows}, key=float)
    parts = [
        ", ".join(sorted({condition.benchmark for condition in conditions})),
        ", ".join(sorted({condition.model for condition in conditions})),
        f"{max(row.videos for row in rows)} videos of {', '.join(frames)} frames",
        ", ".join(ratios),
    ]
    return " · ".join(part for part in parts if part)


def sweep_tables(rows: Sequence[Point], task_rows: Sequence[Point]) -> SweepTables:
    """What the sweep's run in a tracker shows.

    Args:
        rows: cells over all tasks.
        task_rows: the same and their parts, see `points(by_task=True)`.
    """
    conditions = [row.condition for row in rows]
    called = names(conditions)
    traits = [condition.traits for condition in conditions]
    shared = {n: v for n, v in traits[0].items() if len({of.get(n) for of in traits}) == 1}
    fronts = {axis.name: set(map(id, front(rows, axis))) for axis in AXES}
    ordered = sorted(rows, key=lambda row: (math.isnan(row.kv_share), row.kv_share))
    table = [
        {
            **_accuracy(row, called),
            "videos": row.videos,
            "unparsed": row.parse_failures,
            "out_of_memory": row.out_of_memory,
            "kv_percent": 100 * row.kv_share,
            "kv_megabytes": row.kv_bytes_stored * 1e-6,
            "gflops": row.flops_total * 1e-9,
            "gflops_next": row.flops_next * 1e-9,
            "seconds": row.seconds_total,
            "seconds_next": row.seconds_next,
            "recall": row.recall,
            "precision": row.precision,
            "hit": row.hit,
            **{f"on_front_{axis.name}": id(row) in fronts[axis.name] for axis in AXES},
            "compressor": row.condition.compressor,
            "selector": row.condition.selector,
            "role": row.condition.role,
            **{name: _plain(row.condition.traits.get(name)) for name in called.varying},
        }
        for row in ordered
    ]
    by_task = [
        (row.task, *_accuracy(row, called).values()) for row in task_rows if row.task != ALL_TASKS
    ]
    return SweepTables(
        title=sweep_title(rows),
        config={name: _plain(value) for name, value in shared.items()},
        columns=tuple(table[0]),
        rows=tuple(tuple(row.values()) for row in table),
        task_columns=("task", *_accuracy(rows[0], called)),
        task_rows=tuple(by_task),
        charts=tuple(chart for axis in AXES if (chart := _chart(rows, axis, called)).lines),
    )


def _chart(rows: Sequence[Point], axis: ComputeAxis, called: Names) -> Chart:
    shown = drawable(rows)
    scale, unit = axis.scaled(max((axis.value(p) for p in shown), default=0.0))

    def entry(name: str, point: Point) -> tuple[str, float, float]:
        return name, axis.value(point) * scale, 100 * point.accuracy

    spread = [axis.value(p) * scale for p in shown]
    lines: list[tuple[str, float, float]] = []
    for p in shown:
        if p.condition.baseline == FULL:  # a level line, as in the figures
            ends = sorted({min(spread), max(spread)})
            lines += [(called.line(p.condition), end, 100 * p.accuracy) for end in ends]
        else:
            lines.append(entry(_chart_line(p, called), p))
    return Chart(
        name=axis.name,
        title=f"Accuracy over {axis.words} ({unit})",
        x=f"{axis.name}_{unit}",  # plain: trackers read more into brackets
        lines=tuple(sorted(lines)),
        front=tuple(entry(called.cell(p.condition), p) for p in front(rows, axis)),
        steps=(1e6 if axis.unit == "s" else 1.0) / scale,
    )


def _chart_line(point: Point, called: Names) -> str:
    """All chunks at one level or the other are one line: each by itself would be a point, which no tracker draws."""
    condition = point.condition
    if condition.baseline is None:
        return called.line(condition)
    words = [condition.compressor, "all chunks alike", called.variant(condition)]
    return " ".join(filter(None, words))


def _accuracy(row: Point, called: Names) -> dict[str, str | float]:
    top_k = row.condition.top_k
    return {
        "line": called.line(row.condition),
        "top_k": "" if top_k is None else str(top_k),
        "accuracy_percent": 100 * row.accuracy,
        "ci95_lower_percent": 100 * row.accuracy_low,
        "ci95_upper_percent": 100 * row.accuracy_high,
        "n": row.questions,
    }


def _plain(value: Hashable) -> str | float | None:
    """What trackers take."""
    return value if value is None or isinstance(value, str | float | int) else value_text(value)
