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
import tiny_folder
import torch
from tiny_scenes import SUPERCELLS, Words

from x2l.benchmarks.needle_drawing import draw_video
from x2l.benchmarks.needle_scene import CENTRE, COLOURS, SHAPES, Needle
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
    return model.model.get_video_features(values, grid).pooler_output[0].view(len(pixels), 16, -1)


def targets(model, words: Words, meaning: torch.Tensor) -> torch.Tensor:
    """(..., hidden): what visual tokens of these meanings (..., 2) should say."""
    weight = model.get_input_embeddings().weight.detach()
    colours = weight[torch.tensor([words.video, *words.colours])]
    shapes = torch.cat([torch.zeros_like(weight[:1]), weight[torch.tensor(words.shapes)]])
    return colours[meaning[..., 0]] + shapes[meaning[..., 1]]


def score(model, words: Words, said: torch.Tensor, meaning: torch.Tensor) -> dict[str, float]:
    """Share of right visual tokens: colour and shape of needles, and haystack."""
    weight = model.get_input_embeddings().weight.detach()
    colours = said @ weight[torch.tensor([words.video, *words.colours])].T
    shapes = said @ weight[torch.tensor([words.video, *words.shapes])].T
    needle = meaning[..., 0] > 0
    return {
        "colour": (colours.argmax(-1) == meaning[..., 0])[needle].float().mean().item(),
        "shape": (shapes.argmax(-1) == meaning[..., 1])[needle].float().mean().item(),
        "hay": (colours.argmax(-1) == 0)[~needle].float().mean().item(),
    }


def train_tower(
    model, words: Words, processor, folder: Path, seed: int, steps: int, videos: int, batch: int
) -> None:
    """Trains `model.model.visual` and logs its loss and its share of right tokens."""
    torch.manual_seed(seed)
    bank = folder / f"bank-{seed}-{videos}.pt"
    if not bank.exists():
        torch.save({"train": make_bank(videos, seed), "held": make_bank(16, seed + 10**6)}, bank)
    data = torch.load(bank)
    pixels, meaning = data["train"]
    tower = model.model.visual
    optim = torch.optim.AdamW(tower.parameters(), lr=2e-3, weight_decay=0.01)
    begun = time.perf_counter()
    with (folder / "log.jsonl").open("a") as log:
        for step in range(1, steps + 1):
            scale = min(1.0, step / 50, (steps - step) / (0.5 * steps))
            optim.param_groups[0]["lr"] = 2e-3 * scale
            chosen = torch.randint(len(pixels), (batch,))
            with torch.autocast("cpu", torch.bfloat16):
                said = features(model, processor, pixels[chosen])
            error = (said.float() - targets(model, words, meaning[chosen])).square().sum(-1)
            needle = meaning[chosen][..., 0] > 0
            loss = error[needle].mean() + error[~needle].mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
            optim.step()
            optim.zero_grad(set_to_none=True)
            if step <= 20 or step % 100 == 0:
                line = {"stage": "tower", "step": step, "loss": round(loss.item(), 4)}
                if step % 100 == 0:
                    with torch.no_grad():
                        held = features(model, processor, data["held"][0])
                    found = score(model, words, held, data["held"][1])
                    line |= {name: round(value, 4) for name, value in found.items()}
                line["seconds"] = round(time.perf_counter() - begun, 1)
                log.write(json.dumps(line) + "\n")
                log.flush()


def main() -> None:
    """Trial of the tower stage alone."""
    torch.set_num_threads(1)
    folder = Path("outputs/tower")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_folder.make_tokenizer()
    from train_tiny import make_words

    model = tiny_folder.make_model(tokenizer, 0)
    words = make_words(model, tokenizer, 0)
    train_tower(model, words, tiny_folder.make_processor(tokenizer), folder, 0, 2500, 500, 64)
    torch.save(model.model.visual.state_dict(), folder / "tower.pt")


if __name__ == "__main__":
    main()
