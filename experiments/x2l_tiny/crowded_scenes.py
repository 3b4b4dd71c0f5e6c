"""Training batches of crowded scenes: questions as token ids, visual tokens from symbols or files.

A batch looks like one of `tiny_scenes.scene_batch` and goes through the same packed pass. Where a
video has more objects than ranks can be told apart, lower layers learn which twelfth of the time
an object lies in, and how many equal ones came before it, 4 standing for more.
"""

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from experiments.x2l_tiny.packed import IGNORED, Packed
from experiments.x2l_tiny.scenes import KINDS, SHORT, Asked, Words
from x2l.benchmarks.needle.crowded import Crowd, draw_crowd
from x2l.benchmarks.needle.scene import COLOURS, MOST_REPEATS, OPTIONS, SHAPES

ASKED_KINDS = tuple(kind for kind in KINDS if kind.partition("_")[0] not in ("rank", "shape"))
BUCKETS = 12  # parts of the time line
LONGEST = 64  # time steps that the buckets of lower layers span
TOO_OFTEN = MOST_REPEATS  # class of repeats that stands for four and more
NAMES = "0123456789ab"  # one token each


class CrowdSource(Protocol):
    """Gives visual tokens for crowds: symbols or the tower's bank."""

    def embed_crowds(self, rng: np.random.Generator, meaning: torch.Tensor) -> torch.Tensor:
        """(batch, steps * 16, hidden) for (batch, steps, 4, 4, 2) colour + 1 and shape + 1."""
        ...


def ask_crowd(rng: np.random.Generator, words: Words, crowd: Crowd, kind: str) -> Asked:
    """Draws one question of a kind, as the benchmark asks it."""
    task, _, word = kind.partition("_")
    ranks: dict[int, int] = {}
    if task == "retrieval":
        shape = int(rng.choice(crowd.single))
        right = COLOURS[crowd.colour[crowd.shape == shape][0]]
        text = f"What is the colour of the {SHAPES[shape]}?"
        wrong = [c for c in rng.permutation(COLOURS) if c != right][: OPTIONS - 1]
    elif task == "counting":
        # Each count is asked about as often as the others.
        shape = int(
            rng.choice([*crowd.often, *crowd.often, *crowd.often, crowd.single[0], crowd.single[1]])
        )
        right = str(int((crowd.shape == shape).sum()))
        text = f"How many times does the {SHAPES[shape]} appear?"
        wrong = [n for n in rng.permutation(list("1234")) if n != right]
    else:
        size = OPTIONS if rng.random() < 0.7 else int(rng.integers(2, OPTIONS))
        when = {int(s): int(np.argwhere(crowd.shape == s)[0, 0]) for s in crowd.single}
        chosen = [int(s) for s in rng.permutation(crowd.single)[:size]]
        for shape in chosen:
            bucket = when[shape] * BUCKETS // len(crowd.shape)
            ranks[words.shapes[shape]] = words.one(NAMES[bucket])
        first = rng.random() < 0.5
        pick = (min if first else max)(chosen, key=when.__getitem__)
        right = SHAPES[pick]
        text = f"Which of these shapes appears {'first' if first else 'last'}?"
        wrong = [SHAPES[s] for s in chosen if s != pick]
    place = int(rng.integers(len(wrong) + 1))
    choices = [*wrong[:place], right, *wrong[place:]]
    told = words.one(right if right.isdigit() else " " + right)
    if word:
        shown = choices if task == "ordering" else []
        return Asked(words.prompt(text, shown, word=True), told, told, ranks)
    return Asked(words.prompt(text, choices, word=False), words.one("ABCD"[place]), told, ranks)


