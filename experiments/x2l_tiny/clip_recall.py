"""Recall of x2l_tiny_clip: are the chunks that a question needs among the k it rates best?

`python -m experiments.x2l_tiny.clip_recall` prints one line a scene, with and without options: the mean over
questions of the share of needed chunks (those that the ground-truth spans touch) among the best 1, 2, 4.
Frames and pooling are those of `selector=retriever`: one frame a second, chunks of eight, maximum.
"""

import argparse
import json

import torch

from experiments.x2l_tiny import folder as tiny_folder  # noqa: F401  (first: it makes transformers importable without CUDA)
from x2l.benchmarks.needle.benchmark import Needle
from x2l.selectors.dual_encoder import TwoTowers
from x2l.video import read_frames

CHUNK = 8  # frames, and seconds
KEPT = (1, 2, 4)


def recalls(towers: TwoTowers, benchmark: Needle, options: bool) -> dict[str, dict[int, float]]:
    """Mean recall at each of `KEPT`, over all questions and by task."""
    found: dict[str, list[list[float]]] = {"all": []}
    pictures: dict[str, torch.Tensor] = {}
    for sample in benchmark.samples():
        if sample.video not in pictures:
            pictures = {sample.video: towers.pictures(read_frames(sample.video, None, 1.0).pixels)}
        words = " ".join([sample.question, *sample.choices]) if options else sample.question
        scores = (pictures[sample.video] @ towers.text(words)).unflatten(0, (-1, CHUNK)).amax(1)
        needed = {int(start) // CHUNK for start, _ in sample.spans}
        best = scores.argsort(descending=True).tolist()
        row = [len(needed & set(best[:k])) / len(needed) for k in KEPT]
        found["all"].append(row)
        found.setdefault(sample.task, []).append(row)
    return {
        task: {
            k: round(sum(column) / len(rows), 3)
            for k, column in zip(KEPT, zip(*rows, strict=True), strict=True)
        }
        for task, rows in found.items()
    }


def main() -> None:
    """Prints the recalls as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="x2l_tiny_clip")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--root", default="outputs/data/needle")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    towers = TwoTowers.load(given.model, "cpu", "float32", None, 64)
    for scene, in_view in (("plain", 4), ("crowded", 2), ("crowded", 4)):
        benchmark = Needle(
            given.root,
            split=given.split,
            seed=given.seed,
            videos=given.videos,
            scene=scene,
            in_view=in_view,
        )
        benchmark.prepare()
        for options in (True, False):
            line = {
                "scene": scene,
                "in_view": in_view if scene == "crowded" else 1,
                "options": options,
            }
            print(json.dumps(line | recalls(towers, benchmark, options)), flush=True)


if __name__ == "__main__":
    main()
