"""The vision tower on crowded files: frame pairs of real videos, and what the tower says about them.

The tower learns what `tiny_tower` teaches it, colour + shape embedding at each visual token, from files
of the crowded and the plain scene. The join stage then puts videos together from what it says:
whole pairs for plain scenes, quadrants for crowded ones.
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from experiments.x2l_tiny.scenes import SUPERCELLS, Bank, Words
from experiments.x2l_tiny.tower import features, make_bank, score
from x2l.benchmarks.needle.crowded import EMPTY, Crowd, draw_crowd, make_crowd
from x2l.benchmarks.needle.drawing import draw_video
from x2l.benchmarks.needle.scene import COLOURS, SHAPES
from x2l.video import read_frames, write_video

STEPS = 32  # time steps of a training file: 64 seconds
QUADRANTS = ((0, 0), (0, 2), (2, 0), (2, 2))


def loose_crowd(rng: np.random.Generator, steps: int) -> Crowd:
    """A crowd in which every step has another number of objects, 0 to 4, drawn evenly from all symbols."""
    crowd = draw_crowd(rng, steps, 4)
    seen = rng.random((steps, 4)).argsort(1).argsort(1) < rng.choice(
        [0, 1, 2, 3, 4, 4, 4], (steps, 1)
    )
    shape = np.where(seen, rng.integers(0, len(SHAPES), seen.shape), EMPTY)
    return Crowd(
        shape, np.where(seen, crowd.colour, EMPTY), crowd.single, crowd.often, crowd.counts
    )


def crowded_bank(numbers: range, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Frame pairs of crowded files: (pairs, 2, 64, 64, 3) uint8 and (pairs, 16, 2) meanings."""
    pixels, labels = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        for number in numbers:
            rng = np.random.default_rng([seed, 77, number])
            crowd = loose_crowd(rng, STEPS)
            write_video(path, draw_video(rng, make_crowd(rng, crowd, 2), 2 * STEPS, 4, 64, 64), 4)
            pixels.append(read_frames(path, None, 1).pixels.unflatten(0, (STEPS, 2)))
            meaning = np.zeros((STEPS, 4, 4, 2), dtype=np.int64)
            for place, (y, x) in enumerate(QUADRANTS):
                meaning[:, y : y + 2, x : x + 2, 0] = crowd.colour[:, place, None, None] + 1
                meaning[:, y : y + 2, x : x + 2, 1] = crowd.shape[:, place, None, None] + 1
            labels.append(torch.from_numpy(meaning.reshape(STEPS, 16, 2)))
    return torch.cat(pixels), torch.cat(labels)


