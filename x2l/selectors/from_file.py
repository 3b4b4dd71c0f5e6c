"""Chunks that another program chose beforehand, read from a JSON file: the way the authors used LanguageBind.

Layouts, each keyed by `<video file>_<question without options>`:

    {key: [3, 1, 24]}                       chunks, most relevant first
    {key: {"relevance": [0.1, 0.7, ...]}}   one number per chunk
    {key: {"top1": ..., "top3": [...]}}     LanguageBind's results as the authors' notebook reads them
    {key: {"gt_chunk_idx": [...]}}          the ground truth beside them, in the same notebook
    {key: [[12, 20], [95, 103]]}            seconds, as their notebook keeps MemVid's clips
    {category: {"config": ..., "selected_unit_indices": {key: [3, 1, 24]}}}
                                            as Video-XL-2 publishes them: units of eight sampled frames

Sources: Video-XL `Video-XL-2/eval/lvu/utilities.ipynb`, `.../w_chunk_bilevel/selected_infos/*.json`, and for the unit
`.../llava_qwen.py` ("generated in units of eight frames").
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from x2l.engine.ground_truth import gt_chunks
from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.interface import VideoModel
from x2l.models.prompt import Chunk
from x2l.selectors.base import ChunkSelector, Query

MISSING = ("error", "none")
UNITS = "selected_unit_indices"
PUBLISHED_UNIT = 8  # sampled frames
NEVER = -math.inf


@dataclass(frozen=True)
class FileSelector(ChunkSelector):
    """Relevance, or chunks in order of relevance, out of a file; chunks it does not list are never re-loaded. Final.

    Attributes:
        path: the file.
        digest: of its content.
        unit_frames: sampled frames that an index stands for; None = an index is a chunk.
        missing: what a question that the file does not have means: `error`, or `none` (nothing is re-loaded).
        found: the entries, by `video_key`.
    """

    path: str
    digest: str
    unit_frames: int | None
    missing: str
    found: Mapping[str, Any] = field(repr=False, compare=False)
    name: str = "file"

    @staticmethod
    def load(
        path: str | None = None, unit_frames: int | None = None, missing: str = "error"
    ) -> FileSelector:
        """Reads the file.

        Args:
            path: the JSON file.
            unit_frames: sampled frames that an index stands for; None = chunks, but for the layout of Video-XL-2,
                whose unit is eight frames. The video must then be sampled as it was for the file.
            missing: `error` or `none`.

        Raises:
            ValueError: no file, no JSON, a layout that is not known, or a value that cannot work.
        """
        if path is None or not Path(path).is_file():
            raise ValueError(
                f"selector.file.path={path}: no such file; give the JSON file with the chosen chunks"
            )
        if missing not in MISSING:
            raise ValueError(f"selector.file.missing={missing!r}: must be one of {MISSING}")
        if unit_frames is not None and (not isinstance(unit_frames, int) or unit_frames < 1):
            raise ValueError(
                f"selector.file.unit_frames={unit_frames!r}: must be a whole number above 0, or null"
            )
        content = Path(path).read_bytes()
        try:
            entries = json.loads(content)
        except ValueError as error:
            raise ValueError(f"selector.file.path={path}: is no JSON file ({error})") from error
        if not isinstance(entries, dict):
            raise ValueError(
                f"selector.file.path={path}: must hold an object keyed by video and question"
            )
        if _published(entries):
            unit_frames = unit_frames or PUBLISHED_UNIT
            parts = [part[UNITS] for part in entries.values() if part]
            entries = {key: value for part in parts for key, value in part.items()}
        found = {_plain(key): _entry(path, key, value) for key, value in entries.items()}
        digest = hashlib.sha256(content).hexdigest()[:8]
        return FileSelector(path, digest, unit_frames, missing, found)

    def knows(self, video: str, text: str) -> bool:
        """Whether the question can be answered with this file."""
        return self.missing == "none" or self._lookup(video, text) is not None

    def least_chunks(self, video: str, text: str) -> int:
        """How many chunks a video must have for the entry to fit; 0 where that depends on its frames."""
        entry = self._lookup(video, text)
        if isinstance(entry, dict):
            return len(entry["relevance"])
        indices = self.unit_frames is None and entry and not isinstance(entry[0], list)
        return 1 + max(entry) if indices else 0

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """What the file says of the question; -inf for chunks that it does not list.

        Raises:
            ValueError: the file lacks the question, or does not fit the video's chunks.
        """
        chunks = store.prompt.chunks
        entry = self._lookup(query.video, query.text)
        if entry is None and self.missing == "error":
            raise ValueError(
                f"selector.file.path={self.path}: has no entry {video_key(query.video, query.text)!r}; "
                "make it, or set selector.file.missing=none to re-load nothing there"
            )
        if entry is None:
            return torch.full((len(chunks),), NEVER)
        try:
            return self._of(entry, chunks)
        except ValueError as error:
            raise ValueError(
                f"selector.file.path={self.path}: entry {video_key(query.video, query.text)!r} {error}"
            ) from error

    def _of(self, entry: Any, chunks: Sequence[Chunk]) -> Tensor:
        if isinstance(entry, dict):
            values = torch.tensor(entry["relevance"], dtype=torch.float32)
            if len(values) != len(chunks):
                raise ValueError(
                    f"rates {len(values)} chunks, but the video has {len(chunks)}; "
                    "prefill.chunk_frames and video.frames must be those of the file"
                )
            return values
        relevance = torch.full((len(chunks),), NEVER)
        if entry and isinstance(entry[0], list):
            relevance[list(gt_chunks(chunks, [(start, end) for start, end in entry]))] = 1.0
            return relevance
        for rank, index in enumerate(entry):
            for chunk in self._chunks(index, chunks):
                relevance[chunk] = max(float(relevance[chunk]), float(len(entry) - rank))
        return relevance

    def _chunks(self, index: int, chunks: Sequence[Chunk]) -> list[int]:
        """The chunks that an index of the file stands for."""
        frames = chunks[-1].frames[1]
        size = len(chunks) if self.unit_frames is None else math.ceil(frames / self.unit_frames)
        if not 0 <= index < size:
            unit = "chunks" if self.unit_frames is None else f"units of {self.unit_frames} frames"
            raise ValueError(
                f"names number {index}, but the video has {size} {unit}; sample it as it was for the file "
                "(video.frames, video.fps, prefill.chunk_frames)"
            )
        if self.unit_frames is None:
            return [index]
        first, after = index * self.unit_frames, (index + 1) * self.unit_frames
        return [c.index for c in chunks if c.frames[0] < after and c.frames[1] > first]

    def _lookup(self, video: str, text: str) -> Any:
        path = Path(video)
        names = dict.fromkeys((path.name, path.stem))  # LVBench's keys leave .mp4 out
        return next((self.found[k] for n in names if (k := video_key(n, text)) in self.found), None)


def video_key(video: str, question: str) -> str:
    """`<video file>_<question>`, white space evened out: question texts differ in line ends between releases."""
    return _plain(f"{Path(video).name}_{question}")


def _plain(text: str) -> str:
    return " ".join(text.split())


def _published(entries: Mapping[str, Any]) -> bool:
    """The layout of Video-XL-2; a category without selection is null."""
    filled = [part for part in entries.values() if part]
    return bool(filled) and all(isinstance(part, dict) and UNITS in part for part in filled)


def _entry(path: str, key: str, value: Any) -> Any:
    """One entry as a list of indices, a list of pairs of seconds, or `{"relevance": numbers}`."""
    if isinstance(value, dict):
        tops = [name for name in value if name.startswith("top") and name[3:].isdigit()]
        if "relevance" in value and _numbers(value["relevance"]):
            if any(math.isnan(number) for number in value["relevance"]):
                raise ValueError(
                    f"selector.file.path={path}: entry {key!r} holds NaN; write a number for every chunk, e.g. 0"
                )
            return {"relevance": value["relevance"]}
        name = max(tops, key=lambda top: int(top[3:])) if tops else "gt_chunk_idx"
        value = value.get(name)
    if isinstance(value, int):
        value = [value]
    indices = isinstance(value, list) and all(isinstance(n, int) for n in value)
    spans = isinstance(value, list) and all(_numbers(pair) and len(pair) == 2 for pair in value)
    if not (indices or spans):
        raise ValueError(
            f"selector.file.path={path}: entry {key!r} must be a list of chunk numbers, a list of [start, end] "
            'seconds, {"relevance": [...]}, or {"top3": [...]}'
        )
    return value


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(number, int | float) for number in value)
