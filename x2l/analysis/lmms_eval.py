"""lmms-eval's samples files: records written as such, and files of others read as a line of a figure.

The form is that of `<date>_samples_<task>.jsonl` (lmms-eval 7f9c482 loggers/evaluation_tracker.py and the
`process_results` of each task): one JSON object a question with doc_id, target, filtered_resps, input, and
the task's own metric. What lmms-eval has no field for stands under `x2l`, so that an export reads back
as it was.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from x2l.analysis.cell_names import value_text
from x2l.analysis.scoring import ALL_TASKS
from x2l.analysis.statistics import TRIES, Accuracy, Outcome, circular, macro_accuracy
from x2l.runs.condition import Condition, choice_names
from x2l.runs.records import NO_UTF8, Record, read_json_lines

SAMPLES = re.compile(r"(?:.*_)?samples_(.+)\.jsonl")
_OLDER_NAMES = {"mlvu": "mlvu_dev"}  # of tasks


@dataclass(frozen=True)
class ReferenceLine:
    """What another program reached on a benchmark.

    Attributes:
        name: as the user calls it.
        benchmark: lmms-eval's task.
        accuracy: with its interval.
        parse_failures: answers in which it found no letter.
        clustered: whether the file, or the records it was compared with, say which video is which.
    """

    name: str
    benchmark: str
    accuracy: Accuracy
    parse_failures: int
    clustered: bool


def export(folder: Path, records: Iterable[Record]) -> list[Path]:
    """Writes one file for each cell; the same records give the same files.

    Args:
        folder: gets one folder a cell, as lmms-eval makes one a model.
        records: of any set of runs.

    Returns:
        The files, sorted.
    """
    cells: dict[Path, dict[str, Record]] = defaultdict(dict)
    for record in records:
        condition = record.condition
        name = f"{condition.run_id}_samples_{condition.benchmark}.jsonl"
        cells[folder / _label(condition) / name][record.question.sample_id] = record
    for path, members in cells.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [_line(r, number) for number, r in enumerate(sorted(members.values(), key=_order))]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        path.write_bytes(text.encode("utf-8", NO_UTF8))
    return sorted(cells)


def read_line(name: str, path: Path, records: Iterable[Record] = ()) -> ReferenceLine:
    """Reads a samples file as one line of a figure.

    Where records of the same benchmark are given, it is read as they are: the same mean, the same
    videos, and only the questions that they have, as far as the file names its questions as they do.

    Args:
        name: for the legend.
        path: `*_samples_<task>.jsonl`.
        records: what it will stand beside.

    Raises:
        ValueError: the file is not there or not such a file, or holds no answer to compare with.
    """
    match = SAMPLES.fullmatch(path.name)
    if not path.is_file() or match is None:
        raise ValueError(f"{path}: must be a file of lmms-eval named ..._samples_TASK.jsonl")
    benchmark = _OLDER_NAMES.get(match[1], match[1])
    answers = [_answer(path, n, values, benchmark) for n, values in read_json_lines(path)]
    if not answers:
        raise ValueError(f"{path}: holds no sample; give a file that lmms-eval --log_samples wrote")
    answers = [answer for answer in answers if answer.right is not None]
    if not answers:
        raise ValueError(
            f"{path}: holds predictions without answers; give a file of a split whose answers are known"
        )
    known = {r.question.sample_id: r for r in records if r.condition.benchmark == benchmark}
    shared = [answer for answer in answers if answer.id in known]
    answers = shared or answers
    rows = [answer.beside(known.get(answer.id)) for answer in answers]
    by_tasks = any(record.question.mean == "tasks" for record in known.values())
    parts: dict[str, list[tuple[Outcome, str | None]]] = defaultdict(list)
    for answer in rows:
        if answer.parsed or answer.unparsed != "left out":
            outcome = Outcome(answer.id, answer.video or answer.id, float(answer.right or False))
            parts[answer.task if by_tasks else ALL_TASKS].append((outcome, answer.group))
    tries = max((record.question.tries for record in known.values()), default=TRIES)
    return ReferenceLine(
        name,
        benchmark,
        macro_accuracy({task: circular(part, tries) for task, part in parts.items()}),
        sum(not answer.parsed for answer in rows),
        all(answer.video for answer in rows),
    )


@dataclass(frozen=True)
class _Answer:
    """One line of a file, as far as it is needed here."""

    id: str
    task: str
    video: str | None
    group: str | None
    right: bool | None  # None = the file does not know the answer
    parsed: bool
    unparsed: str  # what an answer that could not be parsed is: "left out", or another word

    def beside(self, record: Record | None) -> "_Answer":
        """The same with the record's video, task, group and rule, which the file may not know."""
        if record is None:
            return self
        return replace(
            self,
            task=record.question.task,
            video=record.video.video_id,
            group=record.question.group,
            unparsed=record.question.unparsed,
        )


