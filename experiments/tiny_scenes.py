"""Training questions: what is asked about a scene, as token ids; and scenes made of symbols.

A symbolic scene is a video as the trained vision tower would show it: where a needle is, its four
visual tokens are the word embedding of its colour plus that of its shape plus noise, elsewhere the
embedding of <|video_pad|> plus noise. It costs nothing to draw, so the language model can learn to
answer while the tower is not there yet.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from tiny_folder import WORD
from tiny_packed import IGNORED, Packed

from x2l.benchmarks.choices import INSTRUCTION
from x2l.benchmarks.needle_scene import COLOURS, SHAPES

# Kinds of training questions; the last three are the benchmark's own, the others lead there.
KINDS = (
    "retrieval_word",
    "counting_word",
    "ordering_word",
    "retrieval",
    "counting",
    "ordering",
)
# Blocks come in two lengths only, because the CPU's matrix library compiles a kernel for every new
# shape (it took longer than the arithmetic when every batch had its own shape).
SHORT = ("retrieval_word", "counting_word")
SHORT_LENGTH, LONG_LENGTH = 20, 48
SUPERCELLS = (  # rows and columns of a needle's four visual tokens, by place (0-3 quadrants, centre)
    (0, 0),
    (0, 2),
    (2, 0),
    (2, 2),
    (1, 1),
)


@dataclass(frozen=True)
class Events:
    """Needles of one scene as arrays of one length, in time order: step, shape, colour, place."""

    step: np.ndarray
    shape: np.ndarray
    colour: np.ndarray
    place: np.ndarray


class Words:
    """Token ids of every piece of a prompt, coded once."""

    def __init__(self, tokenizer) -> None:
        """Keeps the tokenizer; pieces are coded when first asked for."""
        self.encode = lru_cache(maxsize=None)(
            lambda text: tuple(tokenizer.encode(text, add_special_tokens=False))
        )
        self.prefix = self.encode(
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\n<|vision_start|>"
        )
        self.pad, self.video, self.after, self.end = (
            tokenizer.convert_tokens_to_ids(token)
            for token in ("<|endoftext|>", "<|video_pad|>", "<|vision_end|>", "<|im_end|>")
        )
        self.colours = [self.one(" " + word) for word in COLOURS]
        self.shapes = [self.one(" " + word) for word in SHAPES]

    def one(self, text: str) -> int:
        """The id of a text that is one token."""
        (token,) = self.encode(text)
        return token

    def prompt(self, question: str, choices: list[str], word: bool) -> list[int]:
        """Ids from the question to the end of the generation prompt, as the chat template has it."""
        ids = list(self.encode(question + "\n"))
        for letter, choice in zip("ABCD", choices, strict=False):
            ids += self.encode(f"{letter}. {choice}\n")
        ids += self.encode(WORD if word else INSTRUCTION)
        return [*ids, *self.encode("<|im_end|>\n<|im_start|>assistant\n")]


def draw_events(rng: np.random.Generator, steps: int, count: int) -> Events:
    """Draws one scene: a few shapes appear once, others two to four times."""
    singles = int(rng.integers(min(2, count), min(count, 8) + 1))
    shapes = rng.permutation(len(SHAPES))
    drawn = list(shapes[:singles])
    for shape in shapes[singles:]:
        left = count - len(drawn)
        if left <= 0:
            break
        drawn += [shape] * min(left, int(rng.integers(2, 5)))
    while len(drawn) < count:
        drawn.append(int(shapes[rng.integers(singles, len(shapes))]))
    insert = rng.random() < 0.5
    return Events(
        step=np.sort(rng.choice(steps, count, replace=False)),
        shape=rng.permutation(np.array(drawn[:count])),
        colour=rng.integers(0, len(COLOURS), count),
        place=np.full(count, 4) if insert else rng.integers(0, 4, count),
    )


def ask(
    rng: np.random.Generator, words: Words, events: Events, kind: str
) -> tuple[list[int], int] | None:
    """Draws one question: prompt ids and the answer's id; None where the scene cannot be asked."""
    task, _, word = kind.partition("_")
    counts = np.bincount(events.shape, minlength=len(SHAPES))
    single = np.flatnonzero(counts == 1)
    if task == "retrieval":
        if not len(single):
            return None
        shape = int(rng.choice(single))
        right = COLOURS[int(events.colour[events.shape == shape][0])]
        text = f"What is the colour of the {SHAPES[shape]}?"
        wrong = [c for c in rng.permutation(COLOURS) if c != right][:3]
    elif task == "counting":
        count = int(rng.choice(np.unique(counts[(counts > 0) & (counts <= 4)])))
        shape = int(rng.choice(np.flatnonzero(counts == count)))
        right, text = str(count), f"How many times does the {SHAPES[shape]} appear?"
        wrong = [n for n in rng.permutation(list("1234")) if n != right]
    else:
        if len(single) < 2:
            return None
        size = int(rng.integers(2, min(4, len(single)) + 1)) if rng.random() < 0.5 else 4
        asked = rng.permutation(single)[:size]
        seen = [s for s in events.shape if s in asked]
        first = rng.random() < 0.5
        right = SHAPES[seen[0] if first else seen[-1]]
        text = f"Which of these shapes appears {'first' if first else 'last'}?"
        wrong = [SHAPES[s] for s in asked if SHAPES[s] != right]
    place = int(rng.integers(len(wrong) + 1))
    choices = [*wrong[:place], right, *wrong[place:]]
    if word:
        shown = choices if task == "ordering" else []
        answer = words.one(right if task == "counting" else " " + right)
        return words.prompt(text, shown, word=True), answer
    return words.prompt(text, choices, word=False), words.one("ABCD"[place])


