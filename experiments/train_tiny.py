"""Trains x2l_tiny from scratch: `python experiments/train_tiny.py` (see --help).

Stages: `symbols` teaches the language model to answer about scenes of symbols.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tiny_folder
import torch
from tiny_packed import IGNORED, Packed, logits
from tiny_scenes import KINDS, Words, symbolic_batch
from torch.nn import functional

# Levels of the curriculum: time steps, needles.
LEVELS = ((8, 4), (12, 6), (16, 8), (32, 10), (64, 12), (128, 12))
PASS = {"retrieval": 0.95, "counting": 0.85, "ordering": 0.85}


@dataclass(frozen=True)
class Settings:
    """What the symbols stage can be told."""

    seed: int = 0
    steps: int = 6000
    tokens: int = 15000
    questions: int = 8
    muon: float = 0.01
    adam: float = 1e-3
    warmup: int = 50
    decay: int = 500
    memory: float = 0.95
    bf16: bool = True


def make_words(model, tokenizer, seed: int) -> Words:
    """Sets the attribute words' embeddings to orthonormal vectors and freezes those rows."""
    words = Words(tokenizer)
    rows = torch.tensor([words.video, *words.colours, *words.shapes])
    weight = model.get_input_embeddings().weight
    chance = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(weight.shape[1], len(rows), generator=chance)).Q.T
    with torch.no_grad():
        weight[rows] = basis
    keep = torch.ones(len(weight), 1)
    keep[rows] = 0
    weight.register_hook(lambda grad: grad * keep)
    return words


def optimizers(model, muon: float, adam: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the decoder's layers, AdamW for everything else of it."""
    decoder = model.get_decoder()
    matrices = [p for p in decoder.layers.parameters() if p.ndim == 2]
    others = [p for p in decoder.parameters() if not any(p is m for m in matrices)]
    return [
        torch.optim.Muon(matrices, lr=muon, weight_decay=0.01),
        torch.optim.AdamW(others, lr=adam, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def right_by_kind(packed: Packed, scores: torch.Tensor) -> dict[str, tuple[int, int]]:
    """Right answers and questions of each kind; only the answer's first token counts."""
    kind = torch.tensor(packed.kinds).repeat_interleave(torch.tensor(packed.lengths))
    labelled = packed.labels != IGNORED
    kind = kind.expand_as(packed.labels)[labelled][::2]  # two labels each: answer, <|im_end|>
    right = (scores.argmax(-1) == packed.labels[labelled])[::2]
    return {
        KINDS[k]: (int(right[kind == k].sum()), int((kind == k).sum())) for k in set(packed.kinds)
    }


def train_symbols(folder: Path, settings: Settings, resume: bool) -> None:
    """Language model alone, on scenes of symbols, with growing scenes."""
    tokenizer = tiny_folder.make_tokenizer()
    model = tiny_folder.make_model(tokenizer, settings.seed)
    words = make_words(model, tokenizer, settings.seed)
    model.get_decoder().set_attn_implementation("packed")
    optims = optimizers(model, settings.muon, settings.adam)
    base = [optim.param_groups[0]["lr"] for optim in optims]
    rng = np.random.default_rng(settings.seed)
    level, since, step, seconds = 0, 0, 0, 0.0
    accuracy = dict.fromkeys(KINDS, 0.2)
    state_file = folder / "symbols.pt"
    if resume and state_file.exists():
        state = torch.load(state_file, weights_only=False)
        model.load_state_dict(state["model"])
        for optim, saved in zip(optims, state["optims"], strict=True):
            optim.load_state_dict(saved)
        rng.bit_generator.state = state["rng"]
        level, since, step, seconds, accuracy = state["progress"]
    log = (folder / "log.jsonl").open("a")
    while step < settings.steps:
        begun = time.perf_counter()
        scale = min(1.0, (step + 1) / settings.warmup, (settings.steps - step) / settings.decay)
        for optim, rate in zip(optims, base, strict=True):
            optim.param_groups[0]["lr"] = rate * scale
        top = rng.random() < 0.6
        used = level if top else int(rng.integers(level + 1))
        steps, needles = LEVELS[used]
        if not top:
            needles = int(rng.integers(2, needles + 1))
        visual = steps * int(rng.choice([4, 8, 16], p=[0.5, 0.3, 0.2]))
        stride = 2 if rng.random() < 0.7 else int(rng.choice([1, 4]))
        batch = max(4, settings.tokens // (16 + visual + 41 * settings.questions))
        wanting = np.array([0.08 + 1 - accuracy[kind] for kind in KINDS])
        packed = symbolic_batch(
            rng,
            words,
            model.get_input_embeddings().weight.detach(),
            batch=batch,
            steps=steps,
            events=needles,
            visual=visual,
            questions=settings.questions,
            stride=stride,
            noise=float(rng.uniform(0, 0.6)),
            weights=wanting / wanting.sum(),
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
            scores = logits(model, packed).float()
        loss = functional.cross_entropy(scores, packed.labels[packed.labels != IGNORED])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.get_decoder().parameters(), 1.0)
        for optim in optims:
            optim.step()
            optim.zero_grad(set_to_none=True)
        if top:
            for kind, (right, asked) in right_by_kind(packed, scores).items():
                if asked:
                    keep = settings.memory ** (asked / 48)
                    accuracy[kind] = keep * accuracy[kind] + (1 - keep) * right / asked
        step, since = step + 1, since + 1
        seconds += time.perf_counter() - begun
        ready = since >= 60 and all(accuracy[task] >= least for task, least in PASS.items())
        if ready and level + 1 < len(LEVELS):
            level, since = level + 1, 0
        line = {
            "stage": "symbols",
            "step": step,
            "level": level,
            "loss": round(float(loss.detach()), 4),
        }
        line |= {kind: round(value, 3) for kind, value in accuracy.items()}
        line |= {"visual": visual, "seconds": round(seconds, 1)}
        if step <= 20 or step % 20 == 0:
            log.write(json.dumps(line) + "\n")
            log.flush()
        if step % 200 == 0 or step == settings.steps:
            state = {
                "model": model.state_dict(),
                "optims": [optim.state_dict() for optim in optims],
                "rng": rng.bit_generator.state,
                "progress": (level, since, step, seconds, accuracy),
                "settings": asdict(settings),
            }
            torch.save(state, state_file.with_suffix(".part"))
            state_file.with_suffix(".part").replace(state_file)


def main() -> None:
    """Reads the command line and runs the stages that are not done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/train_tiny"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    changed = dict(pair.split("=", 1) for pair in given.set)
    settings = Settings(**{name: json.loads(value) for name, value in changed.items()})
    train_symbols(given.out, settings, resume=True)


if __name__ == "__main__":
    main()