def with_every_needle(
    pixels: torch.Tensor, meaning: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A plain bank with as many more files as it takes to show every colour and shape at every place."""
    wanted = len(COLOURS) * len(SHAPES) * len(SUPERCELLS) + 1
    while len(Bank(pixels, meaning).pairs) < wanted:
        more = make_bank(16, seed)
        pixels, meaning = torch.cat([pixels, more[0]]), torch.cat([meaning, more[1]])
        seed += 1
    return pixels, meaning


def frame_banks(folder: Path, seed: int, videos: int) -> dict:
    """Frame pairs to learn from and held-out ones, crowded and plain; made once."""
    file = folder / f"frames-{seed}-{videos}.pt"
    if not file.exists():
        made = {
            "crowded": crowded_bank(range(videos), seed),
            "plain": with_every_needle(*make_bank(2 * videos, seed + 2 * 10**6), seed + 3 * 10**6),
            "held_crowded": crowded_bank(range(10**6, 10**6 + 6), seed),
            "held_plain": make_bank(6, seed + 10**6),
        }
        torch.save(made, file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)
    return torch.load(file)


def targets(weight: torch.Tensor, words: Words, meaning: torch.Tensor) -> torch.Tensor:
    """(..., hidden): what visual tokens of these meanings (..., 2) should say."""
    colours = weight[torch.tensor([words.video, *words.colours])]
    shapes = torch.cat([torch.zeros_like(weight[:1]), weight[torch.tensor(words.shapes)]])
    return colours[meaning[..., 0]] + shapes[meaning[..., 1]]


def train_tower(
    model, words: Words, processor, folder: Path, seed: int, steps: int, videos: int
) -> None:
    """Trains `model.model.visual`, half of each batch on crowded, half on plain frame pairs; resumable."""
    banks = frame_banks(folder, seed, videos)
    tower = model.model.visual
    optim = torch.optim.AdamW(tower.parameters(), lr=1e-3, weight_decay=0.01)
    weight = model.get_input_embeddings().weight.detach()
    step, seconds, file = 0, 0.0, folder / "tower.pt"
    if file.exists():
        state = torch.load(file, weights_only=False)
        tower.load_state_dict(state["tower"])
        optim.load_state_dict(state["optim"])
        step, seconds = state["progress"]
    with (folder / "log.jsonl").open("a") as log:
        while step < steps:
            begun = time.perf_counter()
            scale = min(1.0, (step + 1) / 20, 2 * (steps - step) / steps)
            optim.param_groups[0]["lr"] = 1e-3 * scale
            chance = torch.Generator().manual_seed(seed * 10**6 + step)
            parts = []
            for name, number in (("crowded", 40), ("plain", 16)):
                pixels, meaning = banks[name]
                chosen = torch.randint(len(pixels), (number,), generator=chance)
                parts.append((pixels[chosen], meaning[chosen]))
            pixels, meaning = (torch.cat(part) for part in zip(*parts, strict=True))
            said = features(model, processor, pixels)
            error = (said - targets(weight, words, meaning)).square().sum(-1)
            needle = meaning[..., 0] > 0
            loss = error[needle].mean() + error[~needle].mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
            optim.step()
            optim.zero_grad(set_to_none=True)
            step += 1
            seconds += time.perf_counter() - begun
            if step % 50 == 0 or step in (1, steps):
                line = {"stage": "tower", "step": step, "loss": round(loss.item(), 4)}
                line["seconds"] = round(seconds, 1)
                with torch.no_grad():
                    for name in ("held_crowded", "held_plain"):
                        said = features(model, processor, banks[name][0])
                        found = score(model, words, said, banks[name][1])
                        line[name] = {key: round(value, 4) for key, value in found.items()}
                log.write(json.dumps(line) + "\n")
                log.flush()
                state = {"tower": tower.state_dict(), "optim": optim.state_dict()}
                torch.save(state | {"progress": (step, seconds)}, file.with_suffix(".part"))
                file.with_suffix(".part").replace(file)


class Quadrants:
    """What the tower said about single quadrants of crowded files, by what they show and where."""

    def __init__(self, said: torch.Tensor, meaning: torch.Tensor) -> None:
        """Sorts (pairs, 16, hidden) features by their (pairs, 16, 2) meanings."""
        hidden = said.shape[-1]
        grid = said.view(-1, 2, 2, 2, 2, hidden).transpose(2, 3)  # pair, qy, qx, y, x
        self.features = grid.reshape(-1, 4, hidden)  # four quadrants a pair, four tokens each
        what = meaning.view(-1, 4, 4, 2)[:, ::2, ::2].reshape(-1, 4, 2)
        key = self.keys(what).reshape(-1).numpy()
        self.order = np.argsort(key, kind="stable")
        self.start = np.searchsorted(key[self.order], np.arange(self.size + 1))

    size = 9 * (len(SHAPES) + 1) * 4

    @staticmethod
    def keys(what: torch.Tensor) -> torch.Tensor:
        """(..., 4) one number for colour + 1, shape + 1 (..., 4 places, 2) and place."""
        return (what[..., 0] * (len(SHAPES) + 1) + what[..., 1]) * 4 + torch.arange(4)

    def embed_crowds(self, rng: np.random.Generator, meaning: torch.Tensor) -> torch.Tensor:
        """(batch, steps * 16, hidden) for (batch, steps, 4, 4, 2)."""
        batch, steps = meaning.shape[:2]
        key = self.keys(meaning[:, :, ::2, ::2].reshape(batch, steps, 4, 2)).numpy()
        first, number = self.start[key], self.start[key + 1] - self.start[key]
        if not number.all():
            raise RuntimeError("a quadrant that no training file shows; make more files")
        chosen = self.order[first + (rng.random(key.shape) * number).astype(int)]
        tokens = self.features[torch.from_numpy(chosen)].float()  # batch, steps, 4, 4, hidden
        grid = tokens.view(batch, steps, 2, 2, 2, 2, -1).transpose(3, 4)
        return grid.reshape(batch, steps * 16, -1)


@torch.no_grad()
def feature_banks(model, processor, folder: Path, seed: int, videos: int) -> tuple[Quadrants, Bank]:
    """What the trained tower says about all training files: quadrants of crowded, pairs of plain ones."""
    banks = frame_banks(folder, seed, videos)
    said = {
        name: torch.cat(
            [features(model, processor, part).half() for part in banks[name][0].split(256)]
        )
        for name in ("crowded", "plain")
    }
    return Quadrants(said["crowded"], banks["crowded"][1]), Bank(said["plain"], banks["plain"][1])
