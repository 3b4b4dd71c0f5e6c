"""MLVU: seven multiple-choice tasks on videos of 3 minutes to 2 hours (arXiv 2406.04264).

`dev` is `MLVU/MVLU` on the Hub (2,174 questions of four options), `test` is `MLVU/MLVU_Test` (502 of
six; two more tasks; the answers are in its folder test-ground-truth).
"""

from collections.abc import Iterator, Sequence

from x2l.benchmarks.annotation_row import Row
from x2l.benchmarks.answer_extraction import at_bracket, first_capital
from x2l.benchmarks.base import DatasetError, Sample
from x2l.benchmarks.dataset_folder import Folder, Source
from x2l.benchmarks.multiple_choice import ChoiceSet, Protocol
from x2l.benchmarks.option_text import bracketed, letters

SOURCES = {
    "dev": Source("MLVU/MVLU", gated=True),
    "test": Source(
        "MLVU/MLVU_Test",
        unpack=("cat MLVU_Test/test_video.tar.gz.part-* | tar -xz -C MLVU_Test",),
        gated=True,
    ),
}
# Folder or file of each dev task, and the name that the official scripts give the task.
_DEV = {
    "1_plotQA": "plotQA",
    "2_needle": "needle",
    "3_ego": "ego",
    "4_count": "count",
    "5_order": "order",
    "6_anomaly_reco": "anomaly_reco",
    "7_topic_reasoning": "topic_reasoning",
}
_TEST = ("test-ground-truth/test_mcq_gt.json", "test_multi_choice_tasks.json")
_SYSTEM = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, "
    "select the best option that accurately addresses the question."
)


def _official(sample: Sample, _: Sequence[str] | None) -> str:
    """MLVU fd060c1 evaluation/multiple_choice_evaluation/choice_bench.py, run by models/videochat2/choice_bench.py.

    There the first line is the system prompt and stands before the video, and `Best Option: (` begins the model's own
    turn. All stand in the user's turn after the video here, as chat templates of the model decide about the others.
    """
    question = f"Question: {sample.question}\nOptions:\n{bracketed(sample.choices)}"
    return f"{_SYSTEM}\n{question}\nOnly give the best option.\nBest Option: ("


def _lmms_eval(sample: Sample, _: Sequence[str] | None) -> str:
    """lmms-eval 7f9c482 tasks/mlvu/utils.py, whose questions hold their options."""
    question = f"{sample.question}\n{bracketed(sample.choices)}"
    return f"\n{question}\nOnly give the best option.\n\nBest option: ("


PROTOCOLS = {
    "lmms_eval": Protocol(_lmms_eval, first_capital),
    "official": Protocol(_official, at_bracket, mean="tasks", max_new_tokens=100),
    "lmms_eval_2025": Protocol(_lmms_eval, at_bracket, mean="tasks"),
}


def mlvu(
    root: str,
    split: str = "dev",
    protocol: str = "lmms_eval",
    tasks: Sequence[str] | str | None = None,
    durations: Sequence[str] | str | None = None,
    shard: str | None = None,
) -> ChoiceSet:
    """MLVU as `SOURCES[split]` leaves it in `root`.

    Args:
        root: holds MLVU/json and MLVU/video (dev), or test-ground-truth and MLVU_Test (test).
        split: `dev` or `test`.
        protocol: `lmms_eval` (mean over questions), `official` or `lmms_eval_2025` (over tasks).
        tasks: e.g. `plotQA`; None = all.
        durations: of `up_to_10min`, `10_to_30min`, `over_30min`, `unknown`; None = all.
        shard: see `ChoiceSet`.

    Raises:
        ValueError: see `ChoiceSet`.
    """
    if split not in SOURCES:
        raise ValueError(f"benchmark.split={split!r}: must be one of {', '.join(SOURCES)}")
    folder = Folder("mlvu", root, SOURCES[split])
    name, samples = ("mlvu_dev", _dev) if split == "dev" else ("mlvu_test", _test)
    return ChoiceSet(name, folder, samples(folder), PROTOCOLS, protocol, tasks, durations, shard)


def _dev(folder: Folder) -> Iterator[Sample]:
    number = 0
    for place, task in _DEV.items():
        for row in folder.rows(f"MLVU/json/{place}.json", f"json/{place}.json"):
            places = (f"MLVU/video/{place}", f"video/{place}")
            yield _sample(folder, row, f"{task}/{row.number}", task, places, number)
            number += 1


def _test(folder: Folder) -> Iterator[Sample]:
    for row in folder.rows(*_TEST):
        places = ("MLVU_Test/video", "video")
        identity, task = row.label("question_id"), row.text("question_type")
        yield _sample(folder, row, identity, task, places, row.number)


def _sample(
    folder: Folder, row: Row, identity: str, task: str, places: Sequence[str], number: int
) -> Sample:
    choices = row.labels("candidates")
    # The option's text; the questions for the leaderboard have none.
    answer = row.label("answer") if "answer" in row else None
    if answer is not None and answer not in choices:
        raise DatasetError(
            f"{row.path}: row {row.number} has the answer {answer!r}, which is none of its options"
        )
    video = folder.video(row.text("video"), places)
    return Sample(
        id=identity,
        video_id=str(video.relative_to(folder.root).with_suffix("")),
        video=str(video),
        task=task,
        question=row.text("question"),
        choices=choices,
        answer=None if answer is None else letters(len(choices))[choices.index(answer)],
        spans=None,
        tags={"duration": _group(row)},
        row=number,
        video_seconds=None if row.get("duration") is None else row.number_of("duration"),
    )


def _group(row: Row) -> str:
    if row.get("duration") is None:
        return "unknown"
    minutes = row.number_of("duration") / 60
    return "up_to_10min" if minutes <= 10 else "10_to_30min" if minutes <= 30 else "over_30min"
