"""Teaches x2l_tiny crowded scenes: `python -m experiments.x2l_tiny.train_crowded` goes on from the first version.

Stages, each with its own state file, so that a stopped run goes on where it was:

1. `symbols`: the language model on crowded scenes made of word embeddings, plain ones mixed in.
2. `tower`: the vision tower on frames of real crowded and plain files.
3. `join`: the language model on what the trained tower says about those files.

`--stage join --start FOLDER` without states of the stages before goes on from a finished model: its
tower stays as it is. `--stage folder` writes a checkpoint folder from the first two alone.

Every loss and accuracy goes to `log.jsonl`. Settings of a stage may be changed when it is resumed
(`--steps`, `--plain` ...); each change is a line of the log.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from experiments.x2l_tiny import crowded_tower, crowded_words
from experiments.x2l_tiny import folder as tiny_folder  # noqa: F401  (first: it makes transformers importable without CUDA)
from experiments.x2l_tiny.crowded_scenes import (
    ASKED_KINDS,
    BUCKETS,
    TOO_OFTEN,
    crowd_batch,
    with_buckets,
)
from experiments.x2l_tiny.float_muon import FloatMuon
from experiments.x2l_tiny.packed import (
    IGNORED,
    ORDER_LAYERS,
    RANK_LAYERS,
    WORD_LAYERS,
    Packed,
    logits,
)
from experiments.x2l_tiny.scenes import KINDS, Symbols, scene_batch
from experiments.x2l_tiny.train import fast_bf16, right_by_kind

TASKS = ("retrieval", "counting", "ordering")
EVALUATE_EVERY = 120  # steps
# Workers go on by themselves for so many steps, then average their weights: on a machine shared with
# other work a mean of gradients at every step kept them waiting for each other half of the time.
TOGETHER = 10
VIDEOS, TOWER_STEPS = 80, 400


@dataclass(frozen=True)
class Stage:
    """Settings of one stage of the language model.

    Attributes:
        name: `symbols` or `join`.
        steps: optimizer steps.
        decay: steps of falling learning rate at the end.
        muon: learning rate of the matrices.
        adam: learning rate of everything else.
        crowds: (time steps, objects in view, how often it is drawn).
        plains: (time steps, needles, how often it is drawn).
        plain: share of batches that are plain scenes.
        tokens: about so many tokens a batch and worker.
        questions: questions a scene.
        extra: weight of what lower layers should know.
        repeats: weight, within that, of how many equal objects came before.
        hay: share of crowded batches in which the tokens of empty places are kept.
        warmup: steps of rising learning rate.
        dense: crowded scenes a step of which only the lowest layers are run, for what those should
            know about time and repeats: a fifth of the price, and counting is what takes longest.
    """

    name: str
    steps: int
    decay: int
    muon: float
    adam: float
    crowds: tuple[tuple[int, int, float], ...]
    plains: tuple[tuple[int, int, float], ...]
    plain: float
    tokens: int = 2800
    questions: int = 15
    extra: float = 0.5
    repeats: float = 2.0
    hay: float = 0.65
    warmup: int = 30
    dense: int = 3


SYMBOLS_STAGE = Stage(
    name="symbols",
    steps=1900,
    decay=600,
    muon=0.008,
    adam=1e-3,
    crowds=((16, 2, 0.1), (32, 2, 0.25), (64, 2, 0.35), (64, 3, 0.1), (32, 4, 0.1), (64, 4, 0.1)),
    plains=((16, 8, 0.2), (32, 12, 0.5), (64, 12, 0.25), (128, 12, 0.05)),
    plain=0.3,
    tokens=4000,
    hay=0.5,
)  # fmt: skip
JOIN_STAGE = replace(SYMBOLS_STAGE, name="join", steps=1800, decay=550, plain=0.4, extra=0.3)


class SymbolCrowds(Symbols):
    """Symbols that also make the visual tokens of crowds."""

    def embed_crowds(self, rng: np.random.Generator, meaning: torch.Tensor) -> torch.Tensor:
        """(batch, steps * 16, hidden) for (batch, steps, 4, 4, 2)."""
        return self.embed(rng, [], meaning.flatten(1, 3))


def crowded_losses(
    model, probe: torch.nn.Linear, packed: Packed, repeats: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `tiny_packed.losses`, with buckets of time and clipped repeats for the visual tokens."""
    kept: dict[int, torch.Tensor] = {}
    decoder = model.get_decoder()

    def keep(number: int):
        def hook(module, inputs, output):
            kept[number] = output if isinstance(output, torch.Tensor) else output[0]

        return hook

    hooks = [
        decoder.layers[n - 1].register_forward_hook(keep(n))
        for n in (ORDER_LAYERS, RANK_LAYERS, WORD_LAYERS)
    ]
    try:
        scores = logits(model, packed).float()
    finally:
        for hook in hooks:
            hook.remove()
    loss = functional.cross_entropy(scores, packed.labels[packed.labels != IGNORED])
    extra = torch.zeros(())
    for number, labels in ((RANK_LAYERS, packed.ranks), (WORD_LAYERS, packed.told)):
        hidden = kept[number][:, -packed.questions.shape[1] :][labels != IGNORED]
        if len(hidden):
            said = model.lm_head(decoder.norm(hidden)).float()
            extra = extra + functional.cross_entropy(said, labels[labels != IGNORED])
    start = len(packed.prefix)
    hidden = kept[ORDER_LAYERS][:, start : start + packed.visual.shape[1]]
    return loss, extra + probed(model, probe, hidden, packed.order, repeats), scores