def pack_questions(
    rng: np.random.Generator,
    words: Words,
    scenes: list[Events],
    questions: int,
    weights: np.ndarray,
) -> dict:
    """Draws questions for each scene: the `Packed` fields lengths, questions, labels and kinds.

    Question j has the same kind in every scene. A scene that cannot be asked it gets an empty
    block. A quarter of the questions are of the `SHORT` kinds.
    """
    short = np.array([kind in SHORT for kind in KINDS])
    number = questions // 4
    kinds = []
    for chosen, count in ((short, number), (~short, questions - number)):
        share = weights * chosen
        kinds += sorted(rng.choice(len(KINDS), size=count, p=share / share.sum()).tolist())
    lengths = (SHORT_LENGTH,) * number + (LONG_LENGTH,) * (questions - number)
    ids = np.full((len(scenes), sum(lengths)), words.pad)
    labels = np.full_like(ids, IGNORED)
    for row, events in enumerate(scenes):
        at = 0
        for kind, length in zip(kinds, lengths, strict=True):
            asked = ask(rng, words, events, KINDS[kind])
            if asked is not None:
                prompt, answer = asked
                size = len(prompt)
                ids[row, at : at + size], ids[row, at + size] = prompt, answer
                labels[row, at + size - 1], labels[row, at + size] = answer, words.end
            at += length
    return {
        "lengths": lengths,
        "questions": torch.from_numpy(ids),
        "labels": torch.from_numpy(labels),
        "kinds": tuple(kinds),
    }


def symbolic_batch(
    rng: np.random.Generator,
    words: Words,
    embedding: torch.Tensor,
    batch: int,
    steps: int,
    events: int,
    visual: int,
    questions: int,
    stride: int,
    noise: float,
    weights: np.ndarray,
) -> Packed:
    """Draws scenes of symbols with questions.

    Args:
        rng: the only source of chance.
        words: token ids.
        embedding: (vocabulary, hidden), the word embeddings.
        batch: scenes.
        steps: time steps (frame pairs) of each scene.
        events: needles of each scene.
        visual: how many visual tokens each scene keeps: those of its needles and others at
            random; positions stay what they were.
        questions: questions a scene.
        stride: time positions from step to step (2 at one frame a second).
        noise: length of the noise vector of a visual token.
        weights: probability of each kind.
    """
    scenes = [draw_events(rng, steps, events) for _ in range(batch)]
    meaning = np.zeros((batch, steps, 4, 4, 2), dtype=np.int64)  # colour + 1, shape + 1; 0 = hay
    for row, scene in enumerate(scenes):
        columns = (scene.step, scene.shape, scene.colour, scene.place)
        for step, shape, colour, place in zip(*columns, strict=True):
            y, x = SUPERCELLS[place]
            meaning[row, step, y : y + 2, x : x + 2] = colour + 1, shape + 1
    flat = torch.from_numpy(meaning.reshape(batch, -1, 2))
    key = torch.from_numpy(rng.random(flat.shape[:2])) + (flat[..., 0] > 0) * 2.0
    kept = key.topk(visual, dim=1).indices.sort(dim=1).values  # (batch, visual)
    flat = flat.gather(1, kept[..., None].expand(-1, -1, 2))
    colours = embedding[torch.tensor([words.video, *words.colours])]
    shapes = embedding[torch.tensor([words.video, *words.shapes])]
    shapes = torch.cat([torch.zeros_like(shapes[:1]), shapes[1:]])  # hay is one vector, not two
    embeds = colours[flat[..., 0]] + shapes[flat[..., 1]]
    chance = torch.from_numpy(rng.standard_normal(embeds.shape, dtype=np.float32))
    embeds = embeds + chance * (noise / embeds.shape[-1] ** 0.5)
    grid = torch.stack([kept // 16 * stride, kept % 16 // 4, kept % 4])
    return Packed(
        prefix=torch.tensor(words.prefix),
        visual=embeds,
        grid=grid,
        after=words.after,
        **pack_questions(rng, words, scenes, questions, weights),
    )
