"""Peak memory of pre-fill against the number of frames: flat apart from the KVs themselves.

    python -m experiments.speed.memory       # -> experiments/results/memory/memory.json, memory.png

A random Qwen2.5-VL (8 layers x 512, fp32) on the CPU; 64 x 64 pixels a frame, 16 visual tokens a pair. Each figure has
a process of its own: its largest resident size during pre-fill (Linux, VmHWM), less what stood before: weights,
libraries, and the decoded frames (12 kB each), which every way has to hold. Stock is the one-shot forward of the same
weights: processor, vision tower and language model on the whole video. KVs include their positions and weights.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from experiments.speed.peaks import memory, reset_peak
from experiments.speed.prefill import build
from x2l.compressors.base import Level
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.flops import kv_bytes
from x2l.engine.prefill import prefill
from x2l.models.huggingface import HFVideoModel
from x2l.runs.run_info import describe, processor_name
from x2l.video import Frames

SIDE, CHUNK_FRAMES, RATIOS = 64, 16, (2, 32)
# The allocator is told to give back what is freed at once; otherwise the resident size is that of its leftovers.
EXACT = {"MALLOC_MMAP_THRESHOLD_": "8192", "MALLOC_TRIM_THRESHOLD_": "0"}
WAYS = {"stock": None, "context full": "full", "context high": "high"}
COLOURS = {"stock": "#777777", "context full": "#0072B2", "context high": "#D55E00"}
RESULTS = Path(__file__).parents[1] / "results" / "memory"


def video(count: int) -> Frames:
    """Random pictures, one a second."""
    pixels = torch.randint(0, 256, (count, SIDE, SIDE, 3), dtype=torch.uint8)
    seconds = torch.arange(count, dtype=torch.float64)
    return Frames(pixels, seconds, 1.0, float(count), "-", "-")


def measure(way: str, count: int, layers: int, hidden: int) -> dict[str, float]:
    """Peak bytes and KV bytes of one pre-fill in this process, after a warm-up on a short video."""
    hf, processor = build(layers, hidden, "cpu")
    processor.video_processor.size = {"shortest_edge": SIDE**2, "longest_edge": SIDE**2}
    model = HFVideoModel(hf, processor)
    low, high = (Level(KeyNorm(), ratio) for ratio in RATIOS)
    for frames in (video(2 * CHUNK_FRAMES), video(count)):
        reset_peak("cpu")
        before, start = memory("cpu", "VmRSS"), time.perf_counter()
        if WAYS[way] is None:
            tokens = stock(model, frames)
            kept = kv_bytes(model.shape, tokens)
        else:
            prompt = model.prompt(frames, CHUNK_FRAMES)
            store = prefill(model, prompt, {"low": low, "high": high}, context=WAYS[way])
            # What stands when the last chunk is done: both levels, and the context that chunks attended to.
            stored = {
                name: sum(kv.stored_bytes for kv in kvs) for name, kvs in store.levels.items()
            }
            kept = sum(stored.values()) + store.prefix.stored_bytes
            kept += stored["high"] if WAYS[way] == "high" else kv_bytes(model.shape, prompt.tokens)
            tokens = prompt.tokens
    return {
        "frames": count,
        "tokens": tokens,
        "peak": memory("cpu", "VmHWM") - before,
        "kvs": kept,
        "seconds": time.perf_counter() - start,
    }


def stock(model: HFVideoModel, frames: Frames) -> int:
    """The stock forward on the whole video; returns the number of tokens."""
    model.decoder.set_attn_implementation("sdpa")
    text = model.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What?"}]}],
        tokenize=False,
    )
    inputs = model.processor(
        text=[text],
        videos=[frames.pixels.permute(0, 3, 1, 2)],
        videos_kwargs={"do_sample_frames": False, "cap_pixels_per_frame": False},
        return_tensors="pt",
    )
    with torch.no_grad():
        model.hf(**inputs, use_cache=True, logits_to_keep=1)
    return int(inputs["input_ids"].shape[1])


def draw(rows: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Left: peak and KVs. Right: peak less KVs, which is to be flat but for bookkeeping."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    for way, points in rows.items():
        frames = [p["frames"] for p in points]
        colour, kvs = COLOURS[way], [p["kvs"] / 1e6 for p in points]
        peaks = [p["peak"] / 1e6 for p in points]
        left.plot(frames, peaks, color=colour, marker="o", ms=3, label=f"{way}: peak")
        if way != "stock":
            left.plot(frames, kvs, color=colour, ls="--", lw=1, label=f"{way}: KVs")
        rest = [peak - kv for peak, kv in zip(peaks, kvs, strict=True)]
        right.plot(frames, rest, color=colour, marker="o", ms=3, label=way)
    for axes, title in ((left, "Peak memory of pre-fill, MB"), (right, "The same less KVs, MB")):
        axes.set(xlabel="frames", title=title, xlim=(0, None), ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Measures, prints one table, writes JSON and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--frames", type=int, nargs="+", default=[32, 64, 128, 256, 512, 1024], metavar="N"
    )
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", choices=WAYS, help="internal: measure in this process")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.frames[0], given.layers, given.hidden)))
        return
    shape = ["--layers", str(given.layers), "--hidden", str(given.hidden)]
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    print(f"{'':14s} {'frames':>6s} {'tokens':>7s} {'peak MB':>8s} {'KVs MB':>8s} {'rest MB':>8s}")
    for way in WAYS:
        for count in given.frames:
            command = [
                sys.executable,
                "-m",
                "experiments.speed.memory",
                "--one",
                way,
                "--frames",
                str(count),
                *shape,
            ]
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, env={**os.environ, **EXACT}
            )
            point = json.loads(done.stdout.splitlines()[-1])
            rows[way].append(point)
            peak, kvs = point["peak"] / 1e6, point["kvs"] / 1e6
            print(
                f"{way:14s} {count:6d} {point['tokens']:7d} {peak:8.1f} {kvs:8.1f} {peak - kvs:8.1f}"
            )
    given.out.mkdir(parents=True, exist_ok=True)
    info = describe("bench_memory", vars(given), "cpu", processor_name(), torch.get_num_threads())
    about = {
        "commit": info.commit,
        "dirty": info.dirty,
        "processor": info.processor,
        "versions": dict(info.versions),
        "layers": given.layers,
        "hidden": given.hidden,
        "chunk_frames": CHUNK_FRAMES,
        "ratios": RATIOS,
    }
    (given.out / "memory.json").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    draw(rows, given.out / "memory.png")
    print(f"{given.out / 'memory.png'}, {given.out / 'memory.json'}")


if __name__ == "__main__":
    main()
