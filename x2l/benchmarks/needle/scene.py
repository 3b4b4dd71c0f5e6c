"""What happens in a needle video and what is asked about it: pure functions of a seed.

A scene is a list of needles on a time line; `needle_drawing` turns it into pictures, `needle` into
files and samples. Every video holds many needles and a question is about one or four shapes, so
nothing that is not told the question can know which needles matter.
"""

from dataclasses import dataclass

import numpy as np

COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan", "orange", "white")
SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "ring",
    "heart",
    "diamond",
    "moon",
    "arrow",
)
TASKS = ("retrieval", "ordering", "counting")
KINDS = ("edit", "insert")
OPTIONS = 4
MOST_REPEATS = 4  # a shape appears at most that often, and counting offers 1..4
NEEDLE_SECONDS = 2  # a needle fills one slot: from one even second to the next
CENTRE = 4  # place of an inserted needle; 0..3 are the quadrants of an edited one


@dataclass(frozen=True)
class Needle:
    """One shape, shown for one slot.

    Attributes:
        start: second at which it appears, even; it goes `NEEDLE_SECONDS` later.
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        kind: `edit` (drawn over the haystack) or `insert` (the frame is replaced by a card).
        place: quadrant 0..3 in reading order, or `CENTRE`.
        shift: (right, down) as a share of the frame's side.
        size: side of the shape as a share of the frame's side.
    """

    start: int
    shape: str
    colour: str
    kind: str
    place: int
    shift: tuple[float, float]
    size: float

    @property
    def span(self) -> tuple[float, float]:
        """Seconds during which it is seen."""
        return float(self.start), float(self.start + NEEDLE_SECONDS)


@dataclass(frozen=True)
class Question:
    """One question about a scene; `answer` is the index of the right choice."""

    task: str
    text: str
    choices: tuple[str, ...]
    answer: int
    spans: tuple[tuple[float, float], ...]


def partitions(needles: int) -> tuple[tuple[int, ...], ...]:
    """Every way to share `needles` among shapes so that at least four shapes appear once.

    Each entry lists how often each shape appears, rising. Four single shapes are what an ordering
    question needs.
    """
    found = []
    for singles in range(OPTIONS, len(SHAPES) + 1):
        for repeats in _repeats(needles - singles, len(SHAPES) - singles, 2):
            found.append((1,) * singles + repeats)
    return tuple(found)


def _repeats(needles: int, shapes: int, least: int) -> list[tuple[int, ...]]:
    if needles == 0:
        return [()]
    if shapes == 0 or needles < least:
        return []
    return [
        (count, *rest)
        for count in range(least, MOST_REPEATS + 1)
        for rest in _repeats(needles - count, shapes - 1, count)
    ]


def make_scene(
    rng: np.random.Generator, slots: int, needles: int, kind: str, counts: tuple[int, ...]
) -> tuple[Needle, ...]:
    """Draws the needles of one video, in time order.

    Args:
        rng: the only source of chance.
        slots: number of slots of the video.
        needles: how many needles, at most one a slot.
        kind: one of `KINDS`.
        counts: repeat counts that should occur in the video, the most wanted first; as many of
            them as possible do.
    """
    ways = partitions(needles)
    for count in counts:
        ways = tuple(way for way in ways if count in way) or ways
    way = ways[rng.integers(len(ways))]
    shapes = rng.permutation(SHAPES)[: len(way)]
    order = rng.permutation(np.repeat(shapes, way))
    starts = NEEDLE_SECONDS * np.sort(rng.choice(slots, needles, replace=False))
    return tuple(
        Needle(
            start=int(start),
            shape=str(shape),
            colour=COLOURS[rng.integers(len(COLOURS))],
            kind=kind,
            place=CENTRE if kind == "insert" else int(rng.integers(4)),
            shift=(float(rng.uniform(-0.03, 0.03)), float(rng.uniform(-0.03, 0.03))),
            size=float(rng.uniform(0.41, 0.45)),
        )
        for start, shape in zip(starts, order, strict=True)
    )


def make_questions(
    rng: np.random.Generator,
    scene: tuple[Needle, ...],
    task: str,
    answers: tuple[int, ...],
    counts: tuple[int, ...],
) -> tuple[Question, ...]:
    """Draws questions of one task about a scene, as different from each other as it allows.

    Args:
        rng: the only source of chance.
        scene: the needles.
        task: one of `TASKS`.
        answers: index of the right choice of each question; its length is their number.
        counts: for counting, the wanted answer of each question.
    """
    often = {shape: sum(n.shape == shape for n in scene) for shape in SHAPES}
    single = [str(s) for s in rng.permutation([s for s, count in often.items() if count == 1])]
    questions = []
    for number, answer in enumerate(answers):
        if task == "retrieval":
            shape = single[number % len(single)]
            questions.append(_retrieval(rng, scene, shape, answer))
        elif task == "ordering":
            shapes = tuple(str(s) for s in rng.choice(single, OPTIONS, replace=False))
            # An even number of questions visits both ends for every letter; an odd one would tie the
            # end to the letter, so there it is drawn.
            even = len(answers) % 2 == 0
            end = ("first", "last")[(number + answer) % 2 if even else int(rng.integers(2))]
            questions.append(_ordering(scene, shapes, end, answer))
        else:
            wanted = [s for s, count in often.items() if count == counts[number]]
            shown = wanted or [s for s, count in often.items() if count]
            questions.append(_counting(rng, scene, str(rng.choice(shown)), answer))
    return tuple(questions)


def _spans(scene: tuple[Needle, ...], shapes: tuple[str, ...]) -> tuple[tuple[float, float], ...]:
    return tuple(needle.span for needle in scene if needle.shape in shapes)


def _place(right: str, wrong: list[str], answer: int) -> tuple[str, ...]:
    return (*wrong[:answer], right, *wrong[answer:])


def _retrieval(
    rng: np.random.Generator, scene: tuple[Needle, ...], shape: str, answer: int
) -> Question:
    right = next(needle.colour for needle in scene if needle.shape == shape)
    wrong = [str(c) for c in rng.permutation([c for c in COLOURS if c != right])]
    return Question(
        task="retrieval",
        text=f"What is the colour of the {shape}?",
        choices=_place(right, wrong[: OPTIONS - 1], answer),
        answer=answer,
        spans=_spans(scene, (shape,)),
    )


def _ordering(
    scene: tuple[Needle, ...], shapes: tuple[str, ...], end: str, answer: int
) -> Question:
    seen = [needle.shape for needle in scene if needle.shape in shapes]
    right = seen[0 if end == "first" else -1]
    return Question(
        task="ordering",
        text=f"Which of these shapes appears {end}?",
        choices=_place(right, [shape for shape in shapes if shape != right], answer),
        answer=answer,
        spans=_spans(scene, shapes),
    )


def _counting(
    rng: np.random.Generator, scene: tuple[Needle, ...], shape: str, answer: int
) -> Question:
    spans = _spans(scene, (shape,))
    right = str(len(spans))
    numbers = [str(n) for n in range(1, MOST_REPEATS + 1)]
    wrong = [str(n) for n in rng.permutation([n for n in numbers if n != right])]
    return Question(
        task="counting",
        text=f"How many times does the {shape} appear?",
        choices=_place(right, wrong, answer),
        answer=answer,
        spans=spans,
    )