def pack_crowd_questions(
    rng: np.random.Generator,
    words: Words,
    crowds: list[Crowd],
    questions: int,
    weights: dict[str, float],
) -> dict:
    """The `Packed` fields that hold the questions; a third are of the short kinds."""
    short = [kind for kind in ASKED_KINDS if kind in SHORT]
    long = [kind for kind in ASKED_KINDS if kind not in SHORT]
    kinds: list[str] = []
    for chosen, number in ((short, questions // 3), (long, questions - questions // 3)):
        if not number:
            continue
        share = np.array([weights[kind] for kind in chosen])
        kinds += sorted(rng.choice(chosen, size=number, p=share / share.sum()).tolist())
    asked = [[ask_crowd(rng, words, crowd, kind) for kind in kinds] for crowd in crowds]
    lengths = tuple(
        max(len(each.prompt) for each in column) + 1 for column in zip(*asked, strict=True)
    )
    ids = np.full((len(crowds), sum(lengths)), words.pad)
    labels, told, ranks = (np.full_like(ids, IGNORED) for _ in range(3))
    for row, line in enumerate(asked):
        at = 0
        for each, length in zip(line, lengths, strict=True):
            size = len(each.prompt)
            ids[row, at : at + size], ids[row, at + size] = each.prompt, each.answer
            labels[row, at + size - 1], labels[row, at + size] = each.answer, words.end
            told[row, at + size - 1] = each.told
            for place, token in enumerate(each.prompt):
                ranks[row, at + place] = each.ranks.get(token, IGNORED)
            at += length
    return {
        "lengths": lengths,
        "questions": torch.from_numpy(ids),
        "labels": torch.from_numpy(labels),
        "told": torch.from_numpy(told),
        "ranks": torch.from_numpy(ranks),
        "kinds": tuple(KINDS.index(kind) for kind in kinds),
    }


def tokens_of(places: np.ndarray) -> np.ndarray:
    """(batch, steps, 4 places) to (batch, steps, 4, 4): each quadrant has 2 x 2 tokens."""
    batch, steps, _ = places.shape
    return places.reshape(batch, steps, 2, 2).repeat(2, 2).repeat(2, 3)


def repeats_before(shape: np.ndarray) -> np.ndarray:
    """(batch, steps, places): how many of the same shape came before, at most `TOO_OFTEN`."""
    flat = shape.reshape(len(shape), -1)
    found = np.zeros_like(flat)
    for symbol in range(len(SHAPES)):
        same = flat == symbol
        found[same] = (same.cumsum(1) - 1)[same]
    return found.clip(0, TOO_OFTEN).reshape(shape.shape)


def crowd_batch(
    rng: np.random.Generator,
    words: Words,
    source: CrowdSource,
    batch: int,
    steps: int,
    in_view: int,
    hay: bool,
    questions: int,
    weights: dict[str, float],
    stride: int = 2,
) -> Packed:
    """Draws crowded scenes with questions.

    Args:
        rng: the only source of chance.
        words: token ids.
        source: gives the visual tokens.
        batch: scenes.
        steps: time steps (frame pairs).
        in_view: objects a step.
        hay: whether the tokens of empty places are kept too.
        questions: questions a scene.
        weights: how much each of `ASKED_KINDS` is asked.
        stride: time positions from step to step (2 at one frame a second).
    """
    crowds = [draw_crowd(rng, steps, in_view) for _ in range(batch)]
    shape = np.stack([crowd.shape for crowd in crowds])
    colour = np.stack([crowd.colour for crowd in crowds])
    meaning = torch.from_numpy(np.stack([tokens_of(colour) + 1, tokens_of(shape) + 1], -1))
    filled = tokens_of(shape) >= 0
    bucket = (np.arange(steps) * BUCKETS // LONGEST).clip(0, BUCKETS - 1)[None, :, None, None]
    order = np.stack(
        [np.broadcast_to(bucket, filled.shape), tokens_of(repeats_before(shape))], axis=-1
    )
    order = np.where(filled[..., None], order, IGNORED).reshape(batch, -1, 2)
    number = 16 * steps if hay else 4 * in_view * steps
    key = torch.from_numpy(rng.random((batch, 16 * steps)) + 2.0 * filled.reshape(batch, -1))
    kept = key.topk(number, dim=1).indices.sort(dim=1).values
    embeds = source.embed_crowds(rng, meaning)
    return Packed(
        prefix=torch.tensor(words.prefix),
        visual=embeds.gather(1, kept[..., None].expand(-1, -1, embeds.shape[-1])),
        order=torch.from_numpy(order).gather(1, kept[..., None].expand(-1, -1, 2)),
        grid=torch.stack([kept // 16 * stride, kept % 16 // 4, kept % 4]),
        after=words.after,
        **pack_crowd_questions(rng, words, crowds, questions, weights),
    )


def with_buckets(packed: Packed, stride: int) -> Packed:
    """A batch of plain scenes with the time buckets of crowded ones in place of ranks."""
    needle = packed.order[..., 0] != IGNORED
    bucket = packed.grid[0] // stride * BUCKETS // LONGEST
    bucket = torch.where(needle & (bucket < BUCKETS), bucket, IGNORED)
    order = torch.stack([bucket, packed.order[..., 1].clamp(max=TOO_OFTEN)], -1)
    order = torch.where((bucket != IGNORED)[..., None], order, IGNORED)
    return replace(packed, order=order, ranks=torch.full_like(packed.ranks, IGNORED))
