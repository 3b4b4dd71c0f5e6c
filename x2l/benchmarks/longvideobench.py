"""LongVideoBench: referring questions on videos of 8 seconds to an hour (arXiv 2407.15754).

`longvideobench/LongVideoBench` on the Hub; 1,337 questions in `val`, 5,341 in `test`, whose answers are
kept back: a test run has predictions and no accuracy. `starting_timestamp_for_subtitles` says where in
the source film the video begins, not where the answer lies; the set has no ground-truth spans.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from x2l.benchmarks.annotation_row import Row
from x2l.benchmarks.answer_extraction import first_capital_of_five
from x2l.benchmarks.base import Sample
from x2l.benchmarks.dataset_folder import Folder, Source
from x2l.benchmarks.evidence_spans import annotated
from x2l.benchmarks.multiple_choice import ChoiceSet, Protocol
from x2l.benchmarks.option_text import INSTRUCTION, dotted, letters
from x2l.benchmarks.subtitles import LongVideoBenchJson, Subtitles

SOURCE = Source(
    "longvideobench/LongVideoBench",
    unpack=("cat videos.tar.part.* | tar -x", "tar -xf subtitles.tar"),
    gated=True,
)
# What lmms-eval reads first: its row numbers are then ours.
FILES = {
    "val": ("validation-00000-of-00001.parquet", "lvb_val.json"),
    "test": ("test-00000-of-00001.parquet", "lvb_test_wo_gt.json"),
}


def _official(sample: Sample, subtitles: Sequence[str] | None) -> str:
    """LongVideoBench 2aa4f91 longvideobench/longvideobench_dataset.py.

    There, and in lmms-eval's `longvideobench_val_i`, subtitles stand between the frames; here they
    follow the video in the same order, because a video's chunks are pre-filled once for all questions.
    """
    shown = subtitles or ()
    lines = [*shown, f"Question: {sample.question}", dotted(sample.choices), INSTRUCTION]
    return "\n".join(lines)


def _lmms_eval(sample: Sample, subtitles: Sequence[str] | None) -> str:
    """lmms-eval 7f9c482 tasks/longvideobench: longvideobench_val_v, or _i with subtitles."""
    lines = [*(subtitles or ()), sample.question, dotted(sample.choices), INSTRUCTION]
    return "\n".join(lines) + "\n"


PROTOCOLS = {
    "lmms_eval": Protocol(_lmms_eval, first_capital_of_five, unparsed="guessed", max_new_tokens=32),
    "official": Protocol(_official, first_capital_of_five, unparsed="guessed", max_new_tokens=32),
}


def longvideobench(
    root: str,
    split: str = "val",
    protocol: str = "lmms_eval",
    subtitles: bool = False,
    tasks: Sequence[str] | str | None = None,
    durations: Sequence[str] | str | None = None,
    shard: str | None = None,
    seed: int = 0,
    spans: str | None = None,
) -> ChoiceSet:
    """LongVideoBench as `SOURCE` leaves it in `root`.

    Args:
        root: holds validation-*.parquet or lvb_val.json, videos/*.mp4 and subtitles/*.json.
        split: `val` or `test`.
        protocol: `lmms_eval` or `official`; both draw a letter where an answer names none.
        subtitles: put those that stand on the model's frames before the question.
        tasks: of the 17 question categories, e.g. `S2E`; None = all.
        durations: of `15`, `60`, `600`, `3600`; None = all.
        shard: see `ChoiceSet`.
        seed: of the draw.
        spans: path of KFS-Bench's lvb_anno.csv: asks only the questions that it annotates, with their spans.

    Raises:
        ValueError: see `ChoiceSet`.
    """
    if split not in FILES:
        raise ValueError(f"benchmark.split={split!r}: must be one of {', '.join(FILES)}")
    folder = Folder("longvideobench", root, SOURCE)
    files: dict[str, Subtitles] = {}
    return ChoiceSet(
        f"longvideobench_{split}_{'i' if subtitles else 'v'}",
        folder,
        annotated(_samples(folder, split, files), spans),
        PROTOCOLS,
        protocol,
        tasks,
        durations,
        shard,
        subtitles=files if subtitles else None,
        seed=seed,
    )


def _samples(folder: Folder, split: str, subtitles: dict[str, Subtitles]) -> Iterator[Sample]:
    for row in folder.rows(*FILES[split]):
        choices = _choices(row)
        kept_back = row.get("correct_choice") in (None, -1)
        right = None if kept_back else row.option("correct_choice", len(choices))
        video = Path(row.text("video_path"))
        subtitles[video.stem] = LongVideoBenchJson(
            folder.root / "subtitles" / row.text("subtitle_path"),
            row.number_of("starting_timestamp_for_subtitles"),
            row.number_of("duration"),
        )
        yield Sample(
            id=row.label("id"),
            video_id=video.stem,
            video=str(folder.video(video.name, ("videos",))),
            task=row.text("question_category"),
            question=row.text("question"),
            choices=choices,
            answer=None if right is None else letters(26)[right],
            spans=None,
            tags={"duration": row.label("duration_group"), "topic": row.text("topic_category")},
            row=row.number,
            video_seconds=row.number_of("duration"),
        )


def _choices(row: Row) -> tuple[str, ...]:
    """The .json files hold a list, the .parquet files five columns, `N/A` where there are fewer."""
    if "candidates" in row:
        return row.labels("candidates")
    columns = [f"option{index}" for index in range(5)]
    return tuple(row.label(name) for name in columns if row[name] not in (None, "N/A"))
