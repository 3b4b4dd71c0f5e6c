"""What KVs take as they wait: keys and values, and where each belongs, by codec and by kind of method.

    python -m experiments.docs.bytes_table   # a minute -> experiments/results/bytes/bytes.md

Positions (three rotary axes) and weights are stored with the KVs: as computed they are a number of four bytes each,
which records before schema 3 did not count; now they are stored in the least type that holds them, and counted
(`x2l.kv.Compact`). Real chunks of a needle video by x2l_tiny, and chunks of 1440 random tokens of one layer as wide as
Qwen2.5-VL-7B's in bfloat16.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

import x2l.models  # noqa: F401 - before transformers: it lets the processors import
from experiments.speed.compressors import SEVEN_B, SIDE, video
from experiments.speed.prefill import build
from x2l.benchmarks.needle.benchmark import Needle
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.compressors.pruning_controls import UniformPruning
from x2l.compressors.quantisation import Quantised
from x2l.engine.prefill import prefill
from x2l.kv import StoredKV
from x2l.models import loading
from x2l.models.huggingface import HFVideoModel
from x2l.models.interface import VideoModel
from x2l.models.prompt import Prompt
from x2l.video import read_frames

OUT = Path(__file__).parents[1] / "results" / "bytes"
RATIO = 8
METHODS = {
    "key_norm: every head its own": KeyNorm(),
    "uniform: the same of all heads": UniformPruning(),
    "tome: merged, with weights": ToMe(),
}
CODECS = {"none": None, "int8": Quantised(bits=8), "int4": Quantised(bits=4)}


def tiny(folder: str) -> tuple[VideoModel, Prompt]:
    """x2l_tiny and 32 frames of a needle video."""
    needle = Needle(folder, videos=1, seconds=32, needles=4)
    needle.prepare()
    model = loading.load("x2l_tiny")
    return model, model.prompt(read_frames(next(iter(needle.samples())).video, 32, None), 8)


def wide() -> tuple[VideoModel, Prompt]:
    """A layer of 7B width with random weights, and two chunks of 1440 tokens."""
    hf, processor = build(
        1, SEVEN_B["hidden"], "cpu", SEVEN_B["heads"], SEVEN_B["kv_heads"], SEVEN_B["wide"]
    )
    processor.video_processor.size = {"shortest_edge": SIDE**2, "longest_edge": SIDE**2}
    model = HFVideoModel(hf.to(torch.bfloat16), processor)
    return model, model.prompt(video(2), 20)


def as_computed(kv: StoredKV) -> int:
    """Bytes of positions and weights, four a number, for every KV that has its own."""
    layers = [layer.decode() for layer in kv.layers]
    return sum(4 * (layer.positions.numel() + layer.weights.numel()) for layer in layers)


def rows(name: str, model: VideoModel, prompt: Prompt) -> Iterator[str]:
    """A line of the table for each method and codec."""
    levels = {
        f"{method} {codec}": Level(METHODS[method], RATIO, CODECS[codec])
        for method in METHODS
        for codec in CODECS
    }
    store = prefill(model, prompt, levels)
    for method in METHODS:
        for codec in CODECS:
            chunks = store.levels[f"{method} {codec}"]
            kv_bytes = sum(kv.nbytes for kv in chunks)
            before, now = (
                sum(as_computed(kv) for kv in chunks),
                sum(kv.stored_bytes - kv.nbytes for kv in chunks),
            )
            yield (
                f"| {name} | {method} | {codec} | {kv_bytes:,} | {before:,} ({before / kv_bytes:.1%}) "
                f"| {now:,} ({now / kv_bytes:.1%}) |"
            )


def main() -> None:
    """Writes the table."""
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        lines = [
            *rows("x2l_tiny, fp32", *tiny(folder)),
            *rows("7B width, bf16", *wide()),
        ]
    OUT.mkdir(parents=True, exist_ok=True)
    head = (
        f"Written by `python -m experiments.docs.bytes_table`; ratio {RATIO}. Positions and weights: bytes, and as a "
        "share of those of keys and values.\n\n"
        "| model | method | codec | keys and values | positions and weights as computed (not counted before schema 3) "
        "| as stored and counted |\n| --- | --- | --- | --- | --- | --- |\n"
    )
    (OUT / "bytes.md").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
