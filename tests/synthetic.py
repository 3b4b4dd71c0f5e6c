"""Records that look like those of a real sweep: what figures and points are tested on."""

import random
from collections.abc import Sequence

from x2l.runs.records import Record

TASKS = ("retrieval", "ordering", "counting")


def record(**changes: object) -> Record:
    """One plausible record, fields replaced by `changes`."""
    values: dict[str, object] = dict(
        run_id="0123456789ab",
        sample_id="v0/q0",
        video_id="v0",
        benchmark="needle",
        task="retrieval",
        group=None,
        tags={"kind": "edit"},
        question="Which colour was the circle?",
        answer="A",
        prediction="A",
        parsed="A",
        correct=1.0,
        selector="attention",
        selector_config="00000000",
        top_k=1,
        pinned=(),
        relevance=(0.5, 0.25, None),
        selected=(0,),
        gt_chunks=(0,),
        recall=1.0,
        precision=1.0,
        kept_low=(32, 32, 32),
        kept_high=(2, 2, 2),
        kv_bytes_resident=4000,
        kv_bytes_reloaded=3200,
        kv_bytes_host=4000,
        kv_bytes_full=20000,
        flops_vision=10**8,
        flops_prefill=10**9,
        flops_compression=10**6,
        flops_selection=10**7,
        flops_reload=0,
        flops_decode=10**7,
        seconds_read=0.1,
        seconds_vision=0.1,
        seconds_prefill=0.4,
        seconds_compression=0.05,
        seconds_selection=0.01,
        seconds_reload=0.001,
        seconds_decode=0.02,
        peak_memory=None,
        peak_memory_prefill=None,
        frames=24,
        fps=1.0,
        duration=24.0,
        chunk_frames=8,
        ratio_low=2.0,
        ratio_high=32.0,
        measured_ratio_low=2.0,
        measured_ratio_high=32.0,
        compressor="tome",
        context="full",
        positions="keep",
        model="x2l_tiny",
        dtype="float32",
        seed=0,
    )
    return Record(**{**values, **changes})  # type: ignore[arg-type]


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

    def cell(run: str, chance: float, kept: int, **changes: object) -> None:
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
                        kv_bytes_resident=resident,
                        kv_bytes_reloaded=reloaded,
                        kv_bytes_host=4000,
                        kv_bytes_full=(chunks * tokens + 40) * size,
                        flops_decode=resident * 900,
                        frames=128,
                        **changes,
                    )
                )

    cell("full", 0.93, chunks * tokens, ratio_low=1.0, ratio_high=1.0, selector="none", top_k=None)
    for number, compressor in enumerate(compressors):
        for ratio in ratios_high:
            run = f"{compressor}{ratio}"
            share = dict(compressor=compressor, ratio_high=ratio)
            high = int(tokens / ratio)
            floor = 0.38 + 0.05 * number + 0.6 / ratio
            cell(run, 0.88, chunks * 32, selector="all", top_k=None, **share)
            cell(run, floor, chunks * high, selector="none", top_k=None, **share)
            for selector, gain in (("oracle", 0.9), ("attention", 0.5), ("random", 0.1)):
                for k in (0, 1, 2, 4):
                    chance = floor + (0.88 - floor) * gain * min(1.0, k / 2)
                    kept = chunks * high + k * (32 - high)
                    cell(run, chance, kept, selector=selector, top_k=k, **share)
    return found
