"""Records -> outcomes -> the headline accuracy, as the benchmark's protocol has it. Pure."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from x2l.analysis.statistics import TRIES, Accuracy, Outcome, circular, macro_accuracy
from x2l.benchmarks.base import SEVERAL
from x2l.runs.records import Record

ALL_TASKS = "all"


def outcomes(records: Iterable[Record]) -> list[Outcome]:
    """The scored units of some records: circular groups folded, unparsed answers wrong.

    Left out, unparsed answers would flatter a compressor that breaks the answer's form: it would be
    judged on the few answers it still gets into shape. Their number stands beside every accuracy.
    Only a protocol whose own code leaves them out, or guesses, may say otherwise. Questions whose
    answers the set keeps back have no outcome.
    """
    counting = [
        record
        for record in records
        if record.question.answer is not None
        and not (record.answer.correct is None and record.question.unparsed == "left out")
    ]
    marked = (
        (
            Outcome(r.question.sample_id, r.video.video_id, r.answer.correct or 0.0),
            r.question.group,
        )
        for r in counting
    )
    return circular(marked, max((r.question.tries for r in counting), default=TRIES))


def by_mean(records: Iterable[Record]) -> dict[str, list[Outcome]]:
    """The outcomes of one cell, in the parts whose accuracies its headline number is the mean of.

    Args:
        records: of one benchmark and protocol.

    Returns:
        One entry a task where the protocol averages over tasks, else one of all.
    """
    parts: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        question = record.question
        for name in question.task.split(SEVERAL) if question.mean == "tasks" else (ALL_TASKS,):
            parts[name].append(record)
    return {name: outcomes(members) for name, members in parts.items()}


def headline(records: Iterable[Record]) -> Accuracy:
    """The accuracy of one cell by its benchmark's protocol, interval clustered by video."""
    return macro_accuracy(by_mean(records))


def chance(records: Iterable[Record]) -> float:
    """The accuracy of guessing every answer, by the protocol's mean; NaN where a question's options are not known.

    The questions of a circular group are guessed right together, each on its own.
    """
    parts: dict[str, dict[str, float]] = defaultdict(dict)
    for record in records:
        question = record.question
        if question.options is None:
            return math.nan
        for name in question.task.split(SEVERAL) if question.mean == "tasks" else (ALL_TASKS,):
            tries = 1 if question.group is None else question.tries
            parts[name][question.group or question.sample_id] = question.options**-tries
    means = [math.fsum(units.values()) / len(units) for units in parts.values()]
    return math.fsum(means) / len(means) if means else math.nan


def unparsed(record: Record) -> bool:
    """Whether no letter could be read, guessed or not."""
    answer = record.answer
    return answer.parsed is None or (answer.correct is None and record.question.answer is not None)


def nothing_parsed(records: Sequence[Record]) -> str:
    """A warning where no answer at all could be read; else empty."""
    if not records or not all(map(unparsed, records)):
        return ""
    return (
        f"all {len(records)} answers are unparsed, so that their accuracy says nothing of the model; the first is "
        f"{records[0].answer.prediction!r}; see prediction in records.jsonl, and try benchmark.protocol=, "
        "max_new_tokens= or model.dtype="
    )
