"""One JSON line per answer, and the two small files that say what a run was and how it ended.

Records are the source of truth: tables, curves and trackers are made from them and can be made
again. This module knows nothing of models, of Hydra or of statistics.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from x2l.engine.stages import PREFILL_STAGES
from x2l.runs.condition import Condition
from x2l.runs.condition import from_json as condition_from_json
from x2l.runs.condition import to_json as condition_to_json

RECORDS = "records.jsonl"
SCHEMA = 3  # of a line; raised whenever older lines can no longer be read
# How what is no Unicode (the name of a file that is not UTF-8) is written: as JSON's own escape, which reads back.
NO_UTF8 = "backslashreplace"
RecordKey = tuple[Condition, str]


def _by_stage(*stages: str) -> Any:
    """A measure with a value for each of some stages: `flops` is written as `flops_vision`, `flops_prefill`, ..."""
    return dataclasses.field(metadata={"stages": stages})


def _added_later() -> Any:
    """A field that lines of this schema may lack, and is None then."""
    return dataclasses.field(default=None, metadata={"added_later": True})


@dataclass(frozen=True)
class VideoPart:
    """What all answers about one pre-filled video share. FLOPs are closed forms (a multiply-add counts two).

    Attributes:
        frames_sampled: of this video; a short one has fewer than asked for.
        duration: seconds.
        kept: level -> KVs kept of each chunk, mean over layers and heads.
        measured_ratio: level -> visual tokens in / out that was really obtained; None where chunks are dropped.
        kv_bytes_host: KVs of all levels that wait on the host.
        kv_bytes_full: of the same prompt without any compression.
        flops: of the video's stages.
        seconds: wall time of the video's stages, the device synchronised; `read` is opening the file and waiting for
            its frames, which are decoded and prepared for the vision tower beside the pre-fill.
        peak_memory: bytes, the most during each stage: CUDA's allocations; on the CPU the process. None: not known.
        kv_bytes_budget: what a control that holds KV bytes equal had to match.
        flops_budget: what one that holds a question's FLOPs equal had to match, pre-fill included.
        frames_prefilled: by those controls; `frames_sampled` and `kv_bytes_full` are still the video's as sampled.
        seconds_prefill_load: the pre-fill came from prefill.cache in so many seconds; its own are those of when it was
            computed. None: it was computed now.
    """

    video_id: str
    frames_sampled: int
    duration: float
    kept: Mapping[str, tuple[int, ...]]
    measured_ratio: Mapping[str, float | None]
    kv_bytes_host: int
    kv_bytes_full: int
    flops: Mapping[str, int] = _by_stage(*PREFILL_STAGES)
    seconds: Mapping[str, float] = _by_stage("read", *PREFILL_STAGES)
    peak_memory: Mapping[str, int | None] = _by_stage(*PREFILL_STAGES)
    kv_bytes_budget: int | None = None
    flops_budget: int | None = None
    frames_prefilled: int | None = None
    seconds_prefill_load: float | None = None


@dataclass(frozen=True)
class QuestionPart:
    """The question, and the rules that it is scored by.

    Attributes:
        group: questions of one group are right only together (circular rule).
        tries: questions in a whole group.
        tags: further labels of the sample.
        question: the text alone, without options.
        answer: None = the set keeps it back.
        row: number of the question in the set's own file.
        gt_chunks: ground-truth chunks; None = the benchmark does not say.
        mean: what the headline number is a mean of, `questions` or `tasks`.
        unparsed: what an unparsed answer is: `wrong`, `left out` or `guessed`.
        options: how many there are; None: a free answer, or a line from before they were counted.
    """

    sample_id: str
    task: str
    group: str | None
    tries: int
    tags: Mapping[str, str]
    question: str
    answer: str | None
    row: int | None
    gt_chunks: tuple[int, ...] | None
    mean: str
    unparsed: str
    options: int | None = _added_later()


@dataclass(frozen=True)
class SelectionPart:
    """What the selector said and which level each chunk got.

    Attributes:
        relevance: one value per chunk; None where it is not finite.
        assigned: the level of every chunk.
        recall: share of ground-truth chunks that were re-loaded; None = not known.
        precision: share of re-loaded chunks that are ground truth.
        hit: 1 if a ground-truth chunk was re-loaded, else 0.
        scene_hit: share of the question's ground-truth scenes of which a chunk was re-loaded.
        tuned_on: the split that top_k was tuned on; None = not tuned.
        flops: `retrieval` is the video's and its selector's, the same in each of its records.
        seconds: as flops.
        peak_memory: as flops; see `VideoPart`.
        kv_bytes_streamed: that the selector read from the host for this question, as stored there.
        selector_bytes_resident: that the selector keeps on the compute device for this video.
    """

    relevance: tuple[float | None, ...]
    assigned: tuple[str, ...]
    recall: float | None
    precision: float | None
    hit: float | None
    scene_hit: float | None
    tuned_on: str | None
    flops: Mapping[str, int] = _by_stage("retrieval", "selection")
    seconds: Mapping[str, float] = _by_stage("retrieval", "selection")
    peak_memory: Mapping[str, int | None] = _by_stage("retrieval", "selection")
    kv_bytes_streamed: int = 0
    selector_bytes_resident: int = 0


@dataclass(frozen=True)
class AnswerPart:
    """What was decoded and how it scored. Cells that assign the same levels share one decoding and its measurements.

    Attributes:
        parsed: None = the prediction could not be parsed.
        correct: 1 or 0; None = not parsed (unless guessed), or no answer is known.
        guess: the letter drawn where none could be parsed.
        kv_bytes_stored: of the mixed cache that was decoded from, as its parts are stored: keys and values in the
            level's codec, positions and weights (text before the video included).
        kv_bytes_attended: of the decoded copy that attention reads, keys and values.
        kv_bytes_reloaded: as stored, brought back from the host for this answer.
        flops: of this answer alone.
        seconds: its share of what answers took that were decoded together (`decode.batch`): of reload by KVs, of decode
            by FLOPs.
        peak_memory: of all of them; see `VideoPart`.
    """

    prediction: str
    parsed: str | None
    correct: float | None
    guess: str | None
    kv_bytes_stored: int
    kv_bytes_attended: int
    kv_bytes_reloaded: int
    flops: Mapping[str, int] = _by_stage("reload", "decode")
    seconds: Mapping[str, float] = _by_stage("reload", "decode")
    peak_memory: Mapping[str, int | None] = _by_stage("reload", "decode")


@dataclass(frozen=True)
class Record:
    """One answer of one cell; flat in JSON."""

    condition: Condition
    video: VideoPart
    question: QuestionPart
    selection: SelectionPart
    answer: AnswerPart

    @property
    def key(self) -> RecordKey:
        """What makes an answer the same answer: two records with one key are one result."""
        return self.condition, self.question.sample_id

    @property
    def selected(self) -> tuple[int, ...]:
        """Chunks re-loaded at any level but the coarsest."""
        coarsest = self.condition.levels[-1].name
        return tuple(i for i, level in enumerate(self.selection.assigned) if level != coarsest)

    @property
    def flops(self) -> dict[str, int]:
        """By stage."""
        return {**self.video.flops, **self.selection.flops, **self.answer.flops}

    @property
    def seconds(self) -> dict[str, float]:
        """By stage."""
        return {**self.video.seconds, **self.selection.seconds, **self.answer.seconds}

    @property
    def peak_memory(self) -> dict[str, int | None]:
        """By stage."""
        parts = self.video, self.selection, self.answer
        return {stage: peak for part in parts for stage, peak in part.peak_memory.items()}


_PARTS: Mapping[str, type] = {
    "video": VideoPart,
    "question": QuestionPart,
    "selection": SelectionPart,
    "answer": AnswerPart,
}


def to_json(record: Record) -> dict[str, Any]:
    """The record as one flat object of plain values, as it stands in records.jsonl."""
    values: dict[str, Any] = {"schema": SCHEMA, **condition_to_json(record.condition)}
    for name in _PARTS:
        values |= part_to_json(getattr(record, name))
    return values


def part_to_json(part: Any) -> dict[str, Any]:
    """One part's fields; a measure by stage is one key a stage."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if stages := field.metadata.get("stages"):
            values |= {f"{field.name}_{stage}": value[stage] for stage in stages}
        else:
            values[field.name] = value
    return values


