"""Everything a sweep found, as one HTML file that needs no network.

It is made from the records alone, again each time; it may be made while a sweep is going. What could not be shown is
said in it, with what to run.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from x2l.analysis.cell_names import Names, names
from x2l.analysis.comparison import CellRecords, read_cells
from x2l.analysis.compute_axes import AXES, KV_BYTES, ComputeAxis, comparable
from x2l.analysis.curves import draw, panel_count
from x2l.analysis.points import (
    ALL_HIGH,
    ALL_LOW,
    FULL,
    TWO_LEVELS,
    WORDS,
    Point,
    k_order,
    pareto,
    points,
)
from x2l.analysis.report import cell_tables, difference_tables, run_tables
from x2l.analysis.report.difference_tables import RANDOM, Cell
from x2l.analysis.report.overview_figure import MOST_BARS, Picture, overview, picture
from x2l.analysis.report.table import Column, Table, number, percent, words
from x2l.analysis.scoring import outcomes
from x2l.analysis.sweep_tables import sweep_title
from x2l.engine.stages import STAGES
from x2l.runs.out_of_memory_log import load_shortages
from x2l.runs.records import Record
from x2l.runs.run_info import now
from x2l.runs.sweep_status import Job, jobs

REPORT = "report.html"
TEMPLATE = "report.html.j2"
MOST_PANELS = 24  # more, one for each compressor and setting, are not drawn
OPEN_PANELS = 4  # as many are shown at once
MOST_GROUPS = 6  # of cells that cannot be compared with each other, e.g. several models
_ADD_FULL = "compressor=key_norm levels.low.ratio=1 levels.high.ratio=1 selector=none"


@dataclass(frozen=True)
class CurveOf:
    """Accuracy over one kind of compute, for one group of comparable cells.

    Attributes:
        title: of the figure.
        figure: all cells in one panel.
        front: the cells numbered in it.
        panels: the same by compressor and selector; None where there are too many.
        open: whether the panels are shown at once.
        left_out: how many panels there would be, where they are not drawn.
    """

    title: str
    figure: Picture
    front: Table
    panels: Picture | None
    open: bool
    left_out: int


@dataclass(frozen=True)
class Report:
    """What the template shows; `None` and empty parts are passed over, and `missing` says why."""

    title: str
    lead: str
    facts: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    curves: tuple[tuple[str, str, tuple[CurveOf, ...]], ...]  # name, heading, figures of one axis
    groups_left_out: int
    budget: Table | None
    cells: Table
    tasks: Table | None
    selection: Table | None
    full: Table | None
    random: Table | None
    stages: Table
    ratios: Table
    failures: tuple[Table, ...]
    unparsed: str
    provenance: tuple[Table, ...]
    command: str | None
    made: str


def gather(folder: Path) -> Report:
    """Reads everything under a folder.

    Args:
        folder: a sweep, a run, or any folder of those.

    Raises:
        ValueError: no such folder, or no answer in it yet.
    """
    found = jobs([folder]) if folder.is_dir() else []
    try:
        read = read_cells(folder, {})
    except ValueError as error:
        raise ValueError(_why_nothing(error, found)) from error
    records = [record for one in read for record in one.records]
    short = [one for job in found if job.folder for one in load_shortages(job.folder)]
    rows = sorted_points(points(records, shortages=short))
    by_key = {_key(one.records[0]): one for one in read}
    all_cells = [_cell(by_key[_key(p)], p) for p in rows if _key(p) in by_key]
    called, infos = names(rows), run_tables.run_infos(found)
    task_rows = points(records, by_task=True, shortages=short)
    against_full = difference_tables.against_full(all_cells)
    against_random = difference_tables.against_random(all_cells)
    failures = (
        run_tables.states_table(found),
        run_tables.memory_table(found, records),
        run_tables.errors_table(found),
    )
    selection = cell_tables.selection_table(rows, called)
    return Report(
        title=folder.resolve().name,
        lead=sweep_title(rows),
        facts=_facts(rows, records, found, infos),
        missing=tuple(_missing(all_cells, against_random, selection, infos)),
        curves=_curves(rows, called),
        groups_left_out=max(0, len(comparable(rows)) - MOST_GROUPS),
        budget=cell_tables.budget_table(rows, called),
        cells=cell_tables.cells_table(rows, called),
        tasks=cell_tables.tasks_table(rows, task_rows, called),
        selection=selection,
        full=difference_tables.differences_table("Against full KVs", against_full, called),
        random=difference_tables.differences_table(
            "Against random selection of as many chunks, or bytes", against_random, called
        ),
        stages=cell_tables.stages_table(rows, called),
        ratios=cell_tables.ratios_table(rows),
        failures=tuple(table for table in failures if table is not None),
        unparsed=_unparsed(rows),
        provenance=(run_tables.sessions_table(infos), run_tables.commands_table(found, infos)),
        command=run_tables.sweep_command(folder),
        made=now(),
    )


def render(report: Report) -> str:
    """The HTML file. Everything that came from outside is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    stages = [cell_tables.NAMES_OF_STAGES[stage] for stage in STAGES]
    return environment.get_template(TEMPLATE).render(
        report=report, stages=stages, most_bars=MOST_BARS
    )


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Writes the report of a folder, replacing an older one in one step.

    Args:
        folder: see `gather`.
        out: the file; None = `report.html` in the folder.

    Returns:
        The file.

    Raises:
        ValueError: see `gather`.
    """
    text = render(gather(folder))
    path = out or folder / REPORT
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return path


def sorted_points(rows: Sequence[Point]) -> list[Point]:
    """Controls first, then what is best at the least bytes: the order in which a reader looks."""
    controls = (FULL, ALL_LOW, ALL_HIGH)
    return sorted(
        rows,
        key=lambda p: (
            p.model,
            p.benchmark,
            p.protocol,
            controls.index(p.control) if p.control else len(controls),
            p.compressor,
            p.ratio_low,
            p.ratio_high,
            p.selector,
            (math.isnan(p.kv_share), p.kv_share),
        ),
    )


def _cell(read: CellRecords, point: Point) -> Cell:
    return Cell(read, point, frozenset(outcome.unit for outcome in outcomes(read.records)))


def _key(of: Record | Point) -> tuple[object, ...]:
    """What tells cells apart, in records and in points."""
    pinned = of.pinned if isinstance(of.pinned, str) else "+".join(of.pinned)
    return of.run_id, of.selector, of.selector_config, of.top_k, pinned


def _why_nothing(error: ValueError, found: Sequence[Job]) -> str:
    reasons = [
        f"\n  {job.name}: {job.state}{f' ({job.reason})' * bool(job.reason)}" for job in found
    ]
    more = f"\n  and {len(reasons) - 20} more" if len(reasons) > 20 else ""
    return f"{error}{''.join(reasons[:20])}{more}"


def _facts(
    rows: Sequence[Point],
    records: Sequence[Record],
    found: Sequence[Job],
    infos: Mapping[Path, Mapping[str, Any]],
) -> tuple[tuple[str, str], ...]:
    """What was swept, on what, and how much of it there is."""

    def values(name: str, of: Sequence[Point]) -> str:
        found = {getattr(p, name) for p in of}
        numbers = sorted(v for v in found if isinstance(v, int | float))
        texts = sorted((v for v in found if isinstance(v, str) and v), key=k_order)
        if name == "between" and "" in found:
            texts = [TWO_LEVELS, *texts]
        return ", ".join([*(f"{v:g}" for v in numbers), *texts])

    passed_over = ("model", "benchmark", "protocol", "dtype", "run_id", "selector_config")
    fields = [n for n in ("compressor", "selector", "top_k", *WORDS) if n not in passed_over]
    compressed = [p for p in rows if p.control != FULL]
    swept = {n for n in fields if len({getattr(p, n) for p in compressed}) > 1}
    words_of = {"compressor": "compressors", "selector": "selectors", "frames": "frames (mean)"}
    axes = [(words_of.get(n, n), values(n, compressed)) for n in fields if n in swept]
    questions = len({record.sample_id for record in records})
    videos = len({record.video_id for record in records})
    done = sum(job.state in run_tables.SOUND for job in found)
    fixed = [
        ("model", f"{values('model', rows)} ({values('dtype', rows)})"),
        ("benchmark", f"{values('benchmark', rows)}, protocol {values('protocol', rows)}"),
        ("questions", f"{questions:,} about {videos:,} videos"),
        (
            "cells",
            f"{len(rows):,} in {len(found):,} runs, {done:,} of them done; {len(records):,} answers",
        ),
        ("hardware", "; ".join(run_tables.hardware(infos)) or "not recorded"),
    ]
    return (*fixed, *((f"swept: {name}", told) for name, told in axes))


def _missing(
    all_cells: Sequence[Cell],
    against_random: Sequence[difference_tables.Pair],
    selection: Table | None,
    infos: Mapping[Path, object],
) -> list[str]:
    """What the report cannot show, and what to run for it."""
    told, without = [], []
    for group in comparable(cell.point for cell in all_cells):
        where = f" of {group[0].model} on {group[0].benchmark}, {group[0].frames:g} frames"
        if not any(p.control == FULL for p in group):
            without.append(where)
        if max(p.videos for p in group) < 2:
            told.append(
                f"one video{where}: intervals say nothing about others; raise benchmark.videos or limit"
            )
    if without:
        told.insert(0, f"no full-KV run{';'.join(without)} in this sweep: add {_ADD_FULL}")
    selecting = [c.point for c in all_cells if not c.point.control]
    if selecting and not any(p.selector == RANDOM for p in selecting):
        told.append("no random selection in this sweep to compare with: add selector=random")
    elif selecting and not against_random:
        told.append("no cell has a random one of the same pre-fill and top_k beside it")
    if not selecting:
        told.append("no cell re-loads chunks: there is no selection to show")
    elif selection is None:
        told.append("recall is not known: this benchmark does not say which chunks hold the answer")
    if all(p.n == 0 for p in (c.point for c in all_cells)):
        told.append(
            "no accuracy: no answer is known, or none could be read; see `prediction` in records.jsonl"
        )
    if not infos:
        told.append("no run.json beside the records: code, versions and hardware are not known")
    return told


def _curves(
    rows: Sequence[Point], called: Names
) -> tuple[tuple[str, str, tuple[CurveOf, ...]], ...]:
    groups = comparable(rows)[:MOST_GROUPS]
    return tuple(
        (
            axis.name,
            f"Accuracy over {axis.words}",
            tuple(_curve(g, axis, called, len(groups) > 1) for g in groups),
        )
        for axis in AXES
        if groups
    )


def _curve(group: Sequence[Point], axis: ComputeAxis, called: Names, several: bool) -> CurveOf:
    title = sweep_title(group) if several else ""
    called = names(group) if several else called
    best = pareto(group, axis.field)
    scale, unit = axis.scaled(max(axis.value(p) for p in group))
    front = Table(
        f"Pareto front over {axis.words}",
        (
            Column("no."),
            Column("cell", numbers=False),
            Column("accuracy %"),
            Column(unit),
        ),
        tuple(
            (
                number(i, "{:.0f}"),
                words(called.cell(p)),
                percent(p.accuracy, p.low, p.high),
                number(axis.value(p), scale=scale),
            )
            for i, p in enumerate(best, start=1)
        ),
    )
    accuracies = [100 * p.accuracy for p in group]
    listed = ", ".join(f"{called.cell(p)} {100 * p.accuracy:.1f} %" for p in best[:8])
    alt = (
        f"Accuracy over {axis.words}, {len(group)} cells between {min(accuracies):.1f} and "
        f"{max(accuracies):.1f} %. On the Pareto front, cheapest first: {listed}."
    )
    panels, count = None, panel_count(group)
    if 1 < count <= MOST_PANELS:
        drawn = draw(group, sweep_title(group), over=(axis.field,))
        panels = picture(drawn, f"{alt} One panel a compressor, one line a selector.", "png")
    opened = axis is KV_BYTES and count <= OPEN_PANELS
    left_out = count if count > MOST_PANELS else 0
    figure = picture(overview(group, axis, called), alt)
    return CurveOf(title, figure, front, panels, opened, left_out)


def _unparsed(rows: Sequence[Point]) -> str:
    """One sentence on the answers that could not be read; empty where all could."""
    worst = max(rows, key=lambda p: p.parse_failures)
    if not worst.parse_failures:
        return ""
    return (
        f"Answers without a readable letter: {sum(p.parse_failures for p in rows):,} in all, at most "
        f"{worst.parse_failures:,} in one cell ({worst.compressor} {worst.selector}); the table of cells has "
        "each cell's."
    )
