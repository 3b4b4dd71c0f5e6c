"""What happens in a crowded needle video and what is asked about it: pure functions of a seed.

Up to four objects are in view at once, one in each quadrant (2 x 2 cells of x2l_tiny's token grid),
and all are replaced at the same moments, so every chunk of a video holds many different things.
Of the ten shapes `SINGLES` occur once and `OFTEN` two to four times: those may be asked about. The
remaining four fill every other place. Which shape plays which part is drawn for each video, and
colour, place, size and moment of all objects come from the same draws, so nothing but how often a
shape comes in the whole video tells what may be asked.
"""

from dataclasses import dataclass

import numpy as np

from x2l.benchmarks.needle.scene import (
    COLOURS,
    MOST_REPEATS,
    NEEDLE_SECONDS,
    OPTIONS,
    SHAPES,
    Needle,
    Question,
)

PLACES = 4  # quadrants
SINGLES = 4  # shapes that occur once
OFTEN = 2  # shapes that occur two to four times, for counting
# Every object that may be asked about has a time step of its own.
LEAST_STEPS = SINGLES + OFTEN * MOST_REPEATS
EMPTY = -1
IN_VIEW = (1, PLACES)  # least and most objects in view


@dataclass(frozen=True)
class LastingNeedle(Needle):
    """An object that stays for `seconds` instead of one slot."""

    seconds: int = NEEDLE_SECONDS

    @property
    def span(self) -> tuple[float, float]:
        """Seconds during which it is seen."""
        return float(self.start), float(self.start + self.seconds)


@dataclass(frozen=True)
class Crowd:
    """Who is where and when, as indices into `SHAPES` and `COLOURS`; `EMPTY` where nothing is.

    Attributes:
        shape: (steps, places).
        colour: (steps, places).
        single: (SINGLES,) shapes that occur once.
        often: (OFTEN,) shapes that occur a few times.
        counts: (OFTEN,) how many times each of those occurs.
    """

    shape: np.ndarray
    colour: np.ndarray
    single: np.ndarray
    often: np.ndarray
    counts: tuple[int, ...]


def draw_crowd(
    rng: np.random.Generator, steps: int, in_view: int, wanted: tuple[int, ...] = ()
) -> Crowd:
    """Draws `steps` time steps with `in_view` objects each, in quadrants drawn anew every step.

    Args:
        rng: the only source of chance.
        steps: time steps, at least `LEAST_STEPS`.
        in_view: objects in view at once.
        wanted: repeat counts that should occur, the most wanted first; 1 always does.
    """
    parts = rng.permutation(len(SHAPES))
    single, often, fillers = np.split(parts, (SINGLES, SINGLES + OFTEN))
    several = [count for count in dict.fromkeys(wanted) if count > 1][:OFTEN]
    rest = rng.permutation([n for n in range(2, MOST_REPEATS + 1) if n not in several])
    counts = (*several, *rest.tolist())[:OFTEN]
    asked = rng.permutation(np.concatenate([single, np.repeat(often, counts)]))
    seen = rng.random((steps, PLACES)).argsort(1).argsort(1) < in_view
    shape = np.where(seen, rng.choice(fillers, (steps, PLACES)), EMPTY)
    when = rng.choice(steps, len(asked), replace=False)
    # One of the places that are seen at that step.
    where = np.where(seen[when], rng.random((len(asked), PLACES)), 2.0).argmin(1)
    shape[when, where] = asked
    colour = np.where(seen, rng.integers(0, len(COLOURS), shape.shape), EMPTY)
    return Crowd(shape=shape, colour=colour, single=single, often=often, counts=counts)


def make_crowd(rng: np.random.Generator, crowd: Crowd, every: int) -> tuple[LastingNeedle, ...]:
    """The objects of a crowd as needles, in time order; `every` seconds each."""
    needles = []
    for step, place in np.argwhere(crowd.shape != EMPTY).tolist():
        shift = rng.uniform(-0.025, 0.025, 2)
        needles.append(
            LastingNeedle(
                start=step * every,
                shape=SHAPES[crowd.shape[step, place]],
                colour=COLOURS[crowd.colour[step, place]],
                kind="edit",
                place=place,
                shift=(float(shift[0]), float(shift[1])),
                size=float(rng.uniform(0.4, 0.44)),
                seconds=every,
            )
        )
    return tuple(needles)


def crowd_questions(
    rng: np.random.Generator,
    crowd: Crowd,
    every: int,
    task: str,
    answers: tuple[int, ...],
    counts: tuple[int, ...],
) -> tuple[Question, ...]:
    """Draws questions of one task about a crowd, as different from each other as it allows.

    Args:
        rng: the only source of chance.
        crowd: who is where and when.
        every: seconds from one time step to the next.
        task: `retrieval`, `ordering` or `counting`.
        answers: index of the right choice of each question; its length is their number.
        counts: for counting, the wanted answer of each question.
    """
    single = rng.permutation(crowd.single).tolist()
    questions = []
    for number, answer in enumerate(answers):
        if task == "retrieval":
            asked = [single[number % len(single)]]
            ((step, place),) = np.argwhere(crowd.shape == asked[0])
            right = COLOURS[crowd.colour[step, place]]
            wrong = [str(colour) for colour in rng.permutation(COLOURS) if colour != right]
            text = f"What is the colour of the {SHAPES[asked[0]]}?"
        elif task == "ordering":
            asked = [int(shape) for shape in rng.choice(single, OPTIONS, replace=False)]
            when = {shape: int(np.argwhere(crowd.shape == shape)[0, 0]) for shape in asked}
            # An even number of questions visits both ends for every letter, an odd one would tie
            # them together, so there the end is drawn.
            even = len(answers) % 2 == 0
            first = (number + answer) % 2 == 0 if even else rng.random() < 0.5
            pick = (min if first else max)(asked, key=when.__getitem__)
            right = SHAPES[pick]
            wrong = [SHAPES[shape] for shape in asked if shape != pick]
            text = f"Which of these shapes appears {'first' if first else 'last'}?"
        else:
            known = dict(zip(crowd.counts, crowd.often.tolist(), strict=True)) | {1: single[-1]}
            count = counts[number] if counts[number] in known else int(rng.choice(list(known)))
            asked = [known[count]]
            right = str(count)
            others = [n for n in range(1, MOST_REPEATS + 1) if n != count]
            wrong = [str(n) for n in rng.permutation(others)]
            text = f"How many times does the {SHAPES[asked[0]]} appear?"
        wrong = wrong[: OPTIONS - 1]
        steps = np.flatnonzero(np.isin(crowd.shape, asked).any(1)).tolist()
        questions.append(
            Question(
                task=task,
                text=text,
                choices=(*wrong[:answer], right, *wrong[answer:]),
                answer=answer,
                spans=tuple((float(s * every), float((s + 1) * every)) for s in steps),
            )
        )
    return tuple(questions)
