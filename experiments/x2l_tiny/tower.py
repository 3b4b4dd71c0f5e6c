"""The vision tower alone: every visual token is taught what it should say.

Where each needle is, is known, so the target of a visual token is the sum of its needle's word
embeddings (colour + shape), or the embedding of <|video_pad|> for the haystack. Frames come from
real files: drawn, written as H.264, read back by `read_frames` and cut into patches by the
model's own video processor.
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from experiments.x2l_tiny.scenes import SUPERCELLS, Bank, Words
from x2l.benchmarks.needle.drawing import draw_video
from x2l.benchmarks.needle.scene import CENTRE, COLOURS, SHAPES, Needle
from x2l.video import read_frames, write_video


def dense_scene(rng: np.random.Generator, slots: int) -> tuple[Needle, ...]:
    """Needles of every kind in three of four slots."""
    needles = []
    for slot in np.flatnonzero(rng.random(slots) < 0.75):
        insert = rng.random() < 0.4
        needles.append(
            Needle(
                start=2 * int(slot),
                shape=SHAPES[rng.integers(len(SHAPES))],
                colour=COLOURS[rng.integers(len(COLOURS))],
                kind="insert" if insert else "edit",
                place=CENTRE if insert else int(rng.integers(4)),
                shift=(float(rng.uniform(-0.03, 0.03)), float(rng.uniform(-0.03, 0.03))),
                size=float(rng.uniform(0.41, 0.45)),
            )
        )
    return tuple(needles)


def meanings(scene: tuple[Needle, ...], slots: int) -> np.ndarray:
    """(slots, 16, 2): colour + 1 and shape + 1 of each visual token, 0 for the haystack."""
    found = np.zeros((slots, 4, 4, 2), dtype=np.int64)
    for needle in scene:
        y, x = SUPERCELLS[needle.place]
        found[needle.start // 2, y : y + 2, x : x + 2] = (
            COLOURS.index(needle.colour) + 1,
            SHAPES.index(needle.shape) + 1,
        )
    return found.reshape(slots, 16, 2)


def make_bank(videos: int, seed: int, slots: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Frame pairs of `videos` files: (pairs, 2, 64, 64, 3) uint8 and (pairs, 16, 2) meanings."""
    pixels, labels = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        for number in range(videos):
            rng = np.random.default_rng([seed, number])
            scene = dense_scene(rng, slots)
            write_video(path, draw_video(rng, scene, 2 * slots, 4, 64, 64), 4)
            pixels.append(read_frames(path, None, 1).pixels.unflatten(0, (slots, 2)))
            labels.append(torch.from_numpy(meanings(scene, slots)))
    return torch.cat(pixels), torch.cat(labels)


