"""Questions of one's own: a .jsonl file with one question a line, about videos beside it."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from x2l.benchmarks.annotation_row import Row, label
from x2l.benchmarks.answer_extraction import lone_letter
from x2l.benchmarks.base import DatasetError, Sample
from x2l.benchmarks.dataset_folder import Folder
from x2l.benchmarks.free_answer import FreeAnswer, free_answer
from x2l.benchmarks.multiple_choice import ChoiceSet, Protocol
from x2l.benchmarks.option_text import letters, vnbench_prompt

FIELDS = ("video", "question", "options", "answer", "spans", "task", "id", "tags")


def jsonl(
    file: str | None,
    root: str | None = None,
    protocol: str = "exact",
    tasks: Sequence[str] | str | None = None,
    shard: str | None = None,
    split: str | None = None,
    digest: str | None = None,
) -> ChoiceSet:
    """The questions of a file; see docs/benchmarks.md for its fields.

    Args:
        file: one JSON object a line.
        root: folder that relative video paths start from; None = the file's.
        protocol: how answers to questions without options are marked, see `free_answer.free_answer`. Options are read
            by letter (`answer_extraction.lone_letter`).
        tasks: ask these only; None = all.
        shard: see `ChoiceSet`.
        split: its name, e.g. for `selection.tuned_on`; None = the file's name without suffix.
        digest: of the file's bytes: what tells runs of an edited file from earlier ones.

    Raises:
        DatasetError: the file is not there, or a line is not what it must be.
        ValueError: a value that cannot work.
    """
    rule = free_answer(protocol)
    if file is None:
        raise ValueError("benchmark.file=null: must name a .jsonl file of questions")
    path = Path(file).expanduser()
    if not path.is_file() or path.suffix != ".jsonl":
        kind = "must end in .jsonl" if path.is_file() else "no such file"
        raise DatasetError(f"benchmark.file={file}: {kind}; give one JSON object a line")
    folder = Folder(f"jsonl_{split or path.stem}", path.parent, None)
    rows = folder.rows(path.name)
    if not rows:
        raise DatasetError(f"benchmark.file={file}: holds no question; write one a line")
    videos = path.parent if root is None else Path(root).expanduser()
    rules = Protocol(_prompt(rule), lone_letter, max_new_tokens=rule.max_new_tokens, free=rule)
    samples = _samples(rows, videos, rule)
    return ChoiceSet(folder.name, folder, samples, {protocol: rules}, protocol, tasks, shard=shard)


def file_digest(file: str | None) -> str:
    """Short hash of a file's bytes; empty where there is no such file, which `jsonl` tells."""
    path = Path(str(file or "")).expanduser()
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8] if path.is_file() else ""


def _prompt(rule: FreeAnswer) -> Callable[[Sample, Sequence[str] | None], str]:
    def prompt(sample: Sample, _: Sequence[str] | None) -> str:
        if sample.choices:
            return vnbench_prompt(sample.question, sample.choices)
        return "\n".join(filter(None, (sample.question, rule.instruction)))

    return prompt


def _samples(rows: Sequence[Row], videos: Path, rule: FreeAnswer) -> Iterator[Sample]:
    lines: dict[str, str] = {}
    for row in rows:
        if unknown := sorted(row.keys() - set(FIELDS)):
            raise row.error(
                f"field {unknown[0]!r} is not known; there are {', '.join(FIELDS)}, and labels of your own go into "
                "tags"
            )
        sample = _sample(row, videos, rule)
        if sample.id in lines:
            what = "id" if "id" in row else "question about the same video"
            raise row.error(f"the {what} of {lines[sample.id]} again; give each an id of its own")
        lines[sample.id] = row.place
        yield sample


def _sample(row: Row, videos: Path, rule: FreeAnswer) -> Sample:
    video, question = row.text("video"), row.text("question")
    choices = _choices(row)
    answer = None
    if row.get("answer") is not None:
        answer = _letter(row, choices) if choices else row.label("answer")
    if answer is not None and not choices:
        row.read("answer", lambda value: rule.expects(label(value)))
    name = hashlib.sha256(json.dumps([video, question, choices]).encode()).hexdigest()[:12]
    tags = row.inner("tags") if row.get("tags") is not None else {}
    return Sample(
        id=row.label("id") if row.get("id") is not None else name,
        video_id=os.path.normpath(video),
        video=str(videos / Path(video).expanduser()),
        task=row.text("task") if row.get("task") is not None else "question",
        question=question,
        choices=choices,
        answer=answer,
        spans=tuple(sorted(row.spans("spans"))) if row.get("spans") is not None else None,
        tags={str(tag): tags.label(tag) for tag in tags} if isinstance(tags, Row) else {},
        row=row.number,
    )


def _choices(row: Row) -> tuple[str, ...]:
    if row.get("options") in (None, []):
        return ()
    choices = row.labels("options")
    if not 2 <= len(choices) <= 26:
        raise row.error(
            f"options: must be 2 to 26, not {len(choices)}; leave them out for a free answer"
        )
    if len(set(choices)) < len(choices):
        raise row.error(f"options={list(choices)}: must differ")
    marked = zip(letters(len(choices)), choices, strict=True)
    if all(re.match(rf"\(?{letter}[.):]", choice) for letter, choice in marked):
        raise row.error(f"options={list(choices)}: must come without letters, which x2l writes")
    return choices


def _letter(row: Row, choices: Sequence[str]) -> str:
    """The letter of the right option, which `answer` names by letter or by its text."""
    answer, names = row.label("answer"), letters(len(choices))
    by_letter = answer if len(answer) == 1 and answer in names else None
    by_text = names[choices.index(answer)] if answer in choices else None
    if by_letter is None and by_text is None:
        raise row.error(
            f"answer={answer!r}: must be a letter of {names}, or one of {list(choices)}"
        )
    if by_letter and by_text and by_letter != by_text:
        raise row.error(
            f"answer={answer!r}: is the letter of {choices[names.index(by_letter)]!r} and the text of option "
            f"{by_text}; write the options so that no letter is one"
        )
    return by_letter or by_text or ""
