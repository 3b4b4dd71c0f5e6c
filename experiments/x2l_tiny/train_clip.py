"""Trains x2l_tiny_clip, a dual encoder for needle: `python -m experiments.x2l_tiny.train_clip`.

An ordinary CLIP of two layers a tower, whose text is a question with its options and whose picture is
one frame. A question should be near the frames that show an asked shape and far from the others
(sigmoid loss over all pairs of a batch); beside it the picture's patches learn which shape they show and
where. Frames are those of `crowded_tower.frame_banks`: files that no split of the benchmark has.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn import functional

from experiments.x2l_tiny import folder as tiny_folder  # noqa: F401  (first: it makes transformers importable without CUDA)

# isort: split
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from experiments.x2l_tiny.crowded_tower import frame_banks
from x2l.benchmarks.needle.scene import COLOURS, MOST_REPEATS, SHAPES

SIDE, PATCH, WIDTH, LENGTH = 64, 8, 64, 32
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
TOWER = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def questions(shape: str) -> list[str]:
    """The benchmark's questions that name one shape."""
    return [f"What is the colour of the {shape}?", f"How many times does the {shape} appear?"]


def make_processor() -> CLIPProcessor:
    """CLIP's own tokenizer with every word of the benchmark as one token, and its image processor."""
    numbers = [str(number) for number in range(1, MOST_REPEATS + 1)]
    corpus = [text for shape in SHAPES for text in questions(shape)]
    corpus += [f"Which of these shapes appears {end}?" for end in ("first", "last")]
    corpus += [*COLOURS, *SHAPES, *numbers]
    raw = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=SPECIAL[1]))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = [chr(code) for code in range(33, 127)]
    raw.train_from_iterator(
        [text.lower() for text in corpus] * 2,
        trainers.BpeTrainer(
            vocab_size=600, end_of_word_suffix="</w>", show_progress=False, initial_alphabet=letters
        ),
    )
    state = json.loads(raw.to_str())["model"]
    vocab = dict(state["vocab"])
    for token in (*(letter + "</w>" for letter in letters), *SPECIAL):
        vocab.setdefault(token, len(vocab))
    tokenizer = CLIPTokenizer(
        vocab=vocab, merges=[tuple(pair) for pair in state["merges"]], model_max_length=LENGTH
    )
    for word in (*COLOURS, *SHAPES):
        if len(tokenizer.encode(word, add_special_tokens=False)) != 1:
            raise RuntimeError(f"tokenizer: {word!r} is not one token")
    pictures = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    return CLIPProcessor(tokenizer=tokenizer, image_processor=pictures)


def make_model(tokenizer: CLIPTokenizer, seed: int) -> CLIPModel:
    """The architecture with random weights."""
    torch.manual_seed(seed)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {**TOWER, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH}
    vision = {**TOWER, "image_size": SIDE, "patch_size": PATCH}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def draw_question(rng: np.random.Generator) -> tuple[str, list[int]]:
    """One question, most often with its options, and the shapes that it asks about."""
    options = rng.random() < 0.75
    if rng.random() < 0.4:
        asked = rng.choice(len(SHAPES), 4, replace=False).tolist()
        words = [f"Which of these shapes appears {rng.choice(['first', 'last'])}?"]
        return " ".join(words + [SHAPES[shape] for shape in asked]), asked
    shape = int(rng.integers(len(SHAPES)))
    colour = rng.random() < 0.5
    wrong = rng.permutation(COLOURS if colour else list("1234"))[:4].tolist()
    text = questions(SHAPES[shape])[0 if colour else 1]
    return " ".join([text, *(wrong if options else [])]), [shape]


def patch_labels(meaning: torch.Tensor) -> torch.Tensor:
    """(frames, 16, 2) meanings to (frames, 64): shape + 1 of each patch of 8 pixels, 0 for none."""
    grid = meaning[..., 1].view(-1, 4, 4)
    return grid.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)