def patches(processor, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(pairs, 2, height, width, 3) to the tower's input: patches and grid."""
    video = pixels.flatten(0, 1).permute(0, 3, 1, 2)
    made = processor.video_processor(videos=[video], return_tensors="pt", do_sample_frames=False)
    return made["pixel_values_videos"], made["video_grid_thw"]


def features(model, processor, pixels: torch.Tensor) -> torch.Tensor:
    """(pairs, 16, hidden): what the tower says."""
    values, grid = patches(processor, pixels)
    said = model.model.get_video_features(values.to(model.device), grid.to(model.device))
    return said.pooler_output[0].view(len(pixels), 16, -1)


def targets(model, words: Words, meaning: torch.Tensor) -> torch.Tensor:
    """(..., hidden): what visual tokens of these meanings (..., 2) should say."""
    weight = model.get_input_embeddings().weight.detach()
    colours = weight[torch.tensor([words.video, *words.colours])]
    shapes = torch.cat([torch.zeros_like(weight[:1]), weight[torch.tensor(words.shapes)]])
    return colours[meaning[..., 0]] + shapes[meaning[..., 1]]


def score(model, words: Words, said: torch.Tensor, meaning: torch.Tensor) -> dict[str, float]:
    """Share of right visual tokens: colour and shape of needles, and haystack."""
    weight, said = model.get_input_embeddings().weight.detach().cpu(), said.cpu()
    colours = said @ weight[torch.tensor([words.video, *words.colours])].T
    shapes = said @ weight[torch.tensor([words.video, *words.shapes])].T
    needle = meaning[..., 0] > 0
    return {
        "colour": (colours.argmax(-1) == meaning[..., 0])[needle].float().mean().item(),
        "shape": (shapes.argmax(-1) == meaning[..., 1])[needle].float().mean().item(),
        "hay": (colours.argmax(-1) == 0)[~needle].float().mean().item(),
    }


def frame_bank(folder: Path, seed: int, videos: int) -> dict:
    """The frame pairs that tower and join stage learn from, and some held out; made once."""
    file = folder / f"bank-{seed}-{videos}.pt"
    if not file.exists():
        made = {"train": make_bank(videos, seed), "held": make_bank(16, seed + 10**6)}
        torch.save(made, file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)
    return torch.load(file)


@torch.no_grad()
def feature_bank(model, processor, folder: Path, seed: int, videos: int) -> Bank:
    """What the trained tower says about every frame pair of the bank."""
    pixels, meaning = frame_bank(folder, seed, videos)["train"]
    said = [features(model, processor, part).half().cpu() for part in pixels.split(512)]
    return Bank(torch.cat(said), meaning)


def train_tower(
    model,
    words: Words,
    processor,
    folder: Path,
    seed: int,
    stop: int | None,
    steps: int,
    videos: int,
    batch: int,
) -> None:
    """Trains `model.model.visual` and logs its loss and its share of right tokens."""
    data = frame_bank(folder, seed, videos)
    pixels, meaning = data["train"]
    tower = model.model.visual
    optim = torch.optim.AdamW(tower.parameters(), lr=2e-3, weight_decay=0.01)
    chance = torch.Generator().manual_seed(seed)
    step, seconds = 0, 0.0
    file = folder / "tower.pt"
    if file.exists():
        state = torch.load(file, weights_only=False, map_location="cpu")
        tower.load_state_dict(state["tower"])
        optim.load_state_dict(state["optim"])
        chance.set_state(state["chance"])
        step, seconds = state["progress"]
    with (folder / "log.jsonl").open("a") as log:
        while step < steps and step != stop:
            begun = time.perf_counter()
            scale = min(1.0, (step + 1) / 50, (steps - step) / (0.5 * steps))
            optim.param_groups[0]["lr"] = 2e-3 * scale
            chosen = torch.randint(len(pixels), (batch,), generator=chance)
            with torch.autocast(model.device.type, torch.bfloat16):
                said = features(model, processor, pixels[chosen])
            error = (said.float() - targets(model, words, meaning[chosen])).square().sum(-1)
            needle = meaning[chosen][..., 0] > 0
            loss = error[needle].mean() + error[~needle].mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
            optim.step()
            optim.zero_grad(set_to_none=True)
            step += 1
            seconds += time.perf_counter() - begun
            line = {"stage": "tower", "step": step, "loss": round(loss.item(), 4)}
            line["seconds"] = round(seconds, 1)
            if step % 100 == 0 or step in (steps, stop):
                with torch.no_grad():
                    held = features(model, processor, data["held"][0])
                found = score(model, words, held, data["held"][1])
                line |= {name: round(value, 4) for name, value in found.items()}
                state = {
                    "tower": tower.state_dict(),
                    "optim": optim.state_dict(),
                    "chance": chance.get_state(),
                    "progress": (step, seconds),
                }
                torch.save(state, file.with_suffix(".part"))
                file.with_suffix(".part").replace(file)
            if step <= 20 or step % 100 == 0:
                log.write(json.dumps(line) + "\n")
                log.flush()
