"""What a sweep costs beside one cell, and what kept pre-fills save: seconds and FLOPs, x2l_tiny on needle.

    python -m experiments.speed.sweep      # two lengths of video, about four minutes on one core of its own

One process and one thread, the model loaded once (what start-up takes is told apart). In turn: one cell, the sweep of
4 selectors x 6 top_k, both with `decode.batch=1`, the sweep with an empty `prefill.cache`, a second sweep over other
selectors with that cache, and without one; the whole order again `--repeats` times, medians of seconds and of ratios
within a round. Stages are summed over what was really computed: cells that re-load the same chunks share one decoding,
a selector's relevance serves all its top_k.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

# Stages are then timed in seconds of this process, which other work on the machine does not lengthen.
_wall = time.perf_counter
time.perf_counter = time.process_time

from x2l.cli.compose import build_benchmark, composed, engine  # noqa: E402
from x2l.engine.stages import QUESTION_STAGES, STAGES  # noqa: E402
from x2l.evaluation.runner import run  # noqa: E402
from x2l.runs.records import load  # noqa: E402
from x2l.runs.run_info import describe, processor_name  # noqa: E402
from x2l.runs.trackers.base import NoTracker  # noqa: E402

TOP_K = (0, 1, 2, 4, 6, 8)
FIRST = ("attention", "embedding", "oracle", "random")
SECOND = ("uniform", "first_last", "last", "hit_rate")
LENGTHS = {"128 frames": 128, "512 frames": 512}  # always 16 chunks
VIDEO_PART = ("read", "vision", "prefill", "compression")
OUT = Path(__file__).parents[1] / "results" / "sweep"


def distinct(records, kind):
    """Seconds or FLOPs by stage, each measurement once: a video's, a selector's of a question, a decoding's."""
    seen, totals = set(), dict.fromkeys(("read", "load", *STAGES), 0)
    for r in records:
        whose = {
            **dict.fromkeys(("read", "load", *STAGES), r.video.video_id),
            "selection": (r.question.sample_id, r.condition.selector),
            **dict.fromkeys(("reload", "decode"), (r.question.sample_id, r.selected)),
        }
        by_stage = r.seconds if kind == "seconds" else r.flops
        for stage, owner in whose.items():
            value = by_stage.get(stage)
            if stage == "load" and kind == "seconds":
                value = r.video.seconds_prefill_load
            if value is not None and (stage, owner) not in seen:
                seen.add((stage, owner))
                totals[stage] += value
    if (
        kind == "seconds" and totals["load"]
    ):  # the pre-fill was not computed: its seconds are another run's
        totals |= dict.fromkeys(("vision", "prefill", "compression"), 0.0)
    return totals


def measured(made, benchmark, model, folder, selectors, top_k, cache=None, batch="auto"):
    """Runs some cells over all videos; seconds, and what they went into."""
    used = replace(
        made.settings, selectors=selectors, top_k=top_k, prefill_cache=cache, batch=batch
    )
    info = describe(used.run_id, {}, "cpu", "", 1)
    chosen = {name: made.selectors[name] for name in selectors}
    start, started = time.perf_counter(), _wall()
    done = run(used, benchmark, lambda: model, made.levels, chosen, folder, info, NoTracker())
    seconds, wall = time.perf_counter() - start, _wall() - started
    assert done.added == done.expected and not done.errors
    records = load(folder)
    decodings = len({(r.question.sample_id, r.selected) for r in records})
    return {
        "seconds": seconds,
        "wall": wall,
        "answers": len(records),
        "decodings": decodings,
        "by_stage": distinct(records, "seconds"),
        "flops": distinct(records, "flops"),
        "prefill_load": [
            r.video.seconds_prefill_load
            for r in records
            if r.video.seconds_prefill_load is not None
        ],
    }