def probed(
    model, probe: torch.nn.Linear, hidden: torch.Tensor, order: torch.Tensor, repeats: float
) -> torch.Tensor:
    """Loss of the probe: time and repeats of every object's tokens after `ORDER_LAYERS` layers."""
    needle = order[..., 0] != IGNORED
    if not needle.any():
        return torch.zeros(())
    said = probe(model.get_decoder().norm(hidden[needle])).float()
    bucket, repeat = order[needle].unbind(-1)
    weight = torch.ones(TOO_OFTEN + 1)
    weight[TOO_OFTEN] = 0.1  # most objects of a crowd are those that come all the time
    loss = functional.cross_entropy(said[:, BUCKETS:], repeat, weight=weight)
    return repeats * loss + 0.3 * functional.cross_entropy(said[:, :BUCKETS], bucket)


def dense_loss(model, probe: torch.nn.Linear, packed: Packed, repeats: float) -> torch.Tensor:
    """The probe's loss on scenes without questions: only the layers below it are run."""
    decoder = model.get_decoder()
    batch, start = len(packed.visual), len(packed.prefix)
    before = torch.arange(start).expand(3, batch, -1)
    places = torch.cat([before, packed.grid + start], -1)
    prefix = model.get_input_embeddings()(packed.prefix).expand(batch, -1, -1)
    hidden = torch.cat([prefix, packed.visual], 1)
    turned = decoder.rotary_emb(hidden, places)
    for layer in decoder.layers[:ORDER_LAYERS]:
        hidden = layer(hidden, position_embeddings=turned, packed_lengths=())
    return probed(model, probe, hidden[:, start:], packed.order, repeats)


