"""Video-MME: 900 videos, 2,700 questions (arXiv 2405.21075, `lmms-lab/Video-MME` on the Hub)."""

from collections.abc import Iterator, Sequence

from x2l.benchmarks.answer_extraction import best_formatted, first_capital
from x2l.benchmarks.base import Sample
from x2l.benchmarks.dataset_folder import Folder, Source
from x2l.benchmarks.evidence_spans import annotated
from x2l.benchmarks.multiple_choice import ChoiceSet, Protocol
from x2l.benchmarks.option_text import INSTRUCTION
from x2l.benchmarks.subtitles import Srt, Subtitles

SOURCE = Source(
    "lmms-lab/Video-MME",
    unpack=('for zip in videos_chunked_*.zip subtitle.zip; do unzip -n -q "$zip"; done',),
)
_ANNOTATION = "videomme/test-00000-of-00001.parquet"
_TASK = "Select the best answer to the following multiple-choice question based on the video"
_LETTER = "Respond with only the letter (A, B, C, or D) of the correct option."
_BEST = "The best answer is:"


def _official(sample: Sample, subtitles: Sequence[str] | None) -> str:
    """Video-MME f95c420 README.md, "Prompt"."""
    lines = [f"{_TASK}. {_LETTER}", sample.question, *sample.choices, _BEST]
    if subtitles is not None:
        lines = ["This video's subtitles are listed below:", *subtitles, *lines]
    return "\n".join(lines)


def _lmms_eval(sample: Sample, subtitles: Sequence[str] | None) -> str:
    """lmms-eval 7f9c482 tasks/videomme: videomme, or videomme_w_subtitle; the same at 7a69a9a."""
    return _lmms_eval_with("\n".join(sample.choices), sample, subtitles)


def _video_xl_2(sample: Sample, subtitles: Sequence[str] | None) -> str:
    """Video-XL 3e05fca Video-XL-2/eval/lvu: the authors' fork prints the options as a Python list."""
    return _lmms_eval_with(str(list(sample.choices)), sample, subtitles)


def _lmms_eval_with(options: str, sample: Sample, subtitles: Sequence[str] | None) -> str:
    # It speaks of subtitles whether there are any or not, and ends differently where there are.
    question = f"{_TASK} and the subtitles. {_LETTER}\n{sample.question}\n{options}\n"
    if subtitles is None:
        return f"{question}\n{INSTRUCTION}"
    shown = "\n".join(subtitles)
    return f"This video's subtitles are listed below: \n{shown}\n{question}{_BEST}"


PROTOCOLS = {
    "lmms_eval": Protocol(_lmms_eval, first_capital),
    "lmms_eval_2026": Protocol(_lmms_eval, best_formatted),
    "official": Protocol(_official, first_capital, unparsed="left out"),
    "video_xl_2": Protocol(_video_xl_2, first_capital),
}


# The set says a video's group alone: the middle of each as its authors bound it.
_SECONDS = {"short": 60.0, "medium": 570.0, "long": 2700.0}


def videomme(
    root: str,
    protocol: str = "lmms_eval",
    subtitles: bool = False,
    tasks: Sequence[str] | str | None = None,
    durations: Sequence[str] | str | None = None,
    shard: str | None = None,
    spans: str | None = None,
) -> ChoiceSet:
    """Video-MME as `SOURCE` leaves it in `root`.

    Args:
        root: holds videomme/*.parquet, data/*.mp4 and subtitle/*.srt.
        protocol: `lmms_eval`, `lmms_eval_2026` (its extraction of April 2026), `official` (counts parsed answers only)
            or `video_xl_2`.
        subtitles: put those that stand on the model's frames before the question.
        tasks: of the 12 task types; None = all.
        durations: of `short`, `medium`, `long`; None = all.
        shard: see `ChoiceSet`.
        spans: path of KFS-Bench's vidmme_anno.csv: asks only the questions that it annotates, with their spans.

    Raises:
        ValueError: see `ChoiceSet`.
    """
    folder = Folder("videomme", root, SOURCE)
    files: dict[str, Subtitles] = {}
    return ChoiceSet(
        "videomme_w_subtitle" if subtitles else "videomme",
        folder,
        annotated(_samples(folder, files), spans),
        PROTOCOLS,
        protocol,
        tasks,
        durations,
        shard,
        subtitles=files if subtitles else None,
    )


def _samples(folder: Folder, subtitles: dict[str, Subtitles]) -> Iterator[Sample]:
    for row in folder.rows(_ANNOTATION, "test-00000-of-00001.parquet"):
        video = row.text("videoID")
        subtitles[video] = Srt(folder.root / "subtitle" / f"{video}.srt")
        yield Sample(
            id=row.label("question_id"),
            video_id=video,
            video=str(folder.video(video, ("data", "videos"))),
            task=row.text("task_type"),
            question=row.text("question"),
            choices=row.labels("options"),  # as published: `A. Black.`
            answer=row.text("answer"),
            spans=None,
            tags={
                "duration": row.text("duration"),
                "domain": row.text("domain"),
                "sub_category": row.text("sub_category"),
            },
            row=row.number,
            video_seconds=_SECONDS.get(row.text("duration")),
        )
