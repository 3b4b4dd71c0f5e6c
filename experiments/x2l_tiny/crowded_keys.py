"""How many different keys a chunk holds, layer by layer, on plain and crowded scenes.

`python -m experiments.x2l_tiny.crowded_keys` writes experiments/results/crowded/distinct_keys.csv. Keys are the
layer's, all heads side by side, before rotary positions (after them the same thing at another moment is
another key). Two keys are the same where their cosine is above 0.9: keys are taken in order and each that
is like none of those counted before is counted. `largest` is the share of the most frequent one.
"""

import argparse
import csv
from pathlib import Path

import torch

from experiments.x2l_tiny import folder as tiny_folder  # noqa: F401  (first: it makes transformers importable without CUDA)

# isort: split
from transformers import AutoModelForImageTextToText, AutoProcessor

from experiments.x2l_tiny.eval import pack_video
from experiments.x2l_tiny.packed import positions
from x2l.benchmarks.needle.benchmark import Needle

SAME = 0.9
CHUNK = 64  # visual tokens: eight seconds


def distinct(keys: torch.Tensor) -> tuple[int, float]:
    """Number of different keys among (tokens, width), and the share of the most frequent one."""
    unit = torch.nn.functional.normalize(keys, dim=-1)
    free = torch.ones(len(unit), dtype=torch.bool)
    sizes = []
    while free.any():
        first = unit[free][0]
        like = free & (unit @ first > SAME)
        like |= free & (torch.arange(len(unit)) == free.nonzero()[0, 0])
        sizes.append(int(like.sum()))
        free &= ~like
    return len(sizes), max(sizes) / len(keys)


@torch.no_grad()
def keys_of_video(model, processor, benchmark: Needle, samples: list) -> list[torch.Tensor]:
    """(visual tokens, width) of each layer."""
    packed = pack_video(model, processor, benchmark, samples[:1])
    decoder = model.get_decoder()
    kept: list[torch.Tensor] = []
    hooks = [
        layer.self_attn.k_proj.register_forward_hook(lambda m, i, out: kept.append(out[0]))
        for layer in decoder.layers
    ]
    start, tokens = len(packed.prefix), packed.visual.shape[1]
    embeds = torch.cat([model.get_input_embeddings()(packed.prefix)[None], packed.visual], 1)
    decoder(
        inputs_embeds=embeds,
        position_ids=positions(packed)[..., : start + tokens],
        use_cache=False,
    )
    for hook in hooks:
        hook.remove()
    return [keys[start : start + tokens] for keys in kept]


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="x2l/models/x2l_tiny")
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--root", default="outputs/data/needle")
    parser.add_argument("--to", default="experiments/results/crowded/distinct_keys.csv")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = AutoModelForImageTextToText.from_pretrained(given.model, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(given.model)
    target = Path(given.to)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["scene", "in_view", "layer", "videos", "distinct", "largest"])
        for scene, in_view in (("plain", 0), ("crowded", 2), ("crowded", 4)):
            benchmark = Needle(
                given.root,
                split="dev",
                seed=3,
                videos=given.videos,
                scene=scene,
                in_view=in_view or 4,
            )
            benchmark.prepare()
            by_video: dict[str, list] = {}
            for sample in benchmark.samples():
                by_video.setdefault(sample.video_id, []).append(sample)
            layers: list[list[tuple[int, float]]] = []
            for samples in by_video.values():
                keys = keys_of_video(model, processor, benchmark, samples)
                layers.append([distinct(chunk) for layer in keys for chunk in layer.split(CHUNK)])
            chunks = len(keys[0]) // CHUNK
            for layer in range(len(keys)):
                found = [pair for video in layers for pair in video[layer * chunks :][:chunks]]
                number = sum(pair[0] for pair in found) / len(found)
                largest = sum(pair[1] for pair in found) / len(found)
                row = [scene, in_view or 1, layer, given.videos, f"{number:.1f}", f"{largest:.2f}"]
                rows.writerow(row)
                print(*row, flush=True)


if __name__ == "__main__":
    main()
