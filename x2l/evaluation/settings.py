"""What a run needs to know besides its objects; checked before anything heavy is loaded.

A wrong value must stop a run within a second or two. This module therefore stays free of
transformers, which takes seconds to import.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from x2l import UserError
from x2l.engine.taking import TOP, taking_rule
from x2l.engine.top_k import check_top_k
from x2l.runs.condition import LevelSpec

CONTEXTS = ("full", "own")  # and the name of every level
EQUAL_KV_BYTES, EQUAL_FLOPS = "equal_kv_bytes", "equal_flops"
# Controls that pre-fill fewer frames, uncompressed, by what they hold equal to the method's.
CONTROLS = {"kv_bytes": EQUAL_KV_BYTES, "flops": EQUAL_FLOPS}
POSITIONS = ("keep", "compact")
DTYPES = ("float32", "float64", "bfloat16", "float16")
POSITION_RULES = ("reference", "hf")
READERS = ("pyav", "decord")


class ConfigError(UserError, ValueError):
    """A value that cannot work, as `field=value: rule; remedy`: the user's to correct."""


@contextmanager
def config_errors() -> Iterator[None]:
    """Inside, a ValueError is about what the user asked for. Elsewhere it is a fault of ours."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


@dataclass(frozen=True)
class Settings:
    """Plain values of one run.

    Attributes:
        device: None where `model.device_map` spreads the model over several.
        seconds: length of every video, where the benchmark fixes it; bounds the number of chunks.
        benchmark: name of its configuration.
        split: the part of the benchmark that is evaluated, where it has parts.
        top_k_by_task: what `top_k=task` means for each task.
        tuned_on: the split that top_k was tuned on, `split` or `benchmark/split`; of another benchmark where this one
            has no splits.
        prefill_cache, video_cache: folders that pre-fills and sampled frames are kept in for other runs; None keeps
            none.
        prefill_cache_gb, video_cache_gb: all that is kept there may take, 10^9 bytes each.
        batch: answers about a video that are decoded together, at most; `auto`: what memory holds.
        levels: finest to coarsest.
        control: what stands in for the method, `equal_kv_bytes` or `equal_flops`; None = levels and a choice of chunks.
        taking: rules by which chunks are taken of those rated, see `engine/taking.py`.

    Raises:
        ValueError: a value that cannot work, as `field=value: rule; remedy`.
    """

    run_id: str
    model: str
    dtype: str
    frames: int | None
    fps: float | None
    chunk_frames: int
    context: str
    positions: str
    levels: tuple[LevelSpec, ...]
    selectors: tuple[str, ...]
    top_k: tuple[int | str, ...]
    pinned: tuple[str, ...]
    max_new_tokens: int
    limit: int | None
    seed: int
    model_positions: str = "reference"
    device: str | None = "cpu"
    reader: str = "pyav"
    seconds: float | None = None
    benchmark: str = ""
    split: str | None = None
    top_k_by_task: Mapping[str, int] = field(default_factory=dict)
    tuned_on: str | None = None
    control: str | None = None
    taking: tuple[str, ...] = (TOP,)
    prefill_cache: str | None = None
    prefill_cache_gb: float = 20
    video_cache: str | None = None
    video_cache_gb: float = 50
    batch: int | str = "auto"

    def __post_init__(self) -> None:
        """Checks every field on its own, then those that depend on each other."""
        if self.frames is None and self.fps is None:
            raise ValueError("video.frames=null: video.fps is null too; give at least one of them")
        _whole("video.frames", self.frames, optional=True)
        _whole("prefill.chunk_frames", self.chunk_frames)
        _whole("max_new_tokens", self.max_new_tokens)
        _whole("limit", self.limit, optional=True)
        if self.fps is not None and not (_number(self.fps) and self.fps > 0):
            raise ValueError(
                f"video.fps={self.fps}: must be above 0; null spreads video.frames evenly"
            )
        if not isinstance(self.seed, int) or not 0 <= self.seed < 1 << 63:
            raise ValueError(
                f"seed={self.seed!r}: must be a whole number of at least 0, below 2^63"
            )
        self._check_levels()
        kind, _, number = (self.device or "cpu").partition(":")
        if kind not in ("cpu", "cuda", "mps", "xpu") or (number and not number.isdigit()):
            raise ValueError(
                f"model.device={self.device!r}: must be cpu, cuda, cuda:1, ..., or null with a model.device_map"
            )
        _one_of("video.reader", self.reader, READERS)
        _one_of("model.positions", self.model_positions, POSITION_RULES)
        _one_of("model.dtype", self.dtype, DTYPES)
        keeping = [level.name for level in self.levels if level.ratio is not None]
        _one_of("prefill.context", self.context, (*CONTEXTS, *keeping))
        _one_of("prefill.positions", self.positions, POSITIONS)
        _check_cache("prefill", self.prefill_cache, self.prefill_cache_gb, "pre-fills")
        _check_cache("video", self.video_cache, self.video_cache_gb, "frames")
        if self.batch != "auto":
            _whole("decode.batch", self.batch, remedy="; or auto")
        if not self.selectors:
            raise ValueError("selector=[]: must name at least one; e.g. selector=attention")
        if not self.top_k:
            raise ValueError("top_k=[]: must name at least one number of chunks; e.g. top_k=1")
        if not self.taking:
            raise ValueError("selection.taking=[]: must name at least one rule; e.g. top")
        for taking in self.taking:
            taking_rule(taking)
        self._check_tuning()
        self._check_top_k(None)

    def _check_levels(self) -> None:
        """Names, ratios and order."""
        for level in self.levels:
            field = f"levels.{level.name}"
            if level.name in CONTEXTS or not level.name.isidentifier():
                raise ValueError(
                    f"{field}: must be named by a word, and not full or own, which prefill.context= means otherwise"
                )
            if level.ratio is not None and not (_number(level.ratio) and level.ratio >= 1):
                raise ValueError(
                    f"{field}.ratio={level.ratio}: must be tokens in / tokens out, at least 1; "
                    "to keep a share s of the tokens write 1/s, e.g. 2 to keep half"
                )
        ratios = {level.name: level.ratio or math.inf for level in self.levels}
        if sum(level.ratio is None for level in self.levels) > 1:
            raise ValueError(
                f"levels={list(ratios)}: chunks can be dropped at one of them only; give another a ratio, or null for "
                "no such level"
            )
        if len(ratios) < 2:
            raise ValueError(
                f"levels={list(ratios)}: must be two or more; where all chunks are to have one, add another and choose "
                "selector=none or selector=all"
            )
        if ratios.get("low", 0) > ratios.get("high", math.inf):
            raise ValueError(
                f"levels.low.ratio={ratios['low']}: must be at most levels.high.ratio={ratios['high']}; low is the "
                "detailed level, so swap them, or name the levels otherwise"
            )
        if len(ratios) > 2 and len(set(ratios.values())) < len(ratios):
            raise ValueError(f"levels={ratios}: must have different ratios; leave one out")
        if list(ratios.values()) != sorted(ratios.values()):
            raise ValueError(f"levels={ratios}: must be finest to coarsest; sort them by ratio")

    def check_chunks(self) -> None:
        """Checks that videos can have as many chunks as every top_k takes; a run's, not a single question's, matter.

        Raises:
            ValueError: they cannot.
        """
        self._check_top_k(self.most_chunks)

    def _check_top_k(self, chunks: int | None) -> None:
        for top_k in self.top_k:
            check_top_k(top_k, self.pinned, self.level_names, chunks)
        for task, count in self.top_k_by_task.items():
            name = f"selection.top_k_by_task.{task}"
            _whole(name, count, least=0)
            check_top_k(count, self.pinned, self.level_names, chunks, name)

    def _check_tuning(self) -> None:
        """A k that was chosen on the questions it is reported on says nothing about others."""
        if bool(self.top_k_by_task) != ("task" in self.top_k):
            raise ValueError(
                f"selection.top_k_by_task={dict(self.top_k_by_task)}: must be given where top_k holds the word task, "
                f"and only there (top_k={list(self.top_k)}); e.g. top_k=[2,task]"
            )
        if self.top_k_by_task and self.tuned_on is None:
            raise ValueError(
                "selection.tuned_on=null: must name the split that selection.top_k_by_task was tuned on; it must "
                f"differ from the one evaluated, {self.evaluated}"
            )
        if self.tuned_on is not None and self._named(self.tuned_on) == self.evaluated:
            raise ValueError(
                f"selection.tuned_on={self.tuned_on}: must differ from the split that is evaluated, {self.evaluated}; "
                "tune on another split, or evaluate another"
            )
        if self.tuned_on is not None:
            self._check_tuning_split(self.tuned_on)

    def _check_tuning_split(self, tuned_on: str) -> None:
        """An invented name would pass for another split than the one evaluated."""
        benchmark, _, split = self._named(tuned_on).partition("/")
        if benchmark == self.benchmark and self.split is None:
            raise ValueError(
                f"selection.tuned_on={tuned_on}: must be of another benchmark, because {benchmark} has no splits: its "
                "only questions are those that are evaluated; e.g. mlvu/dev"
            )
        known = _splits().get(benchmark)
        if known is not None and split not in known:
            raise ValueError(
                f"selection.tuned_on={tuned_on}: must be one of {benchmark}'s splits, {', '.join(known)}"
            )

    def _named(self, split: str) -> str:
        return split if "/" in split else f"{self.benchmark}/{split}"

    @property
    def level_names(self) -> tuple[str, ...]:
        """Finest first."""
        return tuple(level.name for level in self.levels)

    @property
    def fewer_frames(self) -> bool:
        """Whether this is a control that spends what each top_k takes on fewer, uncompressed frames."""
        return self.control is not None

    @property
    def evaluated(self) -> str:
        """The split that is evaluated, `benchmark/split`; `benchmark/all` where it has no parts."""
        return self._named(self.split or "all")

    @property
    def most_chunks(self) -> int | None:
        """Chunks of a video that is long enough; None where nothing bounds them."""
        bounds = [] if self.frames is None else [self.frames]
        if self.fps is not None and self.seconds is not None:
            bounds.append(math.ceil(self.seconds * self.fps))
        return math.ceil(min(bounds) / self.chunk_frames) if bounds else None


def check_temporal_patch(chunk_frames: int, temporal_patch: int) -> None:
    """Checks that a chunk is a whole number of time steps.

    Raises:
        ValueError: it is not.
    """
    if chunk_frames % temporal_patch:
        below = max(temporal_patch, chunk_frames - chunk_frames % temporal_patch)
        raise ValueError(
            f"prefill.chunk_frames={chunk_frames}: must be a multiple of the model's temporal "
            f"patch of {temporal_patch} frames; use {below}"
        )


def check_checkpoint(name_or_path: str) -> None:
    """Checks that what is plainly a path leads to a folder; a repository's name is the Hub's matter.

    Raises:
        ValueError: it does not.
    """
    if name_or_path.startswith(("/", ".", "~")) and not Path(name_or_path).is_dir():
        raise ValueError(
            f"model.name_or_path={name_or_path}: no such folder; give a checkpoint folder, "
            "x2l_tiny, or the id of a repository on the Hub"
        )


def temporal_patch(folder: Path) -> int | None:
    """Frames per time step of a checkpoint folder, from its config alone; None if not told.

    What is wrong with a config is told by loading, in full.
    """
    config = folder / "config.json"
    if not config.is_file():
        return None
    try:
        values = json.loads(config.read_text(encoding="utf-8-sig"))
    except ValueError:
        return None
    vision = values.get("vision_config") if isinstance(values, dict) else None
    patch = vision.get("temporal_patch_size") if isinstance(vision, dict) else None
    return patch if isinstance(patch, int) else None


def _splits() -> dict[str, tuple[str, ...]]:
    """The splits of the benchmarks that have any."""
    # Here, not above: needle imports torch.
    from x2l.benchmarks.longvideobench import FILES
    from x2l.benchmarks.mlvu import SOURCES
    from x2l.benchmarks.needle.benchmark import SPLITS

    return {
        "longvideobench": tuple(FILES),
        "mlvu": tuple(SOURCES),
        "needle": tuple(SPLITS),
    }


def _check_cache(group: str, cache: object, gigabytes: object, kept: str) -> None:
    """Checks a folder that something is kept in, without making it: that is the run's part."""
    if not (_number(gigabytes) and gigabytes > 0):
        raise ValueError(
            f"{group}.cache_gb={gigabytes}: must be a number above 0, the GB that all kept {kept} may take; to keep "
            f"none leave {group}.cache=null"
        )
    if cache is None:
        return
    if not isinstance(cache, str):
        raise ValueError(
            f"{group}.cache={cache}: must be a folder, e.g. outputs/{group}, or null to keep none"
        )
    folder = Path(cache).expanduser()
    there = next((path for path in (folder, *folder.parents) if path.exists()), Path("."))
    if not there.is_dir():
        raise ValueError(
            f"{group}.cache={cache}: {there} is a file; name a folder, or null to keep no {kept}"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(
            f"{group}.cache={cache}: {there} cannot be written to; name another folder, or null to keep no {kept}"
        )


def _number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(
    name: str, value: object, optional: bool = False, least: int = 1, remedy: str = ""
) -> None:
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        remedy = "; null for no limit" if optional else remedy
        raise ValueError(f"{name}={value!r}: must be a whole number of at least {least}{remedy}")


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(allowed)}")
