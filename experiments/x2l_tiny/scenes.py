"""Training questions: what is asked about a scene, as token ids; and scenes made of symbols.

A symbolic scene is a video as the trained vision tower would show it: where a needle is, its four
visual tokens are the word embedding of its colour plus that of its shape plus noise, elsewhere the
embedding of <|video_pad|> plus noise. It costs nothing to draw, so the language model can learn to
answer while the tower is not there yet.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import torch

from experiments.x2l_tiny.folder import WORD
from experiments.x2l_tiny.packed import IGNORED, Packed
from x2l.benchmarks.needle.scene import COLOURS, SHAPES
from x2l.benchmarks.option_text import INSTRUCTION

# Kinds of training questions; the last three are the benchmark's own, the others lead there
# (rank: how many shapes come before one; it gives ordering something to compare. shape: which
# shape has a colour; its options are shapes, as ordering's are, so that ordering need not learn
# both to find a shape and to turn it into a letter).
KINDS = (
    "retrieval_word",
    "counting_word",
    "ordering_word",
    "rank_word",
    "shape_word",
    "shape",
    "retrieval",
    "counting",
    "ordering",
)
# Blocks come in two lengths only, because the CPU's matrix library compiles a kernel for every new
# shape (it took longer than the arithmetic when every batch had its own shape).
SHORT = ("retrieval_word", "counting_word", "rank_word", "shape_word")
SHORT_LENGTH, LONG_LENGTH = 24, 48
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


@dataclass(frozen=True)
class Asked:
    """A training question.

    Attributes:
        prompt: ids up to the end of the generation prompt.
        answer: id of the answer.
        told: id of the word that the answer stands for (the same, where it is a word).
        ranks: for ordering, by a shape's id: the id that tells how many needles come before it.
    """

    prompt: list[int]
    answer: int
    told: int
    ranks: dict[int, int]


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


@cache
def ways(count: int, shapes: int = len(SHAPES), least: int = 1) -> tuple[tuple[int, ...], ...]:
    """Every way to share `count` needles among at most `shapes` shapes, each 1 to 4 times."""
    if count == 0:
        return ((),)
    if shapes == 0:
        return ()
    return tuple(
        (part, *rest)
        for part in range(least, min(4, count) + 1)
        for rest in ways(count - part, shapes - 1, part)
    )


def draw_events(rng: np.random.Generator, steps: int, count: int) -> Events:
    """Draws one scene; two of three have many single shapes, the others a count drawn evenly."""
    if rng.random() < 0.67:
        choice = [way for way in ways(count) if way.count(1) >= min(4, count - 2)]
    else:
        often = rng.integers(1, min(4, count) + 1)  # so that every count is asked for
        choice = [way for way in ways(count) if often in way]
    way = choice[rng.integers(len(choice))]
    drawn = np.repeat(rng.permutation(len(SHAPES))[: len(way)], way)
    insert = rng.random() < 0.5
    return Events(
        step=np.sort(rng.choice(steps, count, replace=False)),
        shape=rng.permutation(drawn),
        colour=rng.integers(0, len(COLOURS), count),
        place=np.full(count, 4) if insert else rng.integers(0, 4, count),
    )


def ask(rng: np.random.Generator, words: Words, events: Events, kind: str) -> Asked | None:
    """Draws one question; None where the scene cannot be asked it."""
    ranks: dict[int, int] = {}
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
        present = np.unique(counts[counts > 0])
        count = int(rng.choice(present, p=present / present.sum()))  # 1 is there most often
        shape = int(rng.choice(np.flatnonzero(counts == count)))
        right, text = str(count), f"How many times does the {SHAPES[shape]} appear?"
        wrong = [n for n in rng.permutation(list("1234")) if n != right]
    elif task == "shape":
        only = np.flatnonzero(np.bincount(events.colour, minlength=len(COLOURS)) == 1)
        if not len(only):
            return None
        colour = int(rng.choice(only))
        right = SHAPES[int(events.shape[events.colour == colour][0])]
        text = f"Which shape is {COLOURS[colour]}?"
        wrong = [s for s in rng.permutation(SHAPES) if s != right][:3]
    elif task == "rank":
        single = [s for s in single if np.flatnonzero(events.shape == s)[0] < 10]
        if not single:
            return None
        shape = int(rng.choice(single))
        right = str(np.flatnonzero(events.shape == shape)[0])
        text, wrong = f"How many shapes appear before the {SHAPES[shape]}?", []
    else:
        if len(single) < 2:
            return None
        size = int(rng.integers(2, min(4, len(single)) + 1)) if rng.random() < 0.5 else 4
        asked = rng.permutation(single)[:size]
        seen = [s for s in events.shape if s in asked]
        for shape in asked:
            rank = np.flatnonzero(events.shape == shape)[0]
            ranks[words.shapes[shape]] = words.one("0123456789ab"[rank])
        first = rng.random() < 0.5
        right = SHAPES[seen[0] if first else seen[-1]]
        text = f"Which of these shapes appears {'first' if first else 'last'}?"
        wrong = [SHAPES[s] for s in asked if SHAPES[s] != right]
    place = int(rng.integers(len(wrong) + 1))
    choices = [*wrong[:place], right, *wrong[place:]]
    if word:
        shown = choices if task == "ordering" else []
        answer = words.one(right if right.isdigit() else " " + right)
        return Asked(words.prompt(text, shown, word=True), answer, answer, ranks)
    told = words.one(right if right.isdigit() else " " + right)
    return Asked(words.prompt(text, choices, word=False), words.one("ABCD"[place]), told, ranks)


def pack_questions(
    rng: np.random.Generator,
    words: Words,
    scenes: list[Events],
    questions: int,
    weights: np.ndarray,
) -> dict:
    """Draws questions for each scene: the `Packed` fields lengths, questions, labels and kinds.

    Question j has the same kind in every scene. A scene that cannot be asked it gets an empty
    block. Three of eight questions are of the `SHORT` kinds.
    """
    short = np.array([kind in SHORT for kind in KINDS])
    number = 3 * questions // 8
    kinds = []
    for chosen, count in ((short, number), (~short, questions - number)):
        share = weights * chosen
        kinds += sorted(rng.choice(len(KINDS), size=count, p=share / share.sum()).tolist())
    lengths = (SHORT_LENGTH,) * number + (LONG_LENGTH,) * (questions - number)
    ids = np.full((len(scenes), sum(lengths)), words.pad)
    labels, told, ranks = (np.full_like(ids, IGNORED) for _ in range(3))
    for row, events in enumerate(scenes):
        at = 0
        for kind, length in zip(kinds, lengths, strict=True):
            asked = ask(rng, words, events, KINDS[kind])
            if asked is not None:
                size = len(asked.prompt)
                ids[row, at : at + size], ids[row, at + size] = asked.prompt, asked.answer
                labels[row, at + size - 1], labels[row, at + size] = asked.answer, words.end
                told[row, at + size - 1] = asked.told
                for place, token in enumerate(asked.prompt):
                    ranks[row, at + place] = asked.ranks.get(token, IGNORED)
            at += length
    return {
        "lengths": lengths,
        "questions": torch.from_numpy(ids),
        "labels": torch.from_numpy(labels),
        "told": torch.from_numpy(told),
        "ranks": torch.from_numpy(ranks),
        "kinds": tuple(kinds),
    }


class Symbols:
    """Visual tokens made of word embeddings and noise."""

    def __init__(self, words: Words, embedding: torch.Tensor) -> None:
        """Takes the rows it needs from the (vocabulary, hidden) word embeddings."""
        self.colours = embedding[torch.tensor([words.video, *words.colours])]
        shapes = embedding[torch.tensor([words.video, *words.shapes])]
        self.shapes = torch.cat([torch.zeros_like(shapes[:1]), shapes[1:]])  # hay is one vector

    def embed(
        self, rng: np.random.Generator, scenes: list[Events], meaning: torch.Tensor
    ) -> torch.Tensor:
        """(batch, tokens, hidden) for meanings (batch, tokens, 2)."""
        embeds = self.colours[meaning[..., 0]] + self.shapes[meaning[..., 1]]
        noise = rng.standard_normal(embeds.shape, dtype=np.float32)
        return embeds + torch.from_numpy(noise) * (rng.uniform(0, 0.6) / embeds.shape[-1] ** 0.5)


class Bank:
    """Visual tokens that the trained tower gave for frame pairs of real video files."""

    def __init__(self, features: torch.Tensor, meaning: torch.Tensor) -> None:
        """Sorts (pairs, 16, hidden) features by the needle that the (pairs, 16, 2) meanings show."""
        self.features = features
        self.pairs: dict[tuple[int, int, int], np.ndarray] = {}
        found: dict[tuple[int, int, int], list[int]] = {}
        for number, pair in enumerate(meaning.view(-1, 4, 4, 2).numpy()):
            rows, columns = np.nonzero(pair[..., 0])
            key = (-1, -1, -1)
            if len(rows):
                place = SUPERCELLS.index((int(rows.min()), int(columns.min())))
                colour, shape = pair[rows[0], columns[0]]
                key = (int(colour) - 1, int(shape) - 1, place)
            found.setdefault(key, []).append(number)
        self.pairs = {key: np.array(numbers) for key, numbers in found.items()}

    def embed(
        self, rng: np.random.Generator, scenes: list[Events], meaning: torch.Tensor
    ) -> torch.Tensor:
        """(batch, steps * 16, hidden): every step is a pair of the bank that shows the same."""
        steps = meaning.shape[1] // 16
        chosen = rng.choice(self.pairs[-1, -1, -1], size=(len(scenes), steps))
        for row, scene in enumerate(scenes):
            columns = (scene.step, scene.colour, scene.shape, scene.place)
            for step, colour, shape, place in zip(*columns, strict=True):
                chosen[row, step] = rng.choice(self.pairs[int(colour), int(shape), int(place)])
        return self.features[torch.from_numpy(chosen)].flatten(1, 2).float()


def scene_batch(
    rng: np.random.Generator,
    words: Words,
    source: Symbols | Bank,
    batch: int,
    steps: int,
    events: int,
    visual: int,
    questions: int,
    stride: int,
    weights: np.ndarray,
    thin: bool = False,
) -> Packed:
    """Draws scenes with questions.

    Args:
        rng: the only source of chance.
        words: token ids.
        source: gives the visual tokens.
        batch: scenes.
        steps: time steps (frame pairs) of each scene.
        events: needles of each scene.
        visual: how many visual tokens each scene keeps: those of its needles and others at
            random; positions stay what they were.
        questions: questions a scene.
        stride: time positions from step to step (2 at one frame a second).
        weights: probability of each kind.
        thin: of a needle's four tokens only one is sure to be kept.
    """
    scenes = [draw_events(rng, steps, events) for _ in range(batch)]
    grid = np.zeros((batch, steps, 4, 4, 2), dtype=np.int64)  # colour + 1, shape + 1; 0 = hay
    order = np.full((batch, steps, 4, 4, 2), IGNORED)  # needles before, same shape before
    sure = np.zeros((batch, steps, 4, 4))
    for row, scene in enumerate(scenes):
        columns = (scene.step, scene.shape, scene.colour, scene.place)
        for rank, (step, shape, colour, place) in enumerate(zip(*columns, strict=True)):
            y, x = SUPERCELLS[place]
            grid[row, step, y : y + 2, x : x + 2] = colour + 1, shape + 1
            order[row, step, y : y + 2, x : x + 2] = rank, (scene.shape[:rank] == shape).sum()
            if thin:
                sure[row, step, y + rng.integers(2), x + rng.integers(2)] = 2
            else:
                sure[row, step, y : y + 2, x : x + 2] = 2
    meaning = torch.from_numpy(grid.reshape(batch, -1, 2))
    key = torch.from_numpy(rng.random((batch, steps * 16)) + sure.reshape(batch, -1))
    kept = key.topk(visual, dim=1).indices.sort(dim=1).values  # (batch, visual)
    embeds = source.embed(rng, scenes, meaning)
    return Packed(
        prefix=torch.tensor(words.prefix),
        visual=embeds.gather(1, kept[..., None].expand(-1, -1, embeds.shape[-1])),
        order=torch.from_numpy(order.reshape(batch, -1, 2)).gather(
            1, kept[..., None].expand(-1, -1, 2)
        ),
        grid=torch.stack([kept // 16 * stride, kept % 16 // 4, kept % 4]),
        after=words.after,
        **pack_questions(rng, words, scenes, questions, weights),
    )
