"""The five published sets in exactly the layouts that `hf download` and their unpack steps leave.

Small: a few videos of coloured noise, questions that look like the real ones. Every function writes one
set into a folder and returns it; `rows` of an annotation can be changed before they are written.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from x2l.video import write_video

SECONDS = 12
Change = Callable[[list[dict[str, Any]]], object]


@cache
def _frames(seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 255, (2 * SECONDS, 4, 4, 3))
    return tuple(np.kron(c, np.ones((16, 16, 1))).astype(np.uint8) for c in colours)


def video(path: Path, seed: int = 0) -> None:
    """12 seconds, two frames each, 64 x 64."""
    write_video(path, _frames(seed), fps=2)


def _write(path: Path, rows: list[dict[str, Any]], change: Change | None) -> None:
    if change is not None:
        change(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows, indent=1))


def videomme(root: Path, change: Change | None = None) -> Path:
    """Three videos (short, medium, long), three questions each; the second has no subtitles."""
    rows = []
    for number, duration in enumerate(("short", "medium", "long")):
        name = f"vid-{number}_{'x' * 4}"
        video(root / "data" / f"{name}.mp4", number)
        for question in range(3):
            rows.append(
                {
                    "video_id": f"{number + 1:03d}",
                    "duration": duration,
                    "domain": ("Knowledge", "Life Record", "Knowledge")[number],
                    "sub_category": ("Law", "Food", "Geography")[number],
                    "url": f"https://www.youtube.com/watch?v={name}",
                    "videoID": name,
                    "question_id": f"{number + 1:03d}-{question + 1}",
                    "task_type": ("Counting Problem", "OCR Problems", "Object Reasoning")[question],
                    "question": f"How many colours are there, asked for the {question + 1}. time?",
                    "options": ["A. Two.", "B. Three.", "C. Four.", "D. Many."],
                    "answer": "ABCD"[(number + question) % 4],
                }
            )
        if number != 1:
            _srt(root / "subtitle" / f"{name}.srt")
    _write(root / "videomme" / "test-00000-of-00001.parquet", rows, change)
    return root


def _srt(path: Path) -> None:
    """One text for each four seconds, in the font tags of the real files; one without them."""
    lines = ("Hello and welcome.", "<i>music</i>", "Thank you for watching.")
    blocks = []
    for number, line in enumerate(lines):
        font = f'<font color="white" size=".72c">{line}</font>' if number != 1 else line
        start, end = 4 * number, 4 * number + 4
        blocks.append(f"{number + 1}\n00:00:{start:02d},000 --> 00:00:{end:02d},000\n{font}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(blocks))


MLVU_FILES = {
    "1_plotQA": "plotQA",
    "2_needle": "findNeedle",
    "3_ego": "ego",
    "4_count": "count",
    "5_order": "order",
    "6_anomaly_reco": "anomaly_reco",
    "7_topic_reasoning": "topic_reasoning",
}


def mlvu_dev(root: Path, change: Change | None = None) -> Path:
    """Seven files of two questions on one video each, but three questions for plotQA."""
    for number, (place, kind) in enumerate(MLVU_FILES.items()):
        name = f"{kind}_{number}.mp4"
        video(root / "MLVU" / "video" / place / name, number % 3)
        rows = [
            {
                "video": name,
                "duration": 480.0 + 900 * number,
                "question": f"What happens in scene {question}?",
                "candidates": ["It rains", "It snows", "It burns", "Nothing"],
                "answer": ("It rains", "It snows", "Nothing")[question],
                "question_type": kind,
            }
            for question in range(3 if place == "1_plotQA" else 2)
        ]
        _write(root / "MLVU" / "json" / f"{place}.json", rows, change)
    return root


def mlvu_test(root: Path, change: Change | None = None) -> Path:
    """Two tasks, six options, the answers in test-ground-truth."""
    rows = []
    for number, (code, kind) in enumerate((("AR", "anomaly_reco"), ("SQA", "sportsQA"))):
        name = f"test_{kind}_{number}.mp4"
        video(root / "MLVU_Test" / "video" / name, number)
        rows += [
            {
                "video": name,
                "duration": 2000,
                "question": "Which one?",
                "candidates": ["a", "b", "c", "d", "e", "f"],
                "answer": "f" if question else "a",
                "question_type": kind,
                "question_id": f"{code}_{question}",
            }
            for question in range(2)
        ]
    _write(root / "test-ground-truth" / "test_mcq_gt.json", rows, change)
    open_rows = [{k: v for k, v in row.items() if k != "answer"} for row in rows]
    _write(root / "test_multi_choice_tasks.json", open_rows, None)
    return root


def longvideobench(
    root: Path, change: Change | None = None, split: str = "val", form: str = "parquet"
) -> Path:
    """Three videos of two questions, two to five options, both forms of subtitles.

    Args:
        root: folder.
        change: of the rows.
        split: `val` or `test`.
        form: `parquet` (five option columns) or `json` (a list).
    """
    rows = []
    for number in range(3):
        name = f"@user-{number}.part"
        video(root / "videos" / f"{name}.mp4", number)
        for question in range(2):
            candidates = ["a dog", "a cat", "a bird", "a fish", "a cow"][: 2 + number + question]
            row = {
                "video_id": name,
                "id": f"{name}_{question}",
                "video_path": f"{name}.mp4",
                "subtitle_path": f"{name}_en.json",
                "question": "When the red screen shows, what follows?",
                "duration": float(SECONDS),
                "duration_group": (15, 60, 600)[number],
                "question_category": ("S2E", "T3O")[question],
                "topic_category": "KH-Knowledge-History",
                "starting_timestamp_for_subtitles": 60.0 + 100 * number,
            }
            if split == "val":
                row["correct_choice"] = number % 2
            elif form == "parquet":
                row["correct_choice"] = -1
            if form == "parquet":
                options = [*candidates, *["N/A"] * (5 - len(candidates))]
                row |= {f"option{index}": option for index, option in enumerate(options)}
            else:
                row |= {"candidates": candidates, "position": [7], "level": "L1-Perception"}
            rows.append(row)
        begin = 60.0 + 100 * number
        if number == 1:  # the form of clips from TikTok, its last end missing
            texts = [
                {"timestamp": [begin + 1.0, begin + 2.0], "text": "first words"},
                {"timestamp": [begin + 9.0, None], "text": "last words"},
            ]
        else:
            texts = [
                {"start": _clock(begin - 50), "end": _clock(begin - 40), "line": "before the clip"},
                {"start": _clock(begin + 1), "end": _clock(begin + 5), "line": "first words"},
                {"start": _clock(begin + 8.9), "end": _clock(begin + 9.3), "line": "last words"},
            ]
        _write(root / "subtitles" / f"{name}_en.json", texts, None)
    files = {
        ("val", "parquet"): "validation-00000-of-00001.parquet",
        ("val", "json"): "lvb_val.json",
        ("test", "parquet"): "test-00000-of-00001.parquet",
        ("test", "json"): "lvb_test_wo_gt.json",
    }
    _write(root / files[split, form], rows, change)
    return root


def _clock(seconds: float) -> str:
    seconds = max(0.0, seconds)
    return f"{int(seconds // 3600):02d}:{int(seconds // 60) % 60:02d}:{seconds % 60:06.3f}"


VNBENCH_TYPES = tuple(
    f"{ability}_{kind}"
    for ability, kinds in (
        ("ret", ("edit1", "insert1", "insert2")),
        ("ord", ("edit1", "insert1", "insert2")),
        ("cnt", ("edit1", "edit2", "insert1")),
    )
    for kind in kinds
)


def vnbench(root: Path, change: Change | None = None, types: tuple[str, ...] | None = None) -> Path:
    """One video of each type, four tries each, options turned; counting has whole numbers."""
    rows = []
    for number, kind in enumerate(types or VNBENCH_TYPES):
        name = f"{3260000000 + number}_{kind}.mp4"
        video(root / "VNBench_new" / name, number % 3)
        counts = kind.startswith("cnt")
        options: list[Any] = [2, 3, 1, 4] if counts else ["apple", "dog", "boat", "lamp"]
        times = [1.5, 6.0] if counts else [7.5]
        for turn in range(4):
            turned = options[turn:] + options[:turn]
            rows.append(
                {
                    "video": f"VNBench_new/{name}",
                    "question": "How often does it show?" if counts else "What is inserted?",
                    "options": turned,
                    "needle_time": times,
                    "gt": options[0],
                    "gt_option": "ABCD"[turned.index(options[0])],
                    "length": (12.0, 45.0, 150.0)[number % 3],
                    "type": kind,
                    "try": turn,
                }
            )
    _write(root / "VNBench-main-4try.json", rows, change)
    return root


def lvbench(root: Path, change: Change | None = None) -> Path:
    """Two videos, two questions each; one has two types, one a reference that cannot be read."""
    rows = []
    for number, (key, kind) in enumerate((("Cm73ma6Ibcs", "cartoon"), ("28CIeC8cZks", "live"))):
        video(root / "videos" / f"{key}.mp4", number)
        questions = [
            {
                "uid": str(100 * number + question),
                "question": f"What year appears?\n(A) 19{question}2\n(B) 1988\n(C) 1975\n(D) 1990",
                "answer": "BD"[question],
                "question_type": [
                    ["key information retrieval"],
                    ["entity recognition", "temporal grounding"],
                ][question],
                "time_reference": ("00:02-00:05", "01:00:00-1:00:07", "", "0:04-0:04")[
                    2 * number + question
                ],
            }
            for question in range(2)
        ]
        info = {"duration_minutes": 45 + 40 * number, "fps": 30.0}
        rows.append({"key": key, "type": kind, "video_info": info, "qa": questions})
    _write(root / "video_info.meta.jsonl", rows, change)
    return root
