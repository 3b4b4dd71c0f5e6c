"""What a run tells its tracker: accuracy while it lasts; in the end every cell, task, stage and answer. Pure."""

import math
from collections import defaultdict
from collections.abc import Collection

from x2l.analysis.cell_names import Names, names
from x2l.analysis.points import points
from x2l.analysis.scoring import ALL_TASKS, outcomes
from x2l.runs.condition import Condition, trait_label
from x2l.runs.records import Record
from x2l.runs.trackers.base import AnswerTable

_OF_A_TASK = ("accuracy", "accuracy_low", "accuracy_high", "questions")
# Among levels that are called low and high, the ends of an interval are not.
_CALLED = {"accuracy_low": "accuracy_ci95_lower", "accuracy_high": "accuracy_ci95_upper"}


def running(records: Collection[Record]) -> dict[str, float]:
    """Accuracy of every cell so far (`accuracy/CELL`), over the number of answers (`answers`)."""
    by_cell: dict[Condition, list[Record]] = defaultdict(list)
    for record in records:
        by_cell[record.condition].append(record)
    called = names(by_cell)
    metrics: dict[str, float] = {"answers": float(len(records))}
    for condition, members in by_cell.items():
        values = [outcome.value for outcome in outcomes(members)]
        if values:
            metrics[f"accuracy/{_cell(condition, called)}"] = sum(values) / len(values)
    return metrics


def final(records: Collection[Record]) -> dict[str, float]:
    """Everything that is known of every cell in the end; what is not a number is left out.

    Returns:
        `final/CELL/MEASURE` with the measures of points.csv, and `task/TASK/CELL/MEASURE` with the accuracy of each
        task.
    """
    called = names(record.condition for record in records)
    values: dict[str, float] = {}
    for point in points(records, by_task=True):
        name, whole = _cell(point.condition, called), point.task == ALL_TASKS
        place = f"final/{name}" if whole else f"task/{point.task}/{name}"
        for measure, value in point.measures.items():
            if math.isfinite(value) and (whole or measure in _OF_A_TASK):
                values[f"{place}/{_CALLED.get(measure, measure)}"] = float(value)
    return values


def answer_table(records: Collection[Record]) -> AnswerTable:
    """Every answer, and the accuracy of every cell, under the names of `final`."""
    called = names(record.condition for record in records)
    rows = sorted(
        (
            record.question.sample_id,
            _cell(record.condition, called),
            record.video.video_id,
            record.question.task,
            record.question.question,
            record.answer.prediction,
            record.answer.parsed or "",
            record.question.answer or "",
            "unknown" if (right := record.answer.correct) is None else "yes" if right else "no",
            _chunks(record.selected),
            _chunks(record.question.gt_chunks),
        )
        for record in records
    )
    accuracies = [(_cell(p.condition, called), 100 * p.accuracy) for p in points(records)]
    return AnswerTable(
        ("sample", "cell", "video", "task", "question", "prediction", "read_as", "answer", "right")
        + ("selected_chunks", "ground_truth_chunks"),
        tuple(rows),
        tuple(of for of in accuracies if math.isfinite(of[1])),
    )


def _chunks(numbers: Collection[int] | None) -> str:
    return "unknown" if numbers is None else " ".join(map(str, numbers))


def _cell(condition: Condition, called: Names) -> str:
    """Within a run, all cells of which share their pre-fill."""
    words = [condition.baseline or called.choice(condition), called.variant(condition)]
    top_k = None if condition.baseline else trait_label("top_k", condition.top_k)
    return " ".join(filter(None, [*words, top_k]))