def _answer(path: Path, number: int, values: Mapping[str, Any], benchmark: str) -> _Answer:
    metric = _metric(values)
    if metric is None:
        raise ValueError(
            f"{path}:{number}: has no result with an answer and what was read (its keys: "
            f"{', '.join(values)}); give a file that lmms-eval --log_samples wrote"
        )
    result = metric if isinstance(metric, dict) else {"score": metric}
    ours = values.get("x2l", {})
    read = result.get("parsed_pred", result.get("pred_answer"))
    truth = result.get("answer", result.get("gt_answer"))
    # VideoMME's question_id is an id; MLVU's and VNBench's is the question's text, which recurs.
    name = ours.get("sample_id") or result.get("id")
    if name is None and benchmark.startswith("videomme"):
        name = result.get("question_id")
    video = ours.get("video_id") or result.get("videoID")
    if video is None and "video_pure_name" in result:
        video = Path(result["video_pure_name"]).stem
    tasks = (result.get(key) for key in ("task_type", "task_category", "question_category"))
    return _Answer(
        id=str(values.get("doc_id", number) if name is None else name),
        task=next((str(task) for task in tasks if task), ALL_TASKS),
        video=video,
        group=video if benchmark.startswith("vnbench") else ours.get("group"),
        right=_right(result, read, truth),
        parsed=ours["parsed"] is not None if ours else read != "",
        unparsed=ours.get("unparsed", "wrong"),
    )


def _right(result: Mapping[str, Any], read: Any, truth: Any) -> bool | None:
    if truth is not None:
        return bool(read == truth)
    return bool(result["score"] > 0) if "score" in result else None


def _metric(values: Mapping[str, Any]) -> Any:
    """The task's result: the first object with an answer in it, else the first score."""
    results = [value for key, value in values.items() if key not in ("x2l", "doc", "submission")]
    objects = [value for value in results if isinstance(value, dict)]
    answers = ({"answer", "parsed_pred"}, {"answer", "pred_answer"}, {"score"})
    metrics = [value for keys in answers for value in objects if keys <= value.keys()]
    scores = [v for k, v in values.items() if k.endswith(("_score", "_acc", "exact_match"))]
    numbers = [value for value in scores if isinstance(value, bool | int | float)]
    return next(iter([*metrics, *numbers]), None)


def _order(record: Record) -> tuple[bool, int, str]:
    row = record.question.row
    return row is None, row or 0, record.question.sample_id


def _label(condition: Condition) -> str:
    """Of a cell's folder: its levels, and everything that cells of one run differ in."""
    ratios = ["dropped" if e.ratio is None else f"{e.ratio:g}x" for e in condition.levels]
    choice = {name: condition.traits[name] for name in choice_names()}
    choice |= {"selector": condition.chosen_by}
    words = [
        ("k" * (n == "top_k") + value_text(v)) for n, v in choice.items() if v not in (None, ())
    ]
    return "-".join([condition.compressor, *ratios, *words])


def _line(record: Record, number: int) -> dict[str, Any]:
    benchmark, question, answer = record.condition.benchmark, record.question, record.answer
    known = f"{benchmark}/{question.sample_id}/{question.question}"  # to a record
    return {
        "doc_id": number if question.row is None else question.row,
        "target": _target(benchmark, question.answer),
        "filtered_resps": [answer.prediction],
        "doc_hash": hashlib.sha256(known.encode()).hexdigest(),
        **_result(record),
        "input": question.question,
        "x2l": {
            "sample_id": question.sample_id,
            "video_id": record.video.video_id,
            "group": question.group,
            "protocol": record.condition.protocol,
            "parsed": answer.parsed,
            "unparsed": question.unparsed,
        },
    }


def _target(benchmark: str, answer: str | None) -> str:
    if benchmark.startswith("longvideobench") and answer is not None:
        return str(ord(answer) - ord("A"))
    return str(answer)


def _result(record: Record) -> dict[str, Any]:
    """The metric under the name and in the form that lmms-eval's task gives it."""
    benchmark, question, answer = record.condition.benchmark, record.question, record.answer
    read = answer.parsed or answer.guess or ""
    result: dict[str, Any]
    pair = {"pred_answer": read, "answer": question.answer}
    if benchmark.startswith("videomme"):
        result = {
            "question_id": question.sample_id,
            "duration": question.tags.get("duration"),
            "category": question.tags.get("domain"),
            "sub_category": question.tags.get("sub_category"),
            "task_category": question.task,
            **pair,
        }
        return {"videomme_perception_score": result}
    if benchmark.startswith("longvideobench"):
        result = {
            "id": question.sample_id,
            "duration_group": int(question.tags["duration"]),
            "question_category": question.task,
            "answer": question.answer,
            "parsed_pred": read,
        }
        return {"lvb_acc": result, "submission": {question.sample_id: answer.prediction}}
    named = {"question_id": question.question, "task_type": question.task, **pair}
    if benchmark.startswith("mlvu"):
        return {"mlvu_perception_score": named}
    if benchmark == "vnbench":
        video = f"{record.video.video_id}.mp4"
        return {"vnbench_perception_score": {**named, "video_pure_name": video}}
    if benchmark == "lvbench":
        return {"lvbench_score": answer.correct == 1.0}
    return {"x2l_score": {**named, "question_id": question.sample_id}}


def parse_lines(words: Sequence[str], records: Sequence[Record]) -> list[ReferenceLine]:
    """`NAME=FILE`, as on x2l-collect's command line.

    Raises:
        ValueError: no `=`, another benchmark than the records', or see `read_line`.
    """
    lines = []
    known = sorted({record.condition.benchmark for record in records})
    for entry in words:
        name, equals, path = entry.partition("=")
        if not (name and equals and path):
            raise ValueError(
                f"--add {entry}: must be NAME=FILE, e.g. --add stock=x_samples_y.jsonl"
            )
        line = read_line(name, Path(path), records)
        if line.benchmark not in known:
            raise ValueError(
                f"--add {entry}: is about {line.benchmark}; must be about {', '.join(known)}, as the "
                "records are"
            )
        lines.append(line)
    return lines