def rounds(frames, videos, repeats, model):
    """All measurements at one length."""
    overrides = [
        f"selector=[{','.join((*FIRST, *SECOND))}]",
        f"top_k=[{','.join(map(str, TOP_K))}]",
        f"benchmark.seconds={frames}",
        f"benchmark.videos={videos}",
        f"video.frames={frames}",
        f"prefill.chunk_frames={frames // 16}",
        "tracker=none",
    ]
    made, benchmark = engine(overrides), build_benchmark(composed(overrides))
    benchmark.prepare()
    found = []
    with tempfile.TemporaryDirectory() as place:  # what is done once a process
        measured(made, benchmark, model, Path(place), FIRST[:1], (2,), str(Path(place) / "cache"))
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as place:
            root, cache = Path(place), str(Path(place) / "cache")

            def one(name, selectors, top_k, cache=None, batch="auto", root=root):
                return measured(made, benchmark, model, root / name, selectors, top_k, cache, batch)

            result = {
                "cell": one("cell", FIRST[:1], (2,)),
                "sweep": one("sweep", FIRST, TOP_K),
                "cell, decode.batch=1": one("cell1", FIRST[:1], (2,), batch=1),
                "sweep, decode.batch=1": one("sweep1", FIRST, TOP_K, batch=1),
                "sweep, cache empty": one("empty", FIRST, TOP_K, cache),
                "second sweep, cache warm": one("warm", SECOND, TOP_K, cache),
                "second sweep, no cache": one("second", SECOND, TOP_K),
                "cell, cache warm": one("cellwarm", FIRST[:1], (2,), cache),
            }
            sizes = [path.stat().st_size for path in Path(cache).iterdir()]
        found.append(result)
    return found, statistics.mean(sizes)


def answering(result):
    """Seconds of re-loading and decoding."""
    return result["by_stage"]["reload"] + result["by_stage"]["decode"]


def ratio(found, one, other, kind="seconds"):
    """Median over rounds of seconds of one by seconds of another."""
    return statistics.median(r[one][kind] / r[other][kind] for r in found)


def summary(found, file_bytes):
    """Medians of what the table shows."""
    names = list(found[0])
    median = {name: statistics.median(r[name]["seconds"] for r in found) for name in names}
    total = {name: sum(found[0][name]["flops"].values()) for name in names}
    stages = {
        name: {
            stage: statistics.median(r[name]["by_stage"][stage] for r in found)
            for stage in found[0][name]["by_stage"]
        }
        for name in names
    }
    loads = [value for r in found for value in r["second sweep, cache warm"]["prefill_load"]]
    return {
        "seconds": median,
        "answers": {name: found[0][name]["answers"] for name in names},
        "decodings": {name: found[0][name]["decodings"] for name in names},
        "stages": stages,
        "sweep / cell": ratio(found, "sweep", "cell"),
        "sweep / cell, wall": ratio(found, "sweep", "cell", "wall"),
        "sweep / cell, decode.batch=1": ratio(
            found, "sweep, decode.batch=1", "cell, decode.batch=1"
        ),
        "re-load and decode, decode.batch=1 / auto": statistics.median(
            answering(r["sweep, decode.batch=1"]) / answering(r["sweep"]) for r in found
        ),
        "sweep / cell, FLOPs": total["sweep"] / total["cell"],
        "second sweep warm / sweep": ratio(found, "second sweep, cache warm", "sweep"),
        "second sweep warm / sweep, wall": ratio(
            found, "second sweep, cache warm", "sweep", "wall"
        ),
        "second sweep warm / no cache": ratio(
            found, "second sweep, cache warm", "second sweep, no cache"
        ),
        "cell warm / cell": ratio(found, "cell, cache warm", "cell"),
        "cache empty / no cache": ratio(found, "sweep, cache empty", "sweep"),
        "cache empty / no cache, wall": ratio(found, "sweep, cache empty", "sweep", "wall"),
        "seconds to load one": statistics.median(loads),
        "bytes of one": file_bytes,
    }


def of_one_question(result, videos):
    """The sweep by the cell if each video had one question: what is paid for a video, and for a question of it."""
    once = sum(result["stages"]["cell"][stage] for stage in VIDEO_PART) / videos

    def question(name):
        own = sum(result["stages"][name][stage] for stage in VIDEO_PART)
        return (result["seconds"][name] - own) / result["answers"]["cell"]

    return (once + question("sweep")) / (once + question("cell"))


