"""The needle benchmark: generated videos with many short events, in the manner of VNBench.

Each video is a slow haystack with `needles` coloured shapes, two seconds each; the tasks are
VNBench's: retrieval (the colour of a shape), ordering (which shape comes first or last), counting
(how often a shape appears), with edited and inserted needles (arXiv 2406.09367). Scene `crowded` fills
every moment with other objects (`needle_crowded`), so that a few KVs cannot hold a chunk. A video's content
depends on its split, seed and number only, so a set of 16 videos is the beginning of a set of 200.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from x2l.benchmarks.annotation_row import Row
from x2l.benchmarks.answer_extraction import lone_letter
from x2l.benchmarks.base import Benchmark, DatasetError, Sample, Score
from x2l.benchmarks.needle.crowded import (
    LEAST_STEPS,
    PLACES,
    crowd_questions,
    draw_crowd,
    make_crowd,
)
from x2l.benchmarks.needle.drawing import draw_video
from x2l.benchmarks.needle.scene import (
    KINDS,
    MOST_REPEATS,
    NEEDLE_SECONDS,
    OPTIONS,
    SHAPES,
    TASKS,
    Question,
    make_questions,
    make_scene,
)
from x2l.benchmarks.needle.scene import Needle as Event
from x2l.benchmarks.option_text import letters, vnbench_prompt
from x2l.video import write_video

# Raised whenever drawing or questions change, so that no old file passes for a new one.
VERSION = 1
CROWDED_VERSION = 1
SCENES = ("plain", "crowded")
LONGEST_VIEW = 16  # seconds
# Every video has one number, `split's first + seed * SEED_STEP + video`: ranges that never meet.
SEEDS = 1000
SEED_STEP = 10_000
SPLITS = {"train": 0, "dev": SEEDS * SEED_STEP, "test": 2 * SEEDS * SEED_STEP}
DATASET = "dataset.json"
SHORTEST, LONGEST = 10, 3600  # seconds


class Needle(Benchmark):
    """Questions on generated videos; final.

    A question's truth cannot be read from its text: the right letter, the right count and
    first / last take turns over the videos, and wrong options are drawn evenly. Under 18 seconds a
    video has too few slots for repeated shapes beside the four single ones that ordering needs, so
    counting leans to 1 there.

    Attributes:
        name: `needle`.
    """

    name = "needle"

    def __init__(
        self,
        root: str,
        split: str = "test",
        seed: int = 0,
        videos: int = 16,
        seconds: int = 128,
        tasks: Sequence[str] = TASKS,
        kinds: Sequence[str] = KINDS,
        needles: int = 12,
        questions: int = 2,
        fps: float = 4,
        width: int = 64,
        height: int = 64,
        circular: bool = False,
        scene: str = "plain",
        in_view: int = PLACES,
        every: int = NEEDLE_SECONDS,
    ) -> None:
        """Checks the values; makes nothing yet.

        Args:
            root: folder under which each set of files gets its own folder.
            split: `train`, `dev` or `test`.
            seed: 0 to 999; each (split, seed) has videos of its own.
            videos: how many videos.
            seconds: length of each video.
            tasks: which of `retrieval`, `ordering`, `counting` are asked.
            kinds: `edit` and / or `insert`; the videos take turns.
            needles: how many needles a video has, as far as it has slots of two seconds.
            questions: questions of each task on each video.
            fps: frames per second of the files.
            width: pixels of the files, even.
            height: pixels of the files, even.
            circular: ask every question four times, its options turned by one each time; the four
                form a group that is right only if all are (VNBench's rule).
            scene: `plain` (single needles in a haystack) or `crowded` (all moments full of objects;
                `kinds` and `needles` do not matter there).
            in_view: objects in view at once in crowded scenes, 1 to 4.
            every: seconds after which they are replaced, even.

        Raises:
            ValueError: a value is out of its range.
        """
        self.root, self.split, self.seed, self.videos = Path(root), split, seed, videos
        # One name instead of a list is a list of one, not its letters.
        self.tasks = (tasks,) if isinstance(tasks, str) else tuple(tasks)
        self.kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        self.seconds = seconds
        self.needles, self.questions, self.fps = needles, questions, fps
        self.width, self.height, self.circular = width, height, circular
        self.scene, self.in_view, self.every = scene, in_view, every
        self._check()
        self.slots = int(seconds // NEEDLE_SECONDS)

    def _check(self) -> None:
        least = {"seed": 0, "videos": 1, "questions": 1, "needles": OPTIONS, "width": 32}
        most = {"seed": SEEDS - 1, "videos": SEED_STEP, "questions": 16, "width": 4096}
        most["needles"] = OPTIONS + MOST_REPEATS * (len(SHAPES) - OPTIONS)
        least |= {"height": 32, "seconds": SHORTEST, "in_view": 1, "every": NEEDLE_SECONDS}
        most |= {"height": 4096, "seconds": LONGEST, "in_view": PLACES, "every": LONGEST_VIEW}
        for field, low in least.items():
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"benchmark.{field}={value!r}: must be a whole number")
            if not low <= value <= most[field]:
                raise ValueError(
                    f"benchmark.{field}={value}: must be {low} to {most[field]}; set "
                    f"benchmark.{field}= to a value in that range"
                )
        if self.scene not in SCENES:
            raise ValueError(
                f"benchmark.scene={self.scene!r}: must be one of {', '.join(SCENES)}; set "
                "benchmark.scene="
            )
        if self.every % NEEDLE_SECONDS:
            raise ValueError(
                f"benchmark.every={self.every}: must be even, because a visual token covers two "
                f"seconds at one frame a second; set benchmark.every={self.every + 1}"
            )
        if self.scene == "crowded" and self.seconds // self.every < LEAST_STEPS:
            raise ValueError(
                f"benchmark.seconds={self.seconds}: must be at least {LEAST_STEPS * self.every} for "
                f"benchmark.scene=crowded, whose {LEAST_STEPS} askable objects have a moment of "
                f"{self.every} seconds each; set benchmark.seconds={LEAST_STEPS * self.every}"
            )
        if self.width % 2 or self.height % 2:
            raise ValueError(
                f"benchmark.width={self.width}, benchmark.height={self.height}: must be even, "
                "because H.264 halves the colour planes; round them to even numbers"
            )
        if not isinstance(self.fps, int | float) or not 1 <= self.fps <= 60:
            raise ValueError(
                f"benchmark.fps={self.fps}: must be 1 to 60, so that a needle of two seconds has "
                "two frames; set benchmark.fps="
            )
        if self.split not in SPLITS:
            raise ValueError(
                f"benchmark.split={self.split!r}: must be one of {', '.join(SPLITS)}; set "
                "benchmark.split="
            )
        for field, known in (("tasks", TASKS), ("kinds", KINDS)):
            value = getattr(self, field)
            if not value or set(value) - set(known) or len(set(value)) < len(value):
                raise ValueError(
                    f"benchmark.{field}={list(value)}: must be one or more of {', '.join(known)}, "
                    f"none twice; set benchmark.{field}=[{','.join(known)}]"
                )

    @property
    def folder(self) -> Path:
        """Where this set lies: its name holds all that decides what is in the files."""
        content = self._content()
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        return self.root / f"needle-{self.split}-{self.seed}-{self.seconds}s-{digest}"

    def _content(self) -> dict[str, Any]:
        fields = ("split", "seed", "seconds", "questions", "fps", "width", "height")
        if self.scene == "crowded":
            crowd = {"scene": self.scene, "in_view": self.in_view, "every": self.every}
            return crowd | {"version": CROWDED_VERSION, **{n: getattr(self, n) for n in fields}}
        # In this order, so that dataset.json stays what it was before there was another scene.
        names = (*fields[:3], "needles", *fields[3:])
        return {
            "version": VERSION,
            "kinds": list(self.kinds),
            **{name: getattr(self, name) for name in names},
        }

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Makes the video files and annotations that are not there yet.

        A video counts as made when its annotation exists, which is written after the video; both
        appear whole or not at all. So a stopped call goes on where it was, and several processes
        may prepare the same set at once.
        """
        if not (
            self.folder / DATASET
        ).exists():  # a complete set may be shared by those who may not write to it
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_json(self.folder / DATASET, self._content())
        for number in range(self.videos):
            annotation = self.folder / f"{number:05d}.json"
            if not (annotation.exists() and annotation.with_suffix(".mp4").exists()):
                self._make(number, annotation)
            if progress is not None:
                progress(number + 1, self.videos)

    def _make(self, number: int, annotation: Path) -> None:
        turn = SPLITS[self.split] + self.seed * SEED_STEP + number
        crowded = self.scene == "crowded"
        # A video of one scene shares no draw with the video of that number of the other.
        version, stream = (CROWDED_VERSION, 2) if crowded else (VERSION, 0)
        content = np.random.default_rng([version, turn, stream])
        picture = np.random.default_rng([version, turn, stream + 1])
        # What the answers shall be takes turns over videos and questions, in an order of its own
        # for each (split, seed), so that truths are balanced in every set.
        place = np.arange(self.questions) + number * self.questions
        counts = tuple((1 + _turns(self.split, self.seed, 0, place, MOST_REPEATS)).tolist())
        answers = {
            task: tuple(_turns(self.split, self.seed, code, place, OPTIONS).tolist())
            for code, task in enumerate(TASKS, start=1)
        }
        make = self._crowded if crowded else self._plain
        kind, scene, asked = make(content, number, answers, counts)
        frames = draw_video(picture, scene, self.seconds, self.fps, self.width, self.height)
        write_video(annotation.with_suffix(".mp4"), frames, self.fps)
        _write_json(
            annotation,
            {
                "video": annotation.with_suffix(".mp4").name,
                "kind": kind,
                "needles": [asdict(needle) for needle in scene],
                "questions": [asdict(question) for question in asked],
            },
        )

    def _plain(
        self,
        content: np.random.Generator,
        number: int,
        answers: dict[str, tuple[int, ...]],
        counts: tuple[int, ...],
    ) -> tuple[str, Sequence[Event], list[Question]]:
        kind = self.kinds[number % len(self.kinds)]
        scene = make_scene(content, self.slots, min(self.needles, self.slots), kind, counts)
        asked: list[Question] = []
        for task in TASKS:
            asked += make_questions(content, scene, task, answers[task], counts)
        return kind, scene, asked

    def _crowded(
        self,
        content: np.random.Generator,
        number: int,
        answers: dict[str, tuple[int, ...]],
        counts: tuple[int, ...],
    ) -> tuple[str, Sequence[Event], list[Question]]:
        crowd = draw_crowd(content, self.seconds // self.every, self.in_view, counts)
        asked: list[Question] = []
        for task in TASKS:
            asked += crowd_questions(content, crowd, self.every, task, answers[task], counts)
        return "crowded", make_crowd(content, crowd, self.every), asked

    def samples(self) -> tuple[Sample, ...]:
        """Every sample, video by video, in the order of `tasks`.

        Raises:
            FileNotFoundError: `prepare` has not been called.
            DatasetError: an annotation is damaged.
        """
        found: list[Sample] = []
        for number in range(self.videos):
            path = self.folder / f"{number:05d}.json"
            if not path.exists():
                raise FileNotFoundError(f"{path}: not made yet; call prepare() first")
            try:
                row = Row(json.loads(path.read_text(encoding="utf-8-sig")), path, number)
                found += self._of_video(row)
            except ValueError as error:
                raise DatasetError(
                    f"{path}: is not what x2l wrote ({error}); remove it, and it is made again"
                ) from error
        return tuple(found)

    def _of_video(self, annotation: Row) -> list[Sample]:
        video = self.folder / annotation.text("video")
        video_id = f"{self.folder.name}/{video.stem}"
        samples = []
        for task in self.tasks:
            asked = [entry for entry in annotation.rows("questions") if entry["task"] == task]
            for number, entry in enumerate(asked):
                for turn in range(OPTIONS if self.circular else 1):
                    choices = entry.labels("choices")
                    right = (entry.option("answer", len(choices)) - turn) % len(choices)
                    samples.append(
                        Sample(
                            id=f"{video_id}/{task}-{number}"
                            + (f"/try{turn}" if self.circular else ""),
                            video_id=video_id,
                            video=str(video),
                            task=task,
                            question=entry.text("text"),
                            choices=(*choices[turn:], *choices[:turn]),
                            answer=letters(len(choices))[right],
                            spans=entry.spans("spans"),
                            tags={"kind": annotation.text("kind")},
                        )
                    )
        return samples

    def prompt(self, sample: Sample, seconds: Sequence[float] = ()) -> str:
        """VNBench's official prompt."""
        return vnbench_prompt(sample.question, sample.choices)

    def score(self, sample: Sample, text: str) -> Score:
        """1.0 for the right letter, 0.0 for another, NaN where the text names none or several."""
        letter = lone_letter(text, len(sample.choices))
        if letter is None:
            return Score(value=math.nan, parsed=None)
        return Score(value=float(letter == sample.answer), parsed=letter)

    def group(self, sample: Sample) -> str | None:
        """The four tries of one question, where `circular` is on."""
        return sample.id.rpartition("/try")[0] if self.circular else None


def _turns(split: str, seed: int, stream: int, places: np.ndarray, size: int) -> np.ndarray:
    """Values 0..size-1 at some places of an endless row in which every `size` hold each once."""
    values = []
    for place in places.tolist():
        rng = np.random.default_rng([SPLITS[split], seed, stream, place // size])
        values.append(rng.permutation(size)[place % size])
    return np.array(values)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
    os.chmod(part, 0o644)
    os.replace(part, path)
