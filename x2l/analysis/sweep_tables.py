"""Points -> the tables and charts that a tracker shows of a sweep. Pure."""

import math
from collections.abc import Sequence

from x2l.analysis.cell_names import Names, names
from x2l.analysis.compute_axes import AXES, ComputeAxis, front
from x2l.analysis.points import FULL, WORDS, Point
from x2l.analysis.scoring import ALL_TASKS
from x2l.runs.trackers.base import Chart, SweepTables

_COLUMNS = (
    *("line", "top_k", "accuracy_percent", "low_percent", "high_percent", "n", "videos"),
    *(
        "unparsed",
        "out_of_memory",
        "kv_percent",
        "kv_megabytes",
        "gflops",
        "gflops_next",
        "seconds",
    ),
    *("seconds_next", "recall", "precision", "hit"),
)
_TASK_COLUMNS = ("line", "top_k", "task", "accuracy_percent", "low_percent", "high_percent", "n")


def sweep_title(rows: Sequence[Point]) -> str:
    """One line: benchmark, model, videos, and the ratios where all cells share them."""
    rows = [row for row in rows if row.n or not row.out_of_memory] or rows

    def values(name: str, form: str) -> str:
        return ", ".join(form.format(value) for value in sorted({getattr(r, name) for r in rows}))

    compressed = [row for row in rows if row.control != FULL] or rows
    low = sorted({row.ratio_low for row in compressed})
    videos = max(row.videos for row in rows)
    ratios = f"low {low[0]:g}x" if len(low) == 1 else ""
    high = sorted({row.ratio_high for row in compressed})
    ratios += f", high {high[0]:g}x" if len(high) == 1 else ""
    parts = [
        values("benchmark", "{}"),
        values("model", "{}"),
        f"{videos} videos of {values('frames', '{:.0f}')} frames",
        ratios.strip(", "),
    ]
    return " · ".join(part for part in parts if part)


def sweep_tables(rows: Sequence[Point], task_rows: Sequence[Point]) -> SweepTables:
    """What the sweep's run in a tracker shows.

    Args:
        rows: cells over all tasks.
        task_rows: the same and their parts, see `points(by_task=True)`.
    """
    called = names(rows)
    shared = {
        name: getattr(rows[0], name)
        for name in ("compressor", "selector", *WORDS)
        if len({getattr(row, name) for row in rows}) == 1
    }
    fronts = {axis.name: set(map(id, front(rows, axis))) for axis in AXES}
    ordered = sorted(rows, key=lambda row: (math.isnan(row.kv_share), row.kv_share))
    return SweepTables(
        title=sweep_title(rows),
        config=shared,
        columns=(
            *_COLUMNS,
            *(f"on_front_{axis.name}" for axis in AXES),
            "compressor",
            "selector",
            *called.varying,
        ),
        rows=tuple(
            (
                *_row(row, called),
                *(id(row) in fronts[axis.name] for axis in AXES),
                row.compressor,
                row.selector,
                *(getattr(row, name) for name in called.varying),
            )
            for row in ordered
        ),
        task_columns=_TASK_COLUMNS,
        task_rows=tuple(
            (called.line(row), _k(row), row.task, *_accuracy(row), row.n)
            for row in task_rows
            if row.task != ALL_TASKS
        ),
        charts=tuple(chart for axis in AXES if (chart := _chart(rows, axis, called)).lines),
    )


def _chart(rows: Sequence[Point], axis: ComputeAxis, called: Names) -> Chart:
    shown = [row for row in rows if row.n > 0]
    scale, unit = axis.scaled(max((axis.value(row) for row in shown), default=0.0))
    lines = [(called.line(p), axis.value(p) * scale, 100 * p.accuracy) for p in shown]
    best = front(rows, axis)
    return Chart(
        name=axis.name,
        title=f"Accuracy over {axis.words} ({unit})",
        x=f"{axis.name}_{unit}",  # plain: trackers read more into brackets
        lines=tuple(sorted(lines)),
        front=tuple((called.cell(p), axis.value(p) * scale, 100 * p.accuracy) for p in best),
        steps=(1e6 if axis.unit == "s" else 1.0) / scale,
    )


def _row(row: Point, called: Names) -> tuple[object, ...]:
    return (
        called.line(row),
        _k(row),
        *_accuracy(row),
        row.n,
        row.videos,
        row.parse_failures,
        row.out_of_memory,
        100 * row.kv_share,
        row.kv_bytes_resident * 1e-6,
        row.flops * 1e-9,
        row.flops_next * 1e-9,
        row.seconds,
        row.seconds_next,
        row.recall,
        row.precision,
        row.hit,
    )


def _accuracy(row: Point) -> tuple[float, float, float]:
    return 100 * row.accuracy, 100 * row.low, 100 * row.high


def _k(row: Point) -> str:
    return "" if row.top_k is None else str(row.top_k)
