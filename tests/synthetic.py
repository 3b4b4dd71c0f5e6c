"""Records that look like those of a real sweep: what figures and points are tested on."""

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

from x2l.engine.stages import STAGES
from x2l.runs.condition import Condition, LevelSpec, to_json
from x2l.runs.out_of_memory_log import OutOfMemory
from x2l.runs.records import SCHEMA, Record, from_json

TASKS = ("retrieval", "ordering", "counting")


def levels(compressor: str = "tome", **ratios: float | None) -> tuple[LevelSpec, ...]:
    """Levels of one compressor, finest first, by name."""
    return tuple(LevelSpec(name, ratio, compressor) for name, ratio in ratios.items())


def condition(**changes: Any) -> Condition:
    """One plausible cell, fields replaced by `changes`; `compressor`, `ratio_low` and `ratio_high` make its levels."""
    values: dict[str, Any] = dict(
        model="x2l_tiny",
        benchmark="needle",
        protocol="x2l",
        dtype="float32",
        frames=24,
        fps=1.0,
        chunk_frames=8,
        levels=levels(
            changes.pop("compressor", "tome"),
            low=changes.pop("ratio_low", 2.0),
            high=changes.pop("ratio_high", 32.0),
        ),
        context="full",
        positions="keep",
        control=None,
        selector="attention",
        single_level=None,
        role="method",
        top_k=1,
        pinned=(),
        taking="top",
        seed=0,
        selector_config="00000000",
        run_id="0123456789ab",
    )
    values |= SELECTORS.get(changes.get("selector", "attention"), {})
    return Condition(**{**values, **changes})


SELECTORS: dict[str, dict[str, Any]] = {  # what else follows from a selector
    "all": {"single_level": "low", "role": "control", "top_k": None},
    "none": {"single_level": "high", "role": "control", "top_k": None},
    "random": {"role": "control"},
    "uniform": {"role": "control"},
    "oracle": {"role": "bound"},
}


def record(**changes: Any) -> Record:
    """One plausible record; `changes` replaces fields of its condition (see `condition`) and of its parts.

    Measures by stage are changed one stage at a time, e.g. `flops_decode=5`, as they stand in JSON.
    """
    of_condition = {field.name for field in dataclasses.fields(Condition)}
    of_condition |= {"compressor", "ratio_low", "ratio_high"}
    cell = condition(**{name: changes.pop(name) for name in of_condition & changes.keys()})
    names = [level.name for level in cell.levels]
    values: dict[str, Any] = dict(
        schema=SCHEMA,
        video_id="v0",
        frames_sampled=24,
        duration=24.0,
        kept={name: (32, 32, 32) if name == names[0] else (2, 2, 2) for name in names},
        measured_ratio={level.name: level.ratio for level in cell.levels},
        kv_bytes_host=4000,
        kv_bytes_full=20000,
        **{f"peak_memory_{stage}": None for stage in STAGES},
        kv_bytes_budget=None,
        flops_budget=None,
        frames_prefilled=None,
        seconds_prefill_load=None,
        sample_id="v0/q0",
        task="retrieval",
        group=None,
        tries=4,
        tags={"kind": "edit"},
        question="Which colour was the circle?",
        answer="A",
        row=None,
        gt_chunks=(0,),
        mean="questions",
        unparsed="wrong",
        options=4,
        relevance=(0.5, 0.25, None),
        assigned=(names[0], names[-1], names[-1]),
        recall=1.0,
        precision=1.0,
        hit=1.0,
        scene_hit=1.0,
        tuned_on=None,
        kv_bytes_streamed=0,
        selector_bytes_resident=0,
        prediction="A",
        parsed="A",
        correct=1.0,
        guess=None,
        kv_bytes_stored=4000,
        kv_bytes_attended=4000,
        kv_bytes_reloaded=3200,
        flops_vision=10**8,
        flops_prefill=10**9,
        flops_compression=10**6,
        flops_retrieval=0,
        flops_selection=10**7,
        flops_reload=0,
        flops_decode=10**7,
        seconds_read=0.1,
        seconds_vision=0.1,
        seconds_prefill=0.4,
        seconds_compression=0.05,
        seconds_retrieval=0.0,
        seconds_selection=0.01,
        seconds_reload=0.001,
        seconds_decode=0.02,
    )
    if unknown := changes.keys() - values.keys():
        raise TypeError(f"no field of a record: {sorted(unknown)}")
    return from_json({**to_json(cell), **values, **changes})


def out_of_memory(cell: Condition, **changes: Any) -> OutOfMemory:
    """One plausible answer of a cell that memory ran out for."""
    values: dict[str, Any] = dict(
        sample_id="v9/q0",
        video_id="v9",
        task="retrieval",
        tags={"kind": "edit"},
        stage="prefill",
        requested_bytes=None,
        device="cpu",
        error="out of memory; use fewer frames",
    )
    return OutOfMemory(cell, **{**values, **changes})


def sweep(
    compressors: Sequence[str] = ("key_norm", "mean_pool", "tome"),
    ratios_high: Sequence[float] = (32.0,),
    videos: int = 16,
    questions: int = 6,
) -> list[Record]:
    """A demo-like sweep: controls and three selectors at k = 0, 1, 2, 4, answers by seeded chance."""
    chunks, tokens, size = 16, 64, 512
    rng = random.Random(0)
    found: list[Record] = []
    hard = [rng.gauss(0, 0.08) for _ in range(videos)]

    def cell(run: str, chance: float, kept: int, **changes: Any) -> None:
        for video in range(videos):
            for number in range(questions):
                right = rng.random() < chance + hard[video]
                reloaded = changes.pop("reloaded", 0)
                resident = (kept + 40) * size
                found.append(
                    record(
                        run_id=run,
                        video_id=f"v{video}",
                        sample_id=f"v{video}/q{number}",
                        task=TASKS[number % 3],
                        correct=None if rng.random() < 0.01 else float(right),
                        kv_bytes_stored=resident,
                        kv_bytes_reloaded=reloaded,
                        kv_bytes_host=4000,
                        kv_bytes_full=(chunks * tokens + 40) * size,
                        flops_decode=resident * 900,
                        frames=128,
                        frames_sampled=128,
                        **changes,
                    )
                )

    cell("full", 0.93, chunks * tokens, ratio_low=1.0, ratio_high=1.0, selector="none")
    for number, compressor in enumerate(compressors):
        for ratio in ratios_high:
            run = f"{compressor}{ratio}"
            share = dict(compressor=compressor, ratio_high=ratio)
            high = int(tokens / ratio)
            floor = 0.38 + 0.05 * number + 0.6 / ratio
            cell(run, 0.88, chunks * 32, selector="all", **share)
            cell(run, floor, chunks * high, selector="none", **share)
            for selector, gain in (("oracle", 0.9), ("attention", 0.5), ("random", 0.1)):
                for k in (0, 1, 2, 4):
                    chance = floor + (0.88 - floor) * gain * min(1.0, k / 2)
                    kept = chunks * high + k * (32 - high)
                    cell(run, chance, kept, selector=selector, top_k=k, **share)
    return found
