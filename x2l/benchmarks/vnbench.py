"""VNBench: needles in 1,350 videos, every question four times (arXiv 2406.09367).

`videoniah/VNBench` on the Hub (also found as `Joez1717/VNBench`) holds the annotations; the videos are
one archive elsewhere. A question counts only if all four tries, whose options are turned, are right.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from x2l.benchmarks.annotation_row import Row, span
from x2l.benchmarks.answer_extraction import lowest_capital
from x2l.benchmarks.base import DatasetError, Sample
from x2l.benchmarks.dataset_folder import Folder, Source
from x2l.benchmarks.multiple_choice import ChoiceSet, Protocol
from x2l.benchmarks.option_text import letters, vnbench_prompt

SOURCE = Source(
    "videoniah/VNBench",
    unpack=(
        "pipx run gdown 1KOUzy07viQzpmpcBqydUA043VQZ4nmRv -O VNBench.zip",
        "unzip -n -q VNBench.zip",
    ),
)
TRIES = 4
_ABILITIES = {"ret": "retrieval", "ord": "ordering", "cnt": "counting"}
_FOLDERS = ("VNBench_new", "VNBench", "videos", "video", ".")


def _official(sample: Sample, _: Sequence[str] | None) -> str:
    """VideoNIAH 8193a3b README.md, "Evaluation Pipeline"."""
    return vnbench_prompt(sample.question, sample.choices)


def _video_xl_2(sample: Sample, _: Sequence[str] | None) -> str:
    """Video-XL 3e05fca Video-XL-2/eval/lvu: the authors' task, with a line break at its end."""
    return vnbench_prompt(sample.question, sample.choices) + "\n"


PROTOCOLS = {
    "official": Protocol(_official, lowest_capital, mean="tasks"),
    "video_xl_2": Protocol(_video_xl_2, lowest_capital),
}


def vnbench(
    root: str,
    protocol: str = "official",
    tasks: Sequence[str] | str | None = None,
    durations: Sequence[str] | str | None = None,
    shard: str | None = None,
) -> ChoiceSet:
    """VNBench as `SOURCE` leaves it in `root`.

    Args:
        root: holds VNBench-main-4try.json and the videos.
        protocol: `official` (mean over the types) or `video_xl_2` (over videos); lmms-eval has no
            VNBench at the commit that the authors of Video-X2L pinned.
        tasks: of the nine types, e.g. `ret_edit1`; None = all.
        durations: of `up_to_30s`, `30_to_60s`, `over_60s`, `unknown`; None = all.
        shard: see `ChoiceSet`.

    Raises:
        ValueError: see `ChoiceSet`; or a question with fewer or more than four tries.
    """
    folder = Folder("vnbench", root, SOURCE)
    samples = _samples(folder)
    return ChoiceSet(
        "vnbench", folder, samples, PROTOCOLS, protocol, tasks, durations, shard, circular=True
    )


def _samples(folder: Folder) -> Iterator[Sample]:
    tries: dict[str, int] = {}
    for row in folder.rows("VNBench-main-4try.json"):
        name, kind = Path(row.text("video")).name, row.text("type")
        video = Path(name).stem
        tries[video] = tries.get(video, 0) + 1
        choices = row.labels("options")
        yield Sample(
            id=f"{video}_{row.label('try')}",
            video_id=video,
            video=str(folder.video(name, _FOLDERS)),
            task=kind,
            question=row.text("question"),
            choices=choices,
            answer=_answer(row, choices),
            spans=row.read("needle_time", spans),
            tags={
                "ability": _ABILITIES.get(kind[:3], kind),
                "duration": _length(row),
            },
            row=row.number,
        )
    short = next((video for video, count in tries.items() if count != TRIES), None)
    if short is not None:
        raise DatasetError(
            f"benchmark.root={folder.root}: {short} has {tries[short]} tries, must be {TRIES}; "
            "fetch VNBench-main-4try.json again"
        )


def _answer(row: Row, choices: Sequence[str]) -> str:
    """`gt` is the option itself (a number, for counting), `gt_option` its letter.

    Raises:
        DatasetError: they disagree; or there is no letter, and the option is not there once.
    """
    truth = row.label("gt")
    letter = row.text("gt_option") if row.get("gt_option") else None
    places = [at for at, choice in zip(letters(26), choices, strict=False) if choice == truth]
    if letter and places and letter not in places:
        told = f"but gt_option={letter}"
    elif not letter and len(places) != 1:
        told = f"which is {len(places)} of the options, and no gt_option"
    else:
        return letter or places[0]
    raise DatasetError(
        f"{row.path}: row {row.number} ({row['video']}, try {row['try']}) has gt={truth!r}, {told}; the options are "
        f"{list(choices)}; fetch the file again, or correct the row"
    )


def spans(needle_time: Any) -> tuple[tuple[float, float], ...]:
    """Where the needles are, in time order, from VNBench's `needle_time`.

    It is a list with the second at which each needle begins (one for each that is counted); a lone
    number, one in a text, and `[start, end]` pairs are read as well. A needle without an end is a point in time.

    Raises:
        ValueError: anything else.
    """
    entries = needle_time if isinstance(needle_time, list) else [needle_time]
    try:
        entries = [float(entry) if isinstance(entry, str) else entry for entry in entries]
        pairs = [entry if isinstance(entry, list) else [entry, entry] for entry in entries]
        return tuple(sorted(map(span, pairs)))
    except ValueError as error:
        raise ValueError("seconds, or [start, end] pairs of them") from error


def _length(row: Row) -> str:
    if row.get("length") is None:
        return "unknown"
    length = row.number_of("length")
    return "up_to_30s" if length <= 30 else "30_to_60s" if length <= 60 else "over_60s"
