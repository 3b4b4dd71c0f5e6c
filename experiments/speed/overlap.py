"""Wall time of a run whose videos take as long to decode as to compute, against the larger of the two.

    python -m experiments.speed.overlap      # needs two idle cores; -> experiments/results/overlap/overlap.json

Videos of 640 x 360 by x2l_tiny on one thread; one question each. How many of a file's frames lie between two sampled
ones is chosen so that decoding takes what computing takes. Three figures, in turn, `--repeats` times: decoding alone
(every chunk's frames, and what the vision tower takes for it), computing alone (the same run with all frames in
memory), and the run. What the machine was busy with beside is told: where its load is above its cores, a wall time
says nothing about overlap.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import x2l
from experiments.speed.streaming import pictures
from x2l.compressors.merging import ToMe
from x2l.engine.shown_chunks import shown_chunks
from x2l.frames import SampledFrames
from x2l.runs.run_info import describe, processor_name
from x2l.video import write_video

RESULTS = Path(__file__).parents[1] / "results" / "overlap"
CHUNK = 8
LEVELS = {"low": x2l.Level(ToMe(), 2), "high": x2l.Level(ToMe(), 32)}


def decode(model: Any, videos: Sequence[SampledFrames]) -> None:
    """All that the worker thread does."""
    for frames in videos:
        for _ in shown_chunks(model, model.prompt(frames, CHUNK)):
            pass


def compute(model: Any, videos: Sequence[SampledFrames]) -> None:
    """Pre-fills every video and answers a question."""
    for frames in videos:
        session = x2l.prefill(model, frames, LEVELS, CHUNK)
        x2l.answer(session, "What is the colour of the star?", top_k=2, max_new_tokens=8)


def seconds(work: Callable[..., None], *arguments: Any) -> float:
    """Wall time."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def stride(model: Any, folder: Path, count: int) -> int:
    """Frames of the file for each sampled one, so that decoding one video takes what computing it takes."""
    path = folder / "probe.mp4"
    write_video(path, pictures(4 * count), fps=4)
    streamed = [x2l.open_frames(path, count, None)]
    loaded = [frames.loaded() for frames in streamed]
    compute(model, loaded)  # warms up
    of_computing = seconds(compute, model, loaded)
    one, four = (
        seconds(decode, model, [x2l.open_frames(path, sampled, None)])
        for sampled in (count, 4 * count)
    )
    prepared = seconds(decode, model, loaded)  # what is not decoding
    # At four frames each picture is decoded; sampling all of them also prepares four times as much.
    of_a_frame = max(one - prepared, (four - 4 * prepared)) / (4 * count)
    return max(1, round((of_computing - prepared) / (count * of_a_frame)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = x2l.load("x2l_tiny")
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        apart = stride(model, folder, given.frames)
        path = folder / "video.mp4"
        write_video(path, pictures(apart * given.frames), fps=4)
        streamed = [x2l.open_frames(path, given.frames, None) for _ in range(given.videos)]
        loaded = [streamed[0].loaded()] * given.videos
        for _ in range(given.repeats):
            row = {
                "decoding": seconds(decode, model, streamed),
                "computing": seconds(compute, model, loaded),
                "run": seconds(compute, model, streamed),
                "load": os.getloadavg()[0],
            }
            # Preparing a chunk for the vision tower is in both alone: the larger is not made larger by it.
            row["run / larger"] = row["run"] / max(row["decoding"], row["computing"])
            rows.append(row)
            print(row, flush=True)
    ratio = statistics.median(row["run / larger"] for row in rows)
    print(f"run / larger of both: {ratio:.2f} (median)")
    info = describe("overlap", {}, "cpu", processor_name(), 1)
    about = {"commit": info.commit, "dirty": info.dirty, "started": info.started}
    about |= {"processor": info.processor, "cores": os.cpu_count(), "apart": apart}
    about |= {"videos": given.videos, "frames": given.frames, "rows": rows, "run / larger": ratio}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "overlap.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
