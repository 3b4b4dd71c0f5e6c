"""How often x2l_tiny is right on needle videos with full KVs, by task, with 95 % intervals.

`python -m experiments.x2l_tiny.eval --split dev --seconds 32 128 256 --videos 50`. Reads the video files
like any other, one frame a second, and lets the stock model answer all questions of a video in one
packed pass; `check_packing` compares that pass with the stock forward, question by question.
"""

import argparse
import json
import math

import torch

from experiments.x2l_tiny import folder  # noqa: F401  (first: it makes transformers importable without CUDA)

# isort: split
from transformers import AutoModelForImageTextToText, AutoProcessor

from experiments.x2l_tiny.packed import IGNORED, Packed, logits, positions
from experiments.x2l_tiny.tower import features
from x2l.benchmarks.base import Sample
from x2l.benchmarks.needle.benchmark import Needle
from x2l.video import read_frames

TAIL = "<|im_end|>\n<|im_start|>assistant\n"


def pack_video(model, processor, benchmark: Needle, samples: list[Sample]) -> Packed:
    """One video with all its questions; the label of each block is its answer's letter."""
    frames = read_frames(samples[0].video, None, 1.0)
    steps = len(frames.pixels) // 2
    said = features(model, processor, frames.pixels.unflatten(0, (steps, 2)))
    encode = processor.tokenizer.encode
    token = torch.arange(steps * 16)
    blocks = [encode(benchmark.prompt(sample) + TAIL) for sample in samples]
    labels = [
        [IGNORED] * (len(block) - 1) + encode(sample.answer)
        for block, sample in zip(blocks, samples, strict=True)
    ]
    return Packed(
        prefix=torch.tensor(
            encode(
                "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
                "<|im_start|>user\n<|vision_start|>"
            )
        ),
        visual=said.reshape(1, steps * 16, -1),
        grid=torch.stack([token // 16 * 2, token % 16 // 4, token % 4])[:, None],
        after=processor.tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        lengths=tuple(len(block) for block in blocks),
        questions=torch.tensor([sum(blocks, [])]),
        labels=torch.tensor([sum(labels, [])]),
        kinds=(0,) * len(blocks),
    )


@torch.no_grad()
def evaluate(model, processor, benchmark: Needle) -> dict[str, list[list[int]]]:
    """Marks (0 / 1) by task, one list for each video."""
    benchmark.prepare()
    by_video: dict[str, list[Sample]] = {}
    for sample in benchmark.samples():
        by_video.setdefault(sample.video_id, []).append(sample)
    marks: dict[str, list[list[int]]] = {task: [] for task in benchmark.tasks}
    for samples in by_video.values():
        packed = pack_video(model, processor, benchmark, samples)
        right = logits(model, packed).argmax(-1) == packed.labels[packed.labels != IGNORED]
        for task in benchmark.tasks:
            marks[task].append(
                [int(r) for r, s in zip(right, samples, strict=True) if s.task == task]
            )
    return marks


def summary(marks: list[list[int]]) -> dict[str, float]:
    """Accuracy, its 95 % half width (clustered by video) and the number of questions."""
    number = sum(len(video) for video in marks)
    mean = sum(sum(video) for video in marks) / number
    spread = sum((sum(video) - mean * len(video)) ** 2 for video in marks)
    half = 1.96 * math.sqrt(spread * len(marks) / max(len(marks) - 1, 1)) / number
    return {"accuracy": round(mean, 4), "half_width": round(half, 4), "n": number}


def table(marks: dict[str, list[list[int]]]) -> dict[str, dict[str, float]]:
    """`summary` for each task and over all."""
    together = [sum(videos, []) for videos in zip(*marks.values(), strict=True)]
    return {"all": summary(together)} | {task: summary(videos) for task, videos in marks.items()}


@torch.no_grad()
def check_packing(model, processor, benchmark: Needle) -> float:
    """Largest difference between the packed pass and the stock forward, question by question."""
    samples = [s for s in benchmark.samples() if s.video_id == benchmark.samples()[0].video_id]
    packed = pack_video(model, processor, benchmark, samples)
    model.get_decoder().set_attn_implementation("packed")
    fast = logits(model, packed)
    model.get_decoder().set_attn_implementation("sdpa")
    embed = model.get_input_embeddings()
    worst, at = 0.0, 0
    for number, length in enumerate(packed.lengths):
        block = packed.questions[:, at : at + length]
        one = Packed(
            packed.prefix,
            packed.visual,
            packed.grid,
            packed.after,
            (length,),
            block,
            packed.labels[:, at : at + length],
            (0,),
        )
        parts = [
            embed(packed.prefix)[None],
            packed.visual,
            embed(torch.tensor([[packed.after]])),
            embed(block),
        ]
        hidden = model.get_decoder()(
            inputs_embeds=torch.cat(parts, 1), position_ids=positions(one), use_cache=False
        ).last_hidden_state
        slow = model.lm_head(hidden[:, -1])[0]
        worst = max(worst, (slow - fast[number]).abs().max().item())
        at += length
    model.get_decoder().set_attn_implementation("packed")
    return worst


def main() -> None:
    """Prints a table as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="x2l/models/x2l_tiny")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, nargs="+", default=[128])
    parser.add_argument("--videos", type=int, default=50)
    parser.add_argument("--questions", type=int, default=2)
    parser.add_argument("--root", default="outputs/data")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scene", default="plain", help="plain or crowded")
    parser.add_argument("--in-view", type=int, default=4, help="objects in view in crowded scenes")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = AutoModelForImageTextToText.from_pretrained(given.model, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(given.model)
    model.get_decoder().set_attn_implementation("packed")
    for seconds in given.seconds:
        benchmark = Needle(
            given.root,
            split=given.split,
            seed=given.seed,
            videos=given.videos,
            seconds=seconds,
            questions=given.questions,
            scene=given.scene,
            in_view=given.in_view,
        )
        marks = evaluate(model, processor, benchmark)
        line = {"split": given.split, "seconds": seconds, "videos": given.videos}
        if given.scene == "crowded":
            line |= {"scene": given.scene, "in_view": given.in_view}
        print(json.dumps(line | table(marks)), flush=True)
    print(json.dumps({"packed_against_stock": check_packing(model, processor, benchmark)}))


if __name__ == "__main__":
    main()