def train(out: Path, banks: Path, seed: int, steps: int, videos: int) -> tuple:
    """Trains the towers; writes the log and, every 200 steps, the state (resumable)."""
    data = frame_banks(banks, seed, videos)
    processor = make_processor()
    model = make_model(processor.tokenizer, seed)
    head = torch.nn.Linear(WIDTH, len(SHAPES) + 1)
    scale = torch.nn.Parameter(torch.tensor([2.0, -2.0]))  # log of the factor, bias
    params = [*model.parameters(), *head.parameters(), scale]
    optim = torch.optim.AdamW(params, lr=2e-3, weight_decay=0.01, betas=(0.9, 0.98))
    step, seconds, file = 0, 0.0, out / "clip.pt"
    if file.exists():
        state = torch.load(file, weights_only=False)
        model.load_state_dict(state["model"])
        head.load_state_dict(state["head"])
        scale.data.copy_(state["scale"])
        optim.load_state_dict(state["optim"])
        step, seconds = state["progress"]
    kept: dict[str, torch.Tensor] = {}
    last = model.vision_model.encoder.layers[-1]
    last.register_forward_hook(
        lambda module, inputs, made: kept.update(patches=made if torch.is_tensor(made) else made[0])
    )
    with (out / "log.jsonl").open("a") as log:
        while step < steps:
            begun = time.perf_counter()
            rng = np.random.default_rng([seed, 5, step])
            rate = 2e-3 * min(1.0, (step + 1) / 100, (steps - step) / (0.5 * steps))
            optim.param_groups[0]["lr"] = max(rate, 1e-5)
            frames, meaning = [], []
            for name, number in (("crowded", 32), ("plain", 32)):
                pixels, labels = data[name]
                chosen = torch.from_numpy(rng.integers(0, len(pixels), number))
                frames.append(pixels[chosen, rng.integers(2)])
                meaning.append(labels[chosen])
            pictures, labels = torch.cat(frames), torch.cat(meaning)
            asked = [draw_question(rng) for _ in range(64)]
            wanted = torch.zeros(len(asked), len(SHAPES))
            for row, (_, shapes) in enumerate(asked):
                wanted[row, shapes] = 1
            shown = functional.one_hot(labels[..., 1], len(SHAPES) + 1).amax(1)[:, 1:].float()
            match = (wanted @ shown.T > 0).float()
            values = processor.image_processor(
                list(pictures.permute(0, 3, 1, 2)), input_data_format="channels_first",
                return_tensors="pt",
            )  # fmt: skip
            text = processor.tokenizer(
                [words for words, _ in asked], padding="max_length", truncation=True,
                max_length=LENGTH, return_tensors="pt",
            )  # fmt: skip
            seen = model.get_image_features(**values).pooler_output
            said = model.get_text_features(**text).pooler_output
            score = functional.normalize(said, dim=-1) @ functional.normalize(seen, dim=-1).T
            score = score * scale[0].exp() + scale[1]
            weight = torch.where(match > 0, (1 - match).sum() / match.sum().clamp(min=1), 1.0)
            loss = functional.binary_cross_entropy_with_logits(score, match, weight=weight)
            patches = head(kept["patches"][:, 1:]).flatten(0, 1)
            beside = functional.cross_entropy(patches, patch_labels(labels).flatten())
            optim.zero_grad(set_to_none=True)
            (loss + 0.5 * beside).backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optim.step()
            step += 1
            seconds += time.perf_counter() - begun
            if step % 50 == 0 or step in (1, steps):
                right = ((score > 0) == (match > 0)).float()
                line = {"step": step, "loss": round(loss.item(), 4), "patches": beside.item()}
                line |= {"matching": round(right[match > 0].mean().item(), 3)}
                line |= {"others": round(right[match == 0].mean().item(), 3)}
                log.write(json.dumps(line | {"seconds": round(seconds, 1)}) + "\n")
                log.flush()
            if step % 200 == 0 or step == steps:
                state = {"model": model.state_dict(), "head": head.state_dict()}
                state |= {"scale": scale.data, "optim": optim.state_dict()}
                torch.save(state | {"progress": (step, seconds)}, file.with_suffix(".part"))
                file.with_suffix(".part").replace(file)
    return model, processor


def main() -> None:
    """Trains and writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/train_tiny_clip"))
    parser.add_argument("--banks", type=Path, default=Path("outputs/train_crowded"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--videos", type=int, default=80)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    model, processor = train(given.out, given.banks, given.seed, given.steps, given.videos)
    model.save_pretrained(given.out / "x2l_tiny_clip")
    processor.save_pretrained(given.out / "x2l_tiny_clip")


if __name__ == "__main__":
    main()
