"""Trains x2l_tiny from scratch: `python -m experiments.x2l_tiny.train` makes its checkpoint folder.

Three stages, each with its own state file, so that a stopped run goes on where it was:

1. `symbols`: the language model alone learns to answer about scenes made of word embeddings, first
   short ones with few needles, then longer ones.
2. `tower`: the vision tower alone learns to say those word embeddings for frames of real files.
3. `join`: the language model goes on with what the trained tower says about real files.

Every loss and accuracy goes to `log.jsonl`; `curve.png` shows them. On two cores (AMD EPYC, AVX-512
bfloat16), shared with other work, the stages took 72, 12 and 24 minutes. CUDA is untried: all is plain
torch, and --device moves model and batches; draws stay on the CPU. The shipped weights come from a run whose settings
changed on the way (LOG.md); here are the last ones.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from experiments.x2l_tiny import curve, folder, tower
from experiments.x2l_tiny.packed import IGNORED, MOST_NEEDLES, Packed, losses
from experiments.x2l_tiny.scenes import KINDS, Symbols, Words, scene_batch

PASS = {"retrieval": 0.92, "counting": 0.75, "ordering": 0.5}


@dataclass(frozen=True)
class Stage:
    """Settings of one stage of the language model.

    Attributes:
        name: `symbols` or `join`.
        steps: optimizer steps.
        levels: time steps and needles of each level of the curriculum.
        tokens: about so many tokens a batch.
        questions: questions a scene.
        muon: learning rate of the matrices.
        adam: learning rate of everything else.
        warmup: steps of rising learning rate.
        decay: steps of falling learning rate at the end.
        visual: share of visual tokens that are kept, and how often each share is drawn.
        thin: share of batches in which a needle may lose up to three of its four tokens.
        extra: weight of what lower layers should know.
        share: factor on how often a kind is asked, where it is not 1.
        bf16: whether products are done in bfloat16.
    """

    name: str
    steps: int
    levels: tuple[tuple[int, int], ...]
    tokens: int
    questions: int
    muon: float
    adam: float
    warmup: int
    decay: int
    visual: tuple[tuple[float, float], ...]
    thin: float
    extra: float
    share: dict[str, float]
    bf16: bool


SYMBOLS = Stage(
    name="symbols",
    steps=7000,
    levels=((8, 3), (8, 4), (12, 6), (16, 8), (16, 12), (32, 12), (64, 12)),
    tokens=8000,
    questions=8,
    muon=0.008,
    adam=1e-3,
    warmup=50,
    decay=1500,
    visual=((0.25, 0.5), (0.5, 0.3), (1.0, 0.2)),
    thin=0.0,
    extra=1.0,
    share={"shape": 0.2, "shape_word": 0.2},  # a bridge, not an end
    bf16=True,
)
JOIN = Stage(
    name="join",
    steps=1900,
    levels=((128, 12), (16, 8), (64, 12), (16, 12), (32, 12)),  # most batches have the last
    tokens=9000,
    questions=12,
    muon=0.004,
    adam=4e-4,
    warmup=30,
    decay=900,
    visual=((0.25, 0.2), (0.5, 0.2), (1.0, 0.6)),
    thin=0.15,
    extra=0.3,
    share={"shape": 0.0, "shape_word": 0.0, "ordering": 4.0},
    bf16=True,
)
TOWER = {"steps": 2500, "videos": 500, "batch": 64}


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
    weight.register_hook(lambda grad: grad * keep.to(grad.device))
    return words


def optimizers(model, stage: Stage) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the decoder's layers, AdamW for everything else of it."""
    decoder = model.get_decoder()
    matrices = [p for p in decoder.layers.parameters() if p.ndim == 2]
    others = [p for p in decoder.parameters() if not any(p is m for m in matrices)]
    return [
        torch.optim.Muon(matrices, lr=stage.muon, weight_decay=0.01),
        torch.optim.AdamW(others, lr=stage.adam, weight_decay=0.0, betas=(0.9, 0.98)),
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


def fast_bf16(model) -> bool:
    """Whether products in bfloat16 are the faster ones: a processor with no more than AVX2 takes 30 times as long."""
    return model.device.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX2"


def _task(kind: str) -> str:
    """The benchmark's task that a kind of question belongs to."""
    task = kind.removesuffix("_word")
    return {"rank": "ordering", "shape": "ordering"}.get(task, task)


def _weight(kind: str, used: int, level: dict[str, int]) -> float:
    """How much a kind is asked at a level: fully at its task's own, seldom where it is not yet."""
    own = level[_task(kind)]
    return 1.0 if own == used else 0.3 if own > used else 0.05


def train_decoder(
    model,
    probe: torch.nn.Linear,
    stage: Stage,
    seed: int,
    draw: Callable[..., Packed],
    folder: Path,
    stop: int | None = None,
) -> None:
    """Trains the language model on drawn scenes; kinds and levels follow its own accuracy.

    Args:
        model: changed in place.
        probe: reads ranks and repeats from lower layers, for training only; changed in place.
        stage: the settings.
        seed: of everything drawn.
        draw: `scene_batch` with words and source given.
        folder: gets the state and the log.
        stop: step after which to stop early.
    """
    model.get_decoder().set_attn_implementation("packed")
    optims = optimizers(model, stage)
    optims[1].add_param_group({"params": list(probe.parameters())})
    rng = np.random.default_rng([seed, len(stage.levels)])
    step, seconds = 0, 0.0
    start = len(stage.levels) - 1 if stage.name == "join" else 0
    level, since = dict.fromkeys(PASS, start), dict.fromkeys(PASS, 0)
    accuracy = dict.fromkeys(KINDS, 0.7 if stage.name == "join" else 0.2)
    file = folder / f"{stage.name}.pt"
    if file.exists():
        state = torch.load(file, weights_only=False, map_location="cpu")
        model.load_state_dict(state["model"])
        probe.load_state_dict(state["probe"])
        for optim, saved in zip(optims, state["optims"], strict=True):
            optim.load_state_dict(saved)
        rng.bit_generator.state = state["rng"]
        level, since, step, seconds, known = state["progress"]
        accuracy |= known
    rates = (stage.muon, stage.adam)
    log = (folder / "log.jsonl").open("a")
    while step < stage.steps and step != stop:
        begun = time.perf_counter()
        scale = min(1.0, (step + 1) / stage.warmup, (stage.steps - step) / stage.decay)
        for optim, rate in zip(optims, rates, strict=True):
            for group in optim.param_groups:
                group["lr"] = rate * scale
        # Options are asked for seldom before the answer is known as a word: they teach nothing then.
        # Each task has a level of its own. A batch is drawn at one task's level, or below it.
        lacking = np.array([0.03 + 1 - accuracy[task] for task in PASS])
        task = str(rng.choice(list(PASS), p=lacking / lacking.sum()))
        used = level[task]
        if rng.random() < 0.4:
            used = int(rng.integers(used + 1))
        steps, needles = stage.levels[used]
        needles = int(rng.integers((3 * needles + 3) // 4, needles + 1))
        wanting = np.array(
            [
                (0.08 + 1 - accuracy[kind])
                * _weight(kind, used, level)
                * (0.2 if kind in PASS and accuracy[kind + "_word"] < 0.6 else 1.0)
                * stage.share.get(kind, 1.0)
                for kind in KINDS
            ]
        )
        shares, chances = zip(*stage.visual, strict=True)
        visual = int(16 * steps * rng.choice(shares, p=chances))
        drawn = draw(
            rng,
            batch=max(4, stage.tokens // (16 + visual + 41 * stage.questions)),
            steps=steps,
            events=needles,
            visual=visual,
            questions=stage.questions,
            stride=2 if rng.random() < 0.7 else int(rng.choice([1, 4])),
            weights=wanting / wanting.sum(),
            thin=rng.random() < stage.thin,
        )
        with torch.autocast(
            model.device.type, torch.bfloat16, enabled=stage.bf16 and fast_bf16(model)
        ):
            loss, extra, scores = losses(model, probe, drawn.to(model.device))
        (loss + stage.extra * extra).backward()
        torch.nn.utils.clip_grad_norm_(model.get_decoder().parameters(), 1.0)
        for optim in optims:
            optim.step()
            optim.zero_grad(set_to_none=True)
        for kind, (right, asked) in right_by_kind(drawn, scores.detach().cpu()).items():
            if asked and level[_task(kind)] == used:
                keep = 0.95 ** (asked / 48)
                accuracy[kind] = keep * accuracy[kind] + (1 - keep) * right / asked
        step += 1
        seconds += time.perf_counter() - begun
        for name, least in PASS.items():
            since[name] += level[name] == used
            if (
                since[name] >= 30
                and accuracy[name] >= least
                and level[name] + 1 < len(stage.levels)
            ):
                level[name], since[name] = level[name] + 1, 0
        if step <= 20 or step % 20 == 0:
            line = {"stage": stage.name, "step": step, "steps": steps, "visual": visual}
            line |= {
                "loss": round(loss.item(), 4),
                "extra": round(extra.item(), 4),
                "seconds": round(seconds, 1),
            }
            line |= {kind: round(value, 3) for kind, value in accuracy.items()}
            line |= {f"level_{task}": value for task, value in level.items()}
            log.write(json.dumps(line) + "\n")
            log.flush()
        if step % 100 == 0 or step in (stage.steps, stop):
            state = {
                "model": model.state_dict(),
                "probe": probe.state_dict(),
                "optims": [optim.state_dict() for optim in optims],
                "rng": rng.bit_generator.state,
                "progress": (level, since, step, seconds, accuracy),
                "stage": asdict(stage),
            }
            torch.save(state, file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)


def main() -> None:
    """Reads the command line and runs the stages that are not done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/train_tiny"))
    parser.add_argument("--stage", choices=["symbols", "tower", "join", "all"], default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cuda has not been tried)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--stop", type=int, help="stop each stage after that step; call again to go on"
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    tokenizer = folder.make_tokenizer()
    model = folder.make_model(tokenizer, given.seed)
    words = make_words(model, tokenizer, given.seed)
    probe = torch.nn.Linear(model.config.text_config.hidden_size, MOST_NEEDLES + 4)
    model.to(given.device)
    probe.to(given.device)
    if given.stage in ("symbols", "all"):
        source = Symbols(words, model.get_input_embeddings().weight.detach().cpu().clone())

        def draw_symbols(rng, **wanted) -> Packed:
            return scene_batch(rng, words, source, **wanted)

        train_decoder(model, probe, SYMBOLS, given.seed, draw_symbols, given.out, given.stop)
    if given.stage in ("tower", "all"):
        processor = folder.make_processor(tokenizer)
        tower.train_tower(model, words, processor, given.out, given.seed, given.stop, **TOWER)
    if given.stage in ("join", "all"):
        processor = folder.make_processor(tokenizer)
        trained = torch.load(given.out / "tower.pt", weights_only=False, map_location="cpu")[
            "tower"
        ]
        model.model.visual.load_state_dict(trained)
        if not (given.out / "join.pt").exists():
            learned = torch.load(given.out / "symbols.pt", weights_only=False, map_location="cpu")
            model.get_decoder().load_state_dict(
                {
                    name.removeprefix("model.language_model."): value
                    for name, value in learned["model"].items()
                    if name.startswith("model.language_model.")
                }
            )
            probe.load_state_dict(learned["probe"])
        bank = tower.feature_bank(model, processor, given.out, given.seed, TOWER["videos"])

        def draw_bank(rng, **wanted) -> Packed:
            return scene_batch(rng, words, bank, **wanted)

        train_decoder(model, probe, JOIN, given.seed, draw_bank, given.out, given.stop)
        folder.save_folder(given.out / "x2l_tiny", model, tokenizer)
    curve.plot(given.out / "log.jsonl", given.out / "curve.png")


if __name__ == "__main__":
    main()
