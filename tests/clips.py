"""A benchmark of two or more short clips of coloured noise: enough to drive the runner for real."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from x2l.benchmarks.base import Benchmark, Sample, Score
from x2l.runs.records import to_json
from x2l.video import write_video

SECONDS = 16


def flat(records):
    """Records with the fields of all their parts as attributes, as they stand in records.jsonl."""
    return [SimpleNamespace(**to_json(one), selected=one.selected, key=one.key) for one in records]


@dataclass(frozen=True)
class Clips(Benchmark):
    """Final. `questions` questions about each of `videos` clips; a letter in the text is parsed."""

    root: str
    videos: int = 2
    questions: int = 3
    known: bool = True  # whether samples say where the answer lies
    name: str = "clips"

    def prepare(self, progress=None) -> None:
        for video in range(self.videos):
            path = Path(self.root) / f"clip{video}.mp4"
            if not path.exists():
                rng = np.random.default_rng(video)
                colours = rng.integers(0, 255, (2 * SECONDS, 4, 4, 3))
                frames = [np.kron(c, np.ones((16, 16, 1))).astype(np.uint8) for c in colours]
                write_video(path, frames, fps=2)

    def samples(self) -> tuple[Sample, ...]:
        return tuple(
            Sample(
                id=f"clip{video}/{number}",
                video_id=f"clip{video}",
                video=str(Path(self.root) / f"clip{video}.mp4"),
                task=("retrieval", "counting")[number % 2],
                question=f"Which number is {number}?",
                choices=("one", "two", "three", "four"),
                answer="ABCD"[number % 4],
                spans=((2.0 * number, 2.0 * number + 2.0),) if self.known else None,
                tags={},
            )
            for video in range(self.videos)
            for number in range(self.questions)
        )

    def prompt(self, sample: Sample, seconds=()) -> str:
        return sample.question

    def score(self, sample: Sample, text: str) -> Score:
        letter = next((c for c in text if c in "ABCD"), None)
        return Score(float("nan") if letter is None else float(letter == sample.answer), letter)

    def group(self, sample: Sample) -> str | None:
        return None
