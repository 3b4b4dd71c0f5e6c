"""Everything a sweep runs, as one HTML file that needs no network.

It is made from the records alone, again each time; it may be made while a sweep is going. What could not be shown is
said in it, with what to run.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from x2l.analysis.cell_names import names
from x2l.analysis.comparison import CellRecords, read_cells
from x2l.analysis.figure_style import style_of_stage
from x2l.analysis.points import Point, points
from x2l.analysis.published import beside
from x2l.analysis.report import cell_tables, difference_tables, run_tables, summary
from x2l.analysis.report.chart import MOST_INTERVALS, Charts
from x2l.analysis.report.curve_section import (
    CurvesOver,
    charts,
    curves_over_compute,
    groups_left_out,
)
from x2l.analysis.report.difference_tables import CellResult
from x2l.analysis.report.page_data import PageData, Progress, page_data, script_json
from x2l.analysis.report.questions import QuestionBrowser, SampleKey, browse
from x2l.analysis.report.table import Table
from x2l.analysis.scoring import outcomes
from x2l.analysis.sweep_tables import sweep_title
from x2l.benchmarks.base import Sample
from x2l.engine.stages import STAGES
from x2l.runs.condition import FULL
from x2l.runs.out_of_memory_log import load_out_of_memory
from x2l.runs.records import NO_UTF8
from x2l.runs.run_info import now
from x2l.runs.sweep_status import Job, jobs
from x2l.runs.whole_file import whole_file

REPORT = "report.html"
TEMPLATE = "report.html.j2"
SCRIPTS = ("charts.js", "questions.js")


@dataclass(frozen=True)
class Report:
    """What the template shows; `None` and empty parts are passed over, and `missing` says why."""

    title: str
    lead: str
    facts: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    curves: tuple[CurvesOver, ...]
    charts: Charts
    groups_left_out: int
    budget: Table | None
    cells: Table
    tasks: Table | None
    selection: Table | None
    full: Table | None
    controls: Table | None
    published: tuple[Table, ...]
    stages: Table
    ratios: Table
    failures: tuple[Table, ...]
    unparsed: str
    provenance: tuple[Table, ...]
    command: str | None
    made: str
    questions: QuestionBrowser


def gather(folder: Path, samples: Mapping[SampleKey, Sample] | None = None) -> Report:
    """Reads everything under a folder.

    Args:
        folder: a sweep, a run, or any folder of those.
        samples: of its benchmarks, as far as they were found: options, spans and videos of the questions.

    Raises:
        ValueError: no such folder, or no answer in it yet.
    """
    runs = jobs([folder]) if folder.is_dir() else []
    try:
        read = read_cells(folder, {})
    except ValueError as error:
        raise ValueError(_why_nothing(error, runs)) from error
    records = [record for cell in read for record in cell.records]
    missing = [entry for job in runs if job.folder for entry in load_out_of_memory(job.folder)]
    task_rows = points(records, by_task=True, out_of_memory=missing)
    rows = sorted(points(records, out_of_memory=missing), key=_reading_order)
    answers = {cell.condition: cell for cell in read}
    cells = [_result(answers[p.condition], p) for p in rows if p.condition in answers]
    called, infos = names(p.condition for p in rows), run_tables.run_infos(runs)
    full = difference_tables.against_full(cells)
    controls = difference_tables.against_controls(cells)
    failures = (
        run_tables.states_table(runs),
        run_tables.memory_table(runs, records),
        run_tables.errors_table(runs),
    )
    selection = cell_tables.selection_table(rows, called)
    return Report(
        title=folder.resolve().name,
        lead=sweep_title(rows),
        facts=summary.facts(rows, records, runs, infos),
        missing=tuple(summary.what_is_missing(cells, controls, selection, infos)),
        curves=curves_over_compute(rows, called),
        charts=charts(rows, called, run_tables.cell_commands(infos)),
        groups_left_out=groups_left_out(rows),
        budget=cell_tables.budget_table(rows, called),
        cells=cell_tables.cells_table(rows, called),
        tasks=cell_tables.tasks_table(rows, task_rows, called),
        selection=selection,
        full=difference_tables.differences_table("Against full KVs", full, called),
        controls=difference_tables.differences_table(
            "Against controls that re-load as many chunks, or bytes", controls, called
        ),
        published=tuple(cell_tables.published_table(group, called) for group in beside(rows)),
        stages=cell_tables.stages_table(rows, called),
        ratios=cell_tables.ratios_table(rows),
        failures=tuple(table for table in failures if table is not None),
        unparsed=_unparsed(rows),
        provenance=(run_tables.sessions_table(infos), run_tables.commands_table(runs, infos)),
        command=run_tables.sweep_command(folder),
        made=now(),
        questions=browse(rows, records, called, samples),
    )


def render(report: Report, data: PageData, served: bool = False) -> str:
    """The HTML file. Everything that came from outside is escaped.

    Args:
        report: what it shows.
        data: of its questions.
        served: whether it comes from a server that it may ask for details.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    stages = [(cell_tables.stage_name(s), style_of_stage(s).colour) for s in STAGES]
    return environment.get_template(TEMPLATE).render(
        report=report,
        stages=stages,
        most_intervals=MOST_INTERVALS,
        chart_data=script_json(report.charts.values),
        data=data,
        served=served,
        scripts=[
            Markup((Path(__file__).parent / name).read_text(encoding="utf-8")) for name in SCRIPTS
        ],
    )


def write_report(
    folder: Path,
    out: Path | None = None,
    samples: Mapping[SampleKey, Sample] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes the report of a folder, replacing an older one in one step.

    Args:
        folder: see `gather`.
        out: the file; None = `report.html` in the folder.
        samples: see `gather`.
        progress: see `page_data`.

    Returns:
        The file.

    Raises:
        ValueError: see `gather`.
    """
    report = gather(folder, samples)
    text = render(report, page_data(report.questions, progress))
    path = out or folder / REPORT
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_bytes(text.encode("utf-8", NO_UTF8))
    return path


def _reading_order(p: Point) -> tuple[Hashable, ...]:
    """Baselines first, finest first, then what is best at the least bytes: the order in which a reader looks."""
    condition = p.condition
    baselines = [FULL, *(f"all-{level.name}" for level in condition.levels), None]
    return (
        condition.model,
        condition.benchmark,
        condition.protocol,
        baselines.index(condition.baseline),
        condition.compressor,
        tuple(math.inf if level.ratio is None else level.ratio for level in condition.levels),
        condition.selector,
        (math.isnan(p.kv_share), p.kv_share),
    )


def _result(cell: CellRecords, point: Point) -> CellResult:
    return CellResult(cell, point, frozenset(outcome.unit for outcome in outcomes(cell.records)))


def _why_nothing(error: ValueError, runs: Sequence[Job]) -> str:
    reasons = [
        f"\n  {job.name}: {job.state}{f' ({job.reason})' * bool(job.reason)}" for job in runs
    ]
    more = f"\n  and {len(reasons) - 20} more" if len(reasons) > 20 else ""
    return f"{error}{''.join(reasons[:20])}{more}"


def _unparsed(rows: Sequence[Point]) -> str:
    """One sentence on the answers that could not be read; empty where all could."""
    worst = max(rows, key=lambda p: p.parse_failures)
    if not worst.parse_failures:
        return ""
    return (
        f"Answers without a readable letter: {sum(p.parse_failures for p in rows):,} in all, at most "
        f"{worst.parse_failures:,} in one cell ({worst.condition.label}); the table of cells has each "
        "cell's."
    )
