"""How well every selector finds the chunks, and what that takes: recall@k against FLOPs and bytes.

`python experiments/selection/recall.py [--heads FILE] [--out FILE] [--only NAME ...] [overrides of x2l]`

By default the needle benchmark's dev split (seed 3, 16 videos of 128 frames) on x2l_tiny, tome 32x over 2x. Calibrated
selectors take their heads from FILE; without one they are found first, on the train split, by x2l-calibrate. Nothing is
decoded. Intervals count videos.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from x2l.analysis.statistics import Outcome, accuracy
from x2l.cli.calibrate import calibrate
from x2l.cli.compose import build_benchmark, composed, engine
from x2l.engine.assignment import select
from x2l.engine.ground_truth import gt_chunks, truth_scores
from x2l.evaluation.progress import Progress
from x2l.evaluation.session import Session, open_session
from x2l.selectors.base import ChunkSelector, Query
from x2l.video import read_frames

DEFAULTS = ("benchmark.split=dev", "benchmark.seed=3", "video.frames=128", "top_k=1")
KS = (1, 2, 4)
# Name in the table -> overrides; HEADS stands for the calibration.
SELECTORS = {
    "random": ["selector=random"],
    "last": ["selector=last"],
    "ground-truth chunks": ["selector=oracle"],
    "attention": ["selector=attention"],
    "keys, calibrated": ["selector=keys", "selector.keys.heads=HEADS"],
    "keys, calibrated, resident": [
        "selector=keys",
        "selector.keys.heads=HEADS",
        "selector.keys.index=resident",
    ],
    "keys, calibrated, H-keys": [
        "selector=keys",
        "selector.keys.heads=HEADS",
        "selector.keys.level=high",
    ],
    "keys, all heads": ["selector=keys"],
    "keys, all heads, less N/A": ["selector=keys", "selector.keys.null_question=N/A"],
    "keys, all heads, H-keys": ["selector=keys", "selector.keys.level=high"],
    "rekv": ["selector=rekv"],
    "rekv, z-scored": ["selector=rekv", "selector.rekv.combine=z_max"],
    "quest": ["selector=quest"],
    "quest, calibrated": [
        "selector=quest",
        "selector.quest.heads=HEADS",
        "selector.quest.combine=max",
    ],
    "retrieval_heads": ["selector=retrieval_heads", "selector.retrieval_heads.heads=HEADS"],
    "flexmem": ["selector=flexmem"],
    "mem_index": ["selector=mem_index"],
    "shallow_votes": ["selector=shallow_votes"],
    "yes_no": ["selector=yes_no"],
    "probe": ["selector=probe"],
    "retriever": ["selector=retriever"],
    "retriever, question alone": ["selector=retriever", "selector.retriever.options=false"],
}


def measure(
    sessions: Mapping[str, Session],
    selectors: Mapping[str, ChunkSelector],
    samples: Sequence[Any],
    prompts: Mapping[str, str],
) -> list[dict[str, Any]]:
    """One row a selector: recall and its interval, FLOPs and bytes a question."""
    rows = []
    for name, selector in selectors.items():
        recall: dict[int, list[Outcome]] = defaultdict(list)
        flops = streamed = 0
        start = time.perf_counter()
        for sample in samples:
            session = sessions[sample.video_id]
            truth = gt_chunks(session.store.prompt.chunks, sample.spans)
            query = Query(
                session.question(prompts[sample.id], 1),
                sample.id,
                sample.spans,
                sample.question,
                sample.choices,
            )
            rating = session.rate(name, selector, query)
            for k in KS:
                hits = truth_scores(select(rating.relevance, k), truth).recall
                recall[k].append(Outcome(sample.id, sample.video_id, hits))
            flops += rating.meter.flops["selection"]
            streamed += rating.meter.streamed_bytes
        kept = [s.prepared[name].features.nbytes for s in sessions.values() if name in s.prepared]
        row = {"selector": name, "role": selector.role}
        for k in KS:
            of_k = accuracy(recall[k])
            row |= {f"recall@{k}": of_k.value, f"low@{k}": of_k.low, f"high@{k}": of_k.high}
        rows.append(
            row
            | {
                "flops": flops / len(samples),
                "bytes_streamed": streamed / len(samples),
                "bytes_resident": sum(kept) / len(sessions),
                "seconds": (time.perf_counter() - start) / len(samples),
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]], prefill_flops: float, full_bytes: float) -> str:
    """Rows as a Markdown table."""
    head = [
        *(f"recall@{k} (95 %)" for k in KS),
        "FLOPs, % of the pre-fill",
        "streamed, % of the KVs",
    ]
    lines = [" | ".join(["| selector", *head, "resident, % of the KVs", "s |"])]
    lines.append("| --- " * (len(head) + 3) + "|")
    for row in rows:
        cells = [
            f"{row[f'recall@{k}']:.2f} ({row[f'low@{k}']:.2f}, {row[f'high@{k}']:.2f})" for k in KS
        ]
        shares = [row["bytes_streamed"] / full_bytes, row["bytes_resident"] / full_bytes]
        cells += [f"{100 * row['flops'] / prefill_flops:.3g}", *(f"{100 * s:.3g}" for s in shares)]
        lines.append(" | ".join([f"| {row['selector']}", *cells, f"{row['seconds']:.2f} |"]))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--heads", default=None)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--only", nargs="*", default=None)
    options = parser.parse_intermixed_args(arguments)
    overrides = [*DEFAULTS, *options.settings]
    heads = options.heads
    if heads is None:
        apart = tuple(f"benchmark.{name}=" for name in ("split", "seed", "videos"))
        same = [o for o in options.settings if not o.startswith(apart)]
        train = ["benchmark=needle", "benchmark.split=train", "benchmark.videos=8"]
        heads = str(calibrate([*train, "video.frames=128", *same], 24, None))
    selectors = {}
    for name, chosen in SELECTORS.items():
        if options.only is None or name in options.only:
            made = engine([*overrides, *(o.replace("HEADS", heads) for o in chosen)])
            (selectors[name],) = made.selectors.values()
    base = engine(overrides)
    benchmark, settings = build_benchmark(composed(overrides)), base.settings
    benchmark.prepare()
    samples, model = benchmark.samples(), base.load_model()
    sessions, prompts = {}, {}
    videos = [list(group) for _, group in groupby(samples, key=lambda sample: sample.video_id)]
    with Progress(len(videos), "pre-fill, videos", unit="video") as progress:
        for about in videos:
            frames = read_frames(about[0].video, settings.frames, settings.fps, settings.reader)
            prompt = model.prompt(frames, settings.chunk_frames)
            sessions[about[0].video_id] = open_session(
                model,
                frames,
                prompt,
                base.levels,
                settings.context,
                settings.positions,
                settings.seed,
                selectors,
            )
            seconds = frames.seconds.tolist()
            prompts |= {sample.id: benchmark.prompt(sample, seconds) for sample in about}
            progress.advance()
    known = [sample for sample in samples if sample.spans]
    rows = measure(sessions, selectors, known, prompts)
    flops = sum(s.meter.flops["prefill"] + s.meter.flops["vision"] for s in sessions.values())
    full = sum(s.kv_bytes_full for s in sessions.values())
    print(table(rows, flops / len(sessions), full / len(sessions)))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
