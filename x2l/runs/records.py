"""One JSON line per answer, and the two small files that say what a run was and how it ended.

Records are the source of truth: tables, curves and trackers are made from them and can be made
again. This module knows nothing of models, of Hydra or of statistics.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORDS = "records.jsonl"
RecordKey = tuple[str, str, str, str, str, str]


@dataclass(frozen=True)
class Record:
    """One answer of one cell.

    Stages `vision`, `prefill` and `compression` are the video's, the same in each of its records,
    and `retrieval` the video's and its selector's; `selection`, `reload` and `decode` belong to the
    question; cells that re-load the same chunks for a question share one decoding, and so its
    measurements. Bytes are bytes, seconds are wall time with the device synchronised, FLOPs are the
    closed form (a multiply-add counts two).
    """

    run_id: str
    sample_id: str
    video_id: str
    benchmark: str
    task: str
    group: str | None  # questions of one group are right only together (circular rule)
    tags: Mapping[str, str]  # further labels of the sample
    question: str
    answer: str | None  # None = the set keeps it back
    prediction: str
    parsed: str | None  # None = the prediction could not be parsed
    correct: float | None  # 1 or 0; None = not parsed (unless guessed), or no answer is known
    selector: str
    selector_config: str  # short hash of the selector's settings
    # None for the controls `all` and `none`; "gt": as many as gt_chunks; "task": as its task was given; "2+4": a ladder
    # of levels; "12%", "64MB": a budget of bytes
    top_k: int | str | None
    pinned: tuple[str, ...]
    relevance: tuple[float | None, ...]  # one value per chunk; None where it is not finite
    selected: tuple[int, ...]
    gt_chunks: tuple[int, ...] | None  # None = the benchmark does not say
    recall: float | None
    precision: float | None
    kept_low: tuple[int, ...]  # KVs kept per chunk at the level
    kept_high: tuple[int, ...]
    kv_bytes_resident: int  # the mixed cache that was decoded from (text before the video included)
    kv_bytes_reloaded: int  # brought back from the host for this answer
    kv_bytes_host: int  # all L-KVs of the video, waiting on the host
    kv_bytes_full: int  # the same cache without any compression
    flops_vision: int
    flops_prefill: int
    flops_compression: int
    flops_selection: int
    flops_reload: int
    flops_decode: int
    seconds_read: float
    seconds_vision: float
    seconds_prefill: float
    seconds_compression: float
    seconds_selection: float
    seconds_reload: float
    seconds_decode: float
    peak_memory: int | None  # bytes while answering: CUDA's allocations; on the CPU the process
    peak_memory_prefill: int | None
    frames: int
    fps: float | None  # as asked for; None = spread evenly over the video
    duration: float  # seconds of video
    chunk_frames: int
    ratio_low: float
    ratio_high: float
    measured_ratio_low: float
    measured_ratio_high: float
    compressor: str  # "tome", or "tome+mean_pool" when low and high differ
    context: str
    positions: str
    model: str
    dtype: str
    seed: int
    # Fields added later have a default, so that older records can still be read.
    row: int | None = None  # number of the question in the set's own file
    protocol: str = "x2l"  # the benchmark's rules of prompt, extraction and mean
    mean: str = "questions"  # what the headline number is a mean of: "questions" or "tasks"
    unparsed: str = "wrong"  # what an unparsed answer is: "wrong", "left out" or "guessed"
    guess: str | None = None  # the letter drawn where none could be parsed
    hit: float | None = None  # 1 if a ground-truth chunk was re-loaded, else 0; None = not known
    tuned_on: str | None = None  # the split that top_k was tuned on; None = not tuned
    tries: int = 4  # questions in a whole group
    flops_retrieval: int = 0
    seconds_retrieval: float = 0.0
    kv_bytes_budget: int | None = None  # what the control fewer_frames had to match
    frames_prefilled: int | None = None  # by the control fewer_frames; `frames` and `kv_bytes_full`
    # are then still the video's as sampled
    # The pre-fill came from prefill.cache in so many seconds; its own are those of when it was computed. None: computed
    seconds_prefill_load: float | None = None
    # Where there are more than two levels; `selected` are then the chunks re-loaded at any of the finer ones.
    ratios_between: Mapping[str, float] = dataclasses.field(default_factory=dict)
    kept_between: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    assigned: tuple[str, ...] = ()  # a level for every chunk

    @property
    def between(self) -> str:
        """Levels between `low` and `high`, finest first, e.g. `mid 8x`."""
        return ratios_in_words(self.ratios_between)

    @property
    def key(self) -> RecordKey:
        """What makes an answer the same answer: two records with one key are one result."""
        return (
            self.run_id,
            self.sample_id,
            self.selector,
            self.selector_config,
            str(self.top_k),
            "+".join(self.pinned),
        )


def ratios_in_words(ratios: Mapping[str, float]) -> str:
    """Levels and their ratios, finest first."""
    ranked = sorted(ratios.items(), key=lambda level: level[1])
    return ", ".join(f"{name} {ratio:g}x" for name, ratio in ranked)


def deterministic(record: Record) -> dict[str, Any]:
    """The fields that depend on config and seed alone: everything but timings and peak memory."""
    return {
        name: value
        for name, value in dataclasses.asdict(record).items()
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
        data = _line(dataclasses.asdict(record))
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
            record = _from_json(values)
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
    return (json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _from_json(values: Mapping[str, Any]) -> Record:
    required = {
        f.name
        for f in dataclasses.fields(Record)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := required - values.keys():
        raise KeyError(f"fields missing: {', '.join(sorted(missing))}")
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Record(**plain)