def part_from_json(kind: type, values: Mapping[str, Any]) -> Any:
    """A part from the flat object.

    Raises:
        KeyError: a field is missing.
    """
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if stages := field.metadata.get("stages"):
            fields[field.name] = {stage: values[f"{field.name}_{stage}"] for stage in stages}
        elif field.name in values or not field.metadata.get("added_later"):
            fields[field.name] = _tuples(values[field.name])
    return kind(**fields)


def from_json(values: Mapping[str, Any]) -> Record:
    """The record that `to_json` wrote.

    Raises:
        KeyError: a field is missing, or it is a line of another schema.
    """
    check_schema(values)
    parts = {name: part_from_json(kind, values) for name, kind in _PARTS.items()}
    return Record(condition_from_json(values), **parts)


def check_schema(values: Mapping[str, Any]) -> None:
    """Checks that a line is of this version.

    Raises:
        KeyError: it is of another schema.
    """
    if (schema := values.get("schema", 1)) != SCHEMA:
        raise KeyError(f"schema {schema}, this version reads {SCHEMA}")


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples."""
    if isinstance(value, list):
        return tuple(value)
    return {k: _tuples(v) for k, v in value.items()} if isinstance(value, dict) else value


def deterministic(record: Record) -> dict[str, Any]:
    """What depends on config and seed alone: everything but timings and peak memory, flat."""
    return {
        name: value
        for name, value in to_json(record).items()
        if not name.startswith(("seconds_", "peak_memory"))
    }


# --- writing and reading -------------------------------------------------------------------------


class RecordWriter:
    """Appends records to a file, one `os.write` each: a kill tears the last line at most."""

    def __init__(self, path: str | Path) -> None:
        """Opens `path` for appending; ends a line that an earlier kill left torn.

        Args:
            path: the JSONL file; its folder must exist.
        """
        self.path = Path(path)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if _torn(self.path):
            os.write(self._fd, b"\n")

    def append(self, record: Record) -> None:
        """Writes the record, whole or (on a full disk) with an OSError."""
        data = _line(to_json(record))
        if os.write(self._fd, data) != len(data):
            raise OSError(f"{self.path}: short write; is the disk full?")

    def close(self) -> None:
        """Closes the file."""
        os.close(self._fd)

    def __enter__(self) -> "RecordWriter":
        """Returns itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Closes the file."""
        self.close()


def append_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Appends one JSON line (errors.jsonl) in a single write."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, _line(values))
    finally:
        os.close(fd)


def load(path: str | Path) -> list[Record]:
    """Reads records, the last one winning where a key occurs twice.

    A line that is not JSON is what a kill in mid-write leaves; it is dropped, and its answer is
    computed again on resume. JSON that is not a record is an error: the file is not ours.

    Args:
        path: a JSONL file, or a folder holding `records.jsonl`; a missing file has no records.

    Raises:
        ValueError: a line is JSON without the fields of a record.
    """
    path = Path(path)
    path = path / RECORDS if path.is_dir() else path
    found: dict[RecordKey, Record] = {}
    for number, values in read_json_lines(path):
        try:
            record = from_json(values)
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"{path}:{number}: not a record of this version of x2l ({error}); "
                "move the folder away and run again"
            ) from error
        found[record.key] = record
    return list(found.values())


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, object) for every whole line; torn lines are passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                values = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(values, dict):
                yield number, values


def finite(value: float) -> float | None:
    """The value, or None where JSON has no word for it."""
    return float(value) if math.isfinite(value) else None


def _torn(path: Path) -> bool:
    size = path.stat().st_size
    if size == 0:
        return False
    with path.open("rb") as file:
        file.seek(size - 1)
        return file.read(1) != b"\n"


def _line(values: Mapping[str, Any]) -> bytes:
    text = json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", NO_UTF8)
