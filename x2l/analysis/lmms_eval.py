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

from x2l.analysis.scoring import ALL_TASKS
from x2l.analysis.statistics import TRIES, Accuracy, Outcome, circular, macro_accuracy
from x2l.runs.records import Record, read_json_lines

SAMPLES = re.compile(r"(?:.*_)?samples_(.+)\.jsonl")
_OLDER_NAMES = {"mlvu": "mlvu_dev"}  # of tasks


@dataclass(frozen=True)
class Line:
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
        name = f"{record.run_id}_samples_{record.benchmark}.jsonl"
        cells[folder / _label(record) / name][record.sample_id] = record
    for path, members in cells.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        ordered = sorted(members.values(), key=lambda r: (r.row is None, r.row or 0, r.sample_id))
        lines = [_line(record, number) for number, record in enumerate(ordered)]
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return sorted(cells)


def read_line(name: str, path: Path, records: Iterable[Record] = ()) -> Line:
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
    known = {r.sample_id: r for r in records if r.benchmark == benchmark}
    shared = [answer for answer in answers if answer.id in known]
    answers = shared or answers
    rows = [answer.beside(known.get(answer.id)) for answer in answers]
    by_tasks = any(record.mean == "tasks" for record in known.values())
    parts: dict[str, list[tuple[Outcome, str | None]]] = defaultdict(list)
    for answer in rows:
        if answer.parsed or answer.unparsed != "left out":
            outcome = Outcome(answer.id, answer.video or answer.id, float(answer.right or False))
            parts[answer.task if by_tasks else ALL_TASKS].append((outcome, answer.group))
    tries = max((record.tries for record in known.values()), default=TRIES)
    return Line(
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
            task=record.task,
            video=record.video_id,
            group=record.group,
            unparsed=record.unparsed,
        )


def _answer(path: Path, number: int, values: Mapping[str, Any], benchmark: str) -> _Answer:
    metric = _metric(values)
    if metric is None:
        raise ValueError(
            f"{path}:{number}: has no result with an answer and what was read (its keys: "
            f"{', '.join(values)}); give a file that lmms-eval --log_samples wrote"
        )
    result = metric if isinstance(metric, dict) else {"score": metric}
    own = values.get("x2l", {})
    read = result.get("parsed_pred", result.get("pred_answer"))
    truth = result.get("answer", result.get("gt_answer"))
    # VideoMME's question_id is an id; MLVU's and VNBench's is the question's text, which recurs.
    name = own.get("sample_id") or result.get("id")
    if name is None and benchmark.startswith("videomme"):
        name = result.get("question_id")
    video = own.get("video_id") or result.get("videoID")
    if video is None and "video_pure_name" in result:
        video = Path(result["video_pure_name"]).stem
    tasks = (result.get(key) for key in ("task_type", "task_category", "question_category"))
    return _Answer(
        id=str(values.get("doc_id", number) if name is None else name),
        task=next((str(task) for task in tasks if task), ALL_TASKS),
        video=video,
        group=video if benchmark.startswith("vnbench") else own.get("group"),
        right=_right(result, read, truth),
        parsed=own["parsed"] is not None if own else read != "",
        unparsed=own.get("unparsed", "wrong"),
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
    found = [value for keys in answers for value in objects if keys <= value.keys()]
    scores = [v for k, v in values.items() if k.endswith(("_score", "_acc", "exact_match"))]
    numbers = [value for value in scores if isinstance(value, bool | int | float)]
    return next(iter([*found, *numbers]), None)


def _label(record: Record) -> str:
    ratios = [record.ratio_low, *sorted(record.ratios_between.values()), record.ratio_high]
    parts = [record.compressor, *(f"{ratio:g}x" for ratio in ratios)]
    parts += [record.selector, *([] if record.top_k is None else [f"k{record.top_k}"])]
    return "-".join([*parts, *record.pinned, record.selector_config])


def _line(record: Record, number: int) -> dict[str, Any]:
    doc = f"{record.benchmark}/{record.sample_id}/{record.question}"
    return {
        "doc_id": number if record.row is None else record.row,
        "target": _target(record),
        "filtered_resps": [record.prediction],
        "doc_hash": hashlib.sha256(
            doc.encode()
        ).hexdigest(),  # of what a record knows of the question
        **_result(record),
        "input": record.question,
        "x2l": {
            "sample_id": record.sample_id,
            "video_id": record.video_id,
            "group": record.group,
            "protocol": record.protocol,
            "parsed": record.parsed,
            "unparsed": record.unparsed,
        },
    }


def _target(record: Record) -> str:
    if record.benchmark.startswith("longvideobench") and record.answer is not None:
        return str(ord(record.answer) - ord("A"))
    return str(record.answer)


def _result(record: Record) -> dict[str, Any]:
    """The metric under the name and in the form that lmms-eval's task gives it."""
    read, tags = record.parsed or record.guess or "", record.tags
    result: dict[str, Any]
    pair = {"pred_answer": read, "answer": record.answer}
    if record.benchmark.startswith("videomme"):
        result = {
            "question_id": record.sample_id,
            "duration": tags.get("duration"),
            "category": tags.get("domain"),
            "sub_category": tags.get("sub_category"),
            "task_category": record.task,
            **pair,
        }
        return {"videomme_perception_score": result}
    if record.benchmark.startswith("longvideobench"):
        result = {
            "id": record.sample_id,
            "duration_group": int(tags["duration"]),
            "question_category": record.task,
            "answer": record.answer,
            "parsed_pred": read,
        }
        return {"lvb_acc": result, "submission": {record.sample_id: record.prediction}}
    named = {"question_id": record.question, "task_type": record.task, **pair}
    if record.benchmark.startswith("mlvu"):
        return {"mlvu_perception_score": named}
    if record.benchmark == "vnbench":
        return {"vnbench_perception_score": {**named, "video_pure_name": f"{record.video_id}.mp4"}}
    if record.benchmark == "lvbench":
        return {"lvbench_score": record.correct == 1.0}
    return {"x2l_score": {**named, "question_id": record.sample_id}}


def parse_lines(given: Sequence[str], records: Sequence[Record]) -> list[Line]:
    """`NAME=FILE`, as on x2l-collect's command line.

    Raises:
        ValueError: no `=`, another benchmark than the records', or see `read_line`.
    """
    lines = []
    known = sorted({record.benchmark for record in records})
    for entry in given:
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
