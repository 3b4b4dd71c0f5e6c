"""Answers that ran out of memory: results too, one JSON line each in out_of_memory.jsonl.

Not in records.jsonl, where every line is an answer: what has none has no prediction, no bytes and no
FLOPs either, and the keys there say what a resumed run need not do. Memory is no property of a cell
alone - another machine, or the same one when it is less busy, may have enough - so a run started again
tries anew, and a shortage counts only as long as no record has its key.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from x2l.runs.condition import Condition
from x2l.runs.condition import from_json as condition_from_json
from x2l.runs.condition import to_json as condition_to_json
from x2l.runs.records import SCHEMA, Record, RecordKey, append_json, check_schema, read_json_lines

LOG = "out_of_memory.jsonl"


@dataclass(frozen=True)
class OutOfMemory:
    """One answer of one cell for which memory ran out; flat in JSON, as a record.

    Attributes:
        stage: of the record's stages, `read` or `load`; None = between two of them.
        requested_bytes: that could not be given; None = the allocator does not say.
        error: one line, with what to change.
    """

    condition: Condition
    sample_id: str
    video_id: str
    task: str
    tags: Mapping[str, str]
    stage: str | None
    requested_bytes: int | None
    device: str
    error: str

    @property
    def key(self) -> RecordKey:
        """That of the record which is missing."""
        return self.condition, self.sample_id


def append_out_of_memory(folder: Path, entry: OutOfMemory) -> None:
    """Adds a line to a run's out_of_memory.jsonl."""
    plain = {f.name: getattr(entry, f.name) for f in fields(entry) if f.name != "condition"}
    append_json(folder / LOG, {"schema": SCHEMA, **condition_to_json(entry.condition), **plain})


def load_out_of_memory(folder: Path) -> list[OutOfMemory]:
    """A run's entries, the last of each key; torn lines are passed over.

    Raises:
        ValueError: a line is JSON, but not an entry of this version.
    """
    latest: dict[RecordKey, OutOfMemory] = {}
    names = [field.name for field in fields(OutOfMemory) if field.name != "condition"]
    for number, values in read_json_lines(folder / LOG):
        try:
            check_schema(values)
            plain = {name: values[name] for name in names}
            entry = OutOfMemory(condition=condition_from_json(values), **plain)
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"{folder / LOG}:{number}: not a line of this version of x2l ({error}); remove the file and run again"
            ) from error
        latest[entry.key] = entry
    return list(latest.values())


def unanswered(entries: Iterable[OutOfMemory], records: Iterable[Record]) -> list[OutOfMemory]:
    """Those that no record has made up for."""
    answered = {record.key for record in records}
    return [entry for entry in entries if entry.key not in answered]


def summary_lines(entries: Sequence[OutOfMemory]) -> list[str]:
    """One line for each cell and stage that ran out of memory."""
    groups: dict[tuple[str, str], list[OutOfMemory]] = {}
    for entry in entries:
        groups.setdefault((entry.condition.label, entry.stage or "between stages"), []).append(
            entry
        )
    return [_summary_line(label, stage, members) for (label, stage), members in groups.items()]


def _summary_line(label: str, stage: str, members: Sequence[OutOfMemory]) -> str:
    videos = len({entry.video_id for entry in members})
    most = max((entry.requested_bytes or 0 for entry in members), default=0)
    requested = f", {most / 2**30:,.2f} GiB asked for" if most else ""
    return (
        f"{label}: out of memory in {stage}, {len(members)} answers about {videos} videos"
        f" ({members[0].device}{requested})"
    )