def draw_batch(level, rng, words, crowds, plains, stage: Stage, accuracy: dict):
    """One batch of crowded or plain scenes and a name of its sort.

    Args:
        level: chance for its sort and sizes: the same in every worker, so that none waits.
        rng: chance for all else.
        words: token ids.
        crowds: gives the visual tokens of crowded scenes.
        plains: gives those of plain ones.
        stage: the settings.
        accuracy: by sort and kind; what is known is asked less.
    """
    plain = level.random() < stage.plain
    options = stage.plains if plain else stage.crowds
    shares = np.array([option[2] for option in options])
    steps, number, _ = options[level.choice(len(options), p=shares / shares.sum())]
    sort = "plain" if plain else "crowd"
    lack = {kind: 0.08 + 1 - accuracy[sort, kind] for kind in ASKED_KINDS}
    if not plain:
        hay = bool(level.random() < stage.hay)
        visual = 16 * steps if hay else 4 * number * steps
        batch = max(2, stage.tokens // (16 + visual + 40 * stage.questions))
        packed = crowd_batch(rng, words, crowds, batch, steps, number, hay, stage.questions, lack)
        return packed, sort
    visual = int(16 * steps * level.choice([0.25, 0.5, 1.0], p=[0.2, 0.2, 0.6]))
    stride = 2 if level.random() < 0.7 else int(level.choice([1, 4]))
    weights = np.array([lack.get(kind, 0.0) for kind in KINDS])
    packed = scene_batch(
        rng, words, plains, batch=max(2, stage.tokens // (16 + visual + 41 * stage.questions)),
        steps=steps, events=int(level.integers((3 * number + 3) // 4, number + 1)), visual=visual,
        questions=stage.questions, stride=stride, weights=weights / weights.sum(),
        thin=bool(level.random() < 0.1),
    )  # fmt: skip
    return with_buckets(packed, stride), sort


def with_long(
    plains: tuple[tuple[int, int, float], ...], long: float
) -> tuple[tuple[int, int, float], ...]:
    """The same plain scenes with another share of the longest; the others keep their proportions."""
    longest = max(steps for steps, _, _ in plains)
    others = sum(share for steps, _, share in plains if steps != longest)
    return tuple(
        (steps, number, long if steps == longest else share * (1 - long) / others)
        for steps, number, share in plains
    )


def optimizers(model, probe: torch.nn.Linear, stage: Stage) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the decoder's layers, AdamW for everything else and the probe."""
    decoder = model.get_decoder()
    matrices = [p for p in decoder.layers.parameters() if p.ndim == 2]
    others = [p for p in decoder.parameters() if not any(p is m for m in matrices)]
    others += list(probe.parameters())
    return [
        FloatMuon(matrices, lr=stage.muon, weight_decay=0.01),
        torch.optim.AdamW(others, lr=stage.adam, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


@torch.no_grad()
def average(model, probe: torch.nn.Linear, workers: int) -> None:
    """Replaces every worker's weights by their mean."""
    params = [*model.get_decoder().parameters(), *probe.parameters()]
    flat = torch.cat([p.flatten() for p in params])
    torch.distributed.all_reduce(flat)
    for p, part in zip(params, flat.split([p.numel() for p in params]), strict=True):
        p.copy_(part.view_as(p) / workers)


@torch.no_grad()
def held_out(model, words, crowds, plains, scenes: int = 12) -> dict[str, dict[str, float]]:
    """Letter accuracies on scenes that no training draws: by density, and plain."""
    found = {}
    even = dict.fromkeys(ASKED_KINDS, 1.0)
    for name, in_view in (("crowd2", 2), ("crowd4", 4), ("plain", 0)):
        rng = np.random.default_rng([777, in_view])
        total = dict.fromkeys(TASKS, (0, 0))
        for _ in range(scenes // 6):
            if in_view:
                drawn = crowd_batch(rng, words, crowds, 6, 64, in_view, True, 15, even)
            else:
                shares = np.array([float(kind in ASKED_KINDS) for kind in KINDS])
                drawn = scene_batch(
                    rng, words, plains, batch=6, steps=64, events=12, visual=1024, questions=15,
                    stride=2, weights=shares / shares.sum(),
                )  # fmt: skip
            with torch.autocast(model.device.type, torch.bfloat16, enabled=fast_bf16(model)):
                scores = logits(model, drawn).float()
            for kind, (right, asked) in right_by_kind(drawn, scores).items():
                if kind in total:
                    total[kind] = (total[kind][0] + right, total[kind][1] + asked)
        found[name] = {task: round(r / max(n, 1), 3) for task, (r, n) in total.items()}
        found[name]["all"] = round(float(np.mean([found[name][task] for task in TASKS])), 3)
    return found


def train_crowded(
    model, probe: torch.nn.Linear, stage: Stage, seed: int, draw: Callable, more: Callable,
    check: Callable, folder: Path, stop: int | None, worker: int, workers: int,
) -> None:  # fmt: skip
    """Trains the language model; which kinds are asked follows its own accuracy.

    What a step draws depends on seed, step and worker only, so a stopped run goes on as it would
    have (but for the running accuracies, of which the first worker's are kept).

    Args:
        model: changed in place.
        probe: reads time and repeats from a lower layer, for training only; changed in place.
        stage: the settings.
        seed: of everything drawn.
        draw: gives a batch and its sort for (level chance, chance, stage, accuracy).
        more: gives crowded scenes without questions for (chance, stage).
        check: gives held-out accuracies.
        folder: gets the state and the log.
        stop: step after which to stop early.
        worker: number of this process; the first one writes.
        workers: processes, each with a batch of its own.
    """
    model.get_decoder().set_attn_implementation("packed")
    optims = optimizers(model, probe, stage)
    step, seconds = 0, 0.0
    accuracy = {(sort, kind): 0.5 for sort in ("crowd", "plain") for kind in ASKED_KINDS}
    file = folder / f"{stage.name}.pt"
    if file.exists():
        state = torch.load(file, weights_only=False, map_location="cpu")
        model.load_state_dict(state["model"])
        probe.load_state_dict(state["probe"])
        for optim, saved in zip(optims, state["optims"], strict=True):
            optim.load_state_dict(saved)
        step, seconds, known = state["progress"]
        accuracy |= known
    if workers > 1:
        torch.distributed.barrier()  # all have read the state before one writes it
    rates = (stage.muon, stage.adam)
    bf16 = fast_bf16(model)
    log = (folder / ("log.jsonl" if worker == 0 else f"log-{worker}.jsonl")).open("a")

    def write(line: dict) -> None:
        log.write(json.dumps({"stage": stage.name, "step": step} | line) + "\n")
        log.flush()

    write({"settings": asdict(stage), "workers": workers})
    while step < stage.steps and step != stop:
        begun = time.perf_counter()
        left = (stage.steps - step) / stage.decay
        scale = max(0.01, min(1.0, (step + 1) / stage.warmup, left))
        for optim, rate in zip(optims, rates, strict=True):
            for group in optim.param_groups:
                group["lr"] = rate * scale
        level = np.random.default_rng([seed, len(stage.name), step])
        rng = np.random.default_rng([seed, len(stage.name), step, worker])
        packed, sort = draw(level, rng, stage, accuracy)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            loss, extra, scores = crowded_losses(model, probe, packed, stage.repeats)
            if sort == "crowd" and stage.dense:
                extra = extra + dense_loss(model, probe, more(rng, stage), stage.repeats)
        (loss + stage.extra * extra).backward()
        torch.nn.utils.clip_grad_norm_(model.get_decoder().parameters(), 1.0)
        for optim in optims:
            optim.step()
            optim.zero_grad(set_to_none=True)
        for kind, (right, asked) in right_by_kind(packed, scores.detach()).items():
            if asked:
                keep = 0.95 ** (asked / 24)
                accuracy[sort, kind] = keep * accuracy[sort, kind] + (1 - keep) * right / asked
        step += 1
        if workers > 1 and (step % TOGETHER == 0 or step in (stage.steps, stop)):
            average(model, probe, workers)
        seconds += time.perf_counter() - begun
        if step <= 10 or step % 20 == 0:
            line = {"sort": sort, "tokens": packed.visual.shape[0] * packed.visual.shape[1]}
            line |= {"loss": round(loss.item(), 4), "extra": round(extra.item(), 4)}
            line["seconds"] = round(seconds, 1)
            write(line | {f"{s}_{kind}": round(v, 3) for (s, kind), v in accuracy.items()})
        last = step in (stage.steps, stop)
        if worker == 0 and (step % 50 == 0 or last):
            state = {
                "model": model.state_dict(),
                "probe": probe.state_dict(),
                "optims": [optim.state_dict() for optim in optims],
                "progress": (step, seconds, accuracy),
            }
            torch.save(state, file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)
        if worker == 0 and (step % EVALUATE_EVERY == 0 or last):
            write({"held_out": check(), "seconds": round(seconds, 1)})
    log.close()


def run(worker: int, given: argparse.Namespace) -> None:
    """What each worker does."""
    if given.workers > 1:
        os.setsid()  # each worker is a job of its own to a scheduler that shares by session
    torch.set_num_threads(max(1, given.threads // given.workers))
    torch.manual_seed(given.seed)
    if given.workers > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{given.meeting}", rank=worker, world_size=given.workers
        )
    model, processor, words = crowded_words.load(given.start)
    if given.stage == "tower":
        crowded_tower.train_tower(
            model, words, processor, given.out, given.seed, given.steps or TOWER_STEPS, VIDEOS
        )
        return
    probe = torch.nn.Linear(model.config.text_config.hidden_size, BUCKETS + TOO_OFTEN + 1)
    if given.stage == "folder":
        learned = torch.load(given.out / "symbols.pt", weights_only=False)["model"]
        model.load_state_dict(learned)
        tower = torch.load(given.out / "tower.pt", weights_only=False)["tower"]
        model.model.visual.load_state_dict(tower)
        model.save_pretrained(given.out / "x2l_tiny")
        processor.save_pretrained(given.out / "x2l_tiny")
        return
    wanted = {
        name: getattr(given, name)
        for name in ("steps", "decay", "plain", "tokens", "muon", "adam", "dense")
    }
    changed = {name: value for name, value in wanted.items() if value is not None}
    stage = replace(SYMBOLS_STAGE if given.stage == "symbols" else JOIN_STAGE, **changed)
    if given.long is not None:
        stage = replace(stage, plains=with_long(stage.plains, given.long))
    if given.stage == "symbols":
        crowds = plains = SymbolCrowds(words, model.get_input_embeddings().weight.detach().clone())
    else:
        if worker == 0:
            crowded_tower.frame_banks(given.out, given.seed, VIDEOS)
        if given.workers > 1:
            torch.distributed.barrier()  # the others read what the first one made
        if (given.out / "tower.pt").exists():
            tower = torch.load(given.out / "tower.pt", weights_only=False)["tower"]
            model.model.visual.load_state_dict(tower)
        crowds, plains = crowded_tower.feature_banks(
            model, processor, given.out, given.seed, VIDEOS
        )
        if (given.out / "symbols.pt").exists() and not (given.out / "join.pt").exists():
            learned = torch.load(given.out / "symbols.pt", weights_only=False)
            model.load_state_dict(
                {name: v for name, v in learned["model"].items() if ".visual." not in name},
                strict=False,
            )
            probe.load_state_dict(learned["probe"])

    def draw(level, rng, stage, accuracy):
        return draw_batch(level, rng, words, crowds, plains, stage, accuracy)

    def more(rng, stage):
        in_view = 2 if rng.random() < 0.8 else 4
        batch = max(1, 2 * stage.dense // in_view)
        hay = bool(rng.random() < 0.3)
        return crowd_batch(rng, words, crowds, batch, 64, in_view, hay, 0, {})

    def check():
        return held_out(model, words, crowds, plains)

    train_crowded(
        model, probe, stage, given.seed, draw, more, check, given.out, given.stop, worker,
        given.workers,
    )  # fmt: skip
    if given.stage == "join" and worker == 0:
        model.save_pretrained(given.out / "x2l_tiny")
        processor.save_pretrained(given.out / "x2l_tiny")


def main() -> None:
    """Reads the command line and starts the workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", default="x2l/models/x2l_tiny", help="the first version")
    parser.add_argument("--out", type=Path, default=Path("outputs/train_crowded"))
    parser.add_argument(
        "--stage", choices=["symbols", "tower", "folder", "join"], default="symbols"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="of all workers together")
    parser.add_argument("--workers", type=int, default=2, help="processes with a batch each")
    parser.add_argument("--stop", type=int, help="stop after that step; call again to go on")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--decay", type=int)
    parser.add_argument("--tokens", type=int, help="about so many tokens a batch and worker")
    parser.add_argument("--plain", type=float, help="share of plain batches")
    parser.add_argument("--long", type=float, help="share of the longest among plain batches")
    parser.add_argument("--muon", type=float, help="learning rate of the matrices")
    parser.add_argument("--adam", type=float, help="learning rate of everything else")
    parser.add_argument("--dense", type=int, help="crowds a step of which only low layers are run")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    given.meeting = (given.out / f"meeting-{time.time_ns()}").resolve()
    if given.workers > 1:
        torch.multiprocessing.spawn(run, (given,), nprocs=given.workers)
    else:
        run(0, given)


if __name__ == "__main__":
    main()
