"""Answers that ran out of memory: results too, one JSON line each in out_of_memory.jsonl.

Not in records.jsonl, where every line is an answer: what has none has no prediction, no bytes and no
FLOPs either, and the keys there say what a resumed run need not do. Memory is no property of a cell
alone - another machine, or the same one when it is less busy, may have enough - so a run started again
tries anew, and a shortage counts only as long as no record has its key.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from x2l.runs.records import Record, RecordKey, append_json, ratios_in_words, read_json_lines

SHORTAGES = "out_of_memory.jsonl"


@dataclass(frozen=True)
class Shortage:
    """One answer of one cell for which memory ran out; fields as in `records.Record`."""

    run_id: str
    sample_id: str
    video_id: str
    benchmark: str
    protocol: str
    task: str
    tags: Mapping[str, str]
    selector: str
    selector_config: str
    top_k: int | str | None
    pinned: tuple[str, ...]
    stage: str | None  # of the record's stages, `read` or `load`; None = between two of them
    asked_bytes: int | None  # that could not be given; None = the allocator does not say
    device: str
    error: str  # one line, with what to change
    frames: int | None  # as sampled at most; None = as many as the file has
    fps: float | None
    chunk_frames: int
    ratio_low: float
    ratio_high: float
    compressor: str
    context: str
    positions: str
    model: str
    dtype: str
    seed: int
    ratios_between: Mapping[str, float]

    @property
    def key(self) -> RecordKey:
        """That of the record which is missing."""
        return (
            self.run_id,
            self.sample_id,
            self.selector,
            self.selector_config,
            str(self.top_k),
            "+".join(self.pinned),
        )

    @property
    def between(self) -> str:
        """Levels between `low` and `high`, as in `Record.between`."""
        return ratios_in_words(self.ratios_between)

    @property
    def cell(self) -> str:
        """The cell's name, as tables give it."""
        k = "" if self.top_k is None else f" k={self.top_k}"
        return f"{self.compressor} {self.selector}{k}"


def append_shortage(folder: Path, shortage: Shortage) -> None:
    """Adds a line to a run's out_of_memory.jsonl."""
    append_json(folder / SHORTAGES, dataclasses.asdict(shortage))


def load_shortages(folder: Path) -> list[Shortage]:
    """A run's shortages, the last of each key; torn lines are passed over.

    Raises:
        ValueError: a line is JSON, but not a shortage.
    """
    found: dict[RecordKey, Shortage] = {}
    for number, values in read_json_lines(folder / SHORTAGES):
        try:
            shortage = Shortage(**values | {"pinned": tuple(values["pinned"])})
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"{folder / SHORTAGES}:{number}: not a line of this version of x2l ({error}); "
                "remove the file and run again"
            ) from error
        found[shortage.key] = shortage
    return list(found.values())


def unanswered(shortages: Iterable[Shortage], records: Iterable[Record]) -> list[Shortage]:
    """Those that no record has made up for."""
    answered = {record.key for record in records}
    return [shortage for shortage in shortages if shortage.key not in answered]


def in_short(shortages: Sequence[Shortage]) -> list[str]:
    """One line for each cell and stage that ran out of memory."""
    found: dict[tuple[str, str], list[Shortage]] = {}
    for shortage in shortages:
        found.setdefault((shortage.cell, shortage.stage or "between stages"), []).append(shortage)
    return [_line(cell, stage, members) for (cell, stage), members in found.items()]


def _line(cell: str, stage: str, members: Sequence[Shortage]) -> str:
    videos = len({shortage.video_id for shortage in members})
    most = max((shortage.asked_bytes or 0 for shortage in members), default=0)
    asked = f", {most / 2**30:,.2f} GiB asked for" if most else ""
    return (
        f"{cell}: out of memory in {stage}, {len(members)} answers about {videos} videos"
        f" ({members[0].device}{asked})"
    )