def table(results, given, start_up):
    """The results in Markdown."""
    lines = [
        f"Measured by `python -m experiments.speed.sweep`: x2l_tiny, needle, {given.videos} videos of 6 questions, "
        f"16 chunks, {processor_name()}, one thread, torch {torch.__version__}; medians of {given.repeats} rounds, "
        "processor seconds (in brackets: wall seconds, on a shared machine). Start-up (imports and loading the model) "
        f"took {start_up:.1f} s and is in none of the numbers. First sweep: {', '.join(FIRST)} x top_k={list(TOP_K)}; "
        f"second: {', '.join(SECOND)} x the same.",
        "",
        "| | " + " | ".join(results) + " |",
        "| --- |" + " --- |" * len(results),
    ]

    def row(label, value):
        lines.append(f"| {label} | " + " | ".join(value(r) for r in results.values()) + " |")

    for name in next(iter(results.values()))["seconds"]:
        row(
            f"{name}: seconds (answers, decodings)",
            lambda r, n=name: f"{r['seconds'][n]:.2f} ({r['answers'][n]}, {r['decodings'][n]})",
        )
    row(
        "**24 cells / 1 cell**",
        lambda r: f"**{r['sweep / cell']:.2f}x** ({r['sweep / cell, wall']:.2f}x)",
    )
    row(
        "24 cells / 1 cell, both with `decode.batch=1`",
        lambda r: f"{r['sweep / cell, decode.batch=1']:.2f}x",
    )
    row(
        "re-loading and decoding of the sweep, `decode.batch=1` / `auto`",
        lambda r: f"{r['re-load and decode, decode.batch=1 / auto']:.1f}x",
    )
    row("24 cells / 1 cell, FLOPs", lambda r: f"{r['sweep / cell, FLOPs']:.2f}x")
    row(
        "24 cells / 1 cell, had each video one question (computed from the stages)",
        lambda r: f"{of_one_question(r, given.videos):.2f}x",
    )
    row(
        "**second sweep with the cache warm / first sweep**",
        lambda r: (
            f"**{100 * r['second sweep warm / sweep']:.0f} %** ({100 * r['second sweep warm / sweep, wall']:.0f} %)"
        ),
    )
    row(
        "second sweep, cache warm / without a cache",
        lambda r: f"{100 * r['second sweep warm / no cache']:.0f} %",
    )
    row("one cell, cache warm / without a cache", lambda r: f"{100 * r['cell warm / cell']:.0f} %")
    row(
        "filling the cache: sweep with / without",
        lambda r: f"{r['cache empty / no cache']:.2f}x ({r['cache empty / no cache, wall']:.2f}x)",
    )
    row(
        "a kept pre-fill: MB, ms to load (its check included)",
        lambda r: f"{r['bytes of one'] / 1e6:.1f}, {1e3 * r['seconds to load one']:.1f}",
    )
    lines += [
        "",
        "Where the seconds go (the rest is bookkeeping: records, selection of chunks, status):",
        "",
    ]
    names = ("cell", "sweep", "sweep, decode.batch=1", "second sweep, cache warm")
    shown = ("read", "load", "vision", "prefill", "compression", *QUESTION_STAGES)
    lines += ["| | " + " | ".join(shown) + " | rest |", "| --- |" + " --- |" * (len(shown) + 1)]
    for length, r in results.items():
        for name in names:
            own = r["stages"][name]
            rest = r["seconds"][name] - sum(own[stage] for stage in shown)
            cells = " | ".join(f"{own[stage]:.2f}" for stage in shown)
            lines.append(f"| {length}: {name} | {cells} | {rest:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, prints the table, writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = engine(["tracker=none"]).load_model()
    start_up = time.process_time()  # of all since the process began
    measurements = {
        length: rounds(frames, given.videos, given.repeats, model)
        for length, frames in LENGTHS.items()
    }
    results = {length: summary(*found) for length, found in measurements.items()}
    text = table(results, given, start_up)
    print(text)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "table.md").write_text(text)
    facts = {
        "processor": processor_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "videos": given.videos,
        "repeats": given.repeats,
        "start_up_seconds": start_up,
        "results": results,
    }
    (given.out / "sweep.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
