"""Peak host memory of reading and pre-filling a video, less its KVs: frames are decoded chunk by chunk.

    python -m experiments.speed.streaming       # -> experiments/results/streaming/streaming.json

x2l_tiny on the CPU with `context=high`; a made video of 640 x 360, sampled at both numbers of frames. Each figure has a
process of its own: its largest resident size (Linux, VmHWM), less what the KVs of all levels take. `--at-once` decodes
the whole video first, as was done before, which at 10,000 frames takes 6.9 GB.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import x2l
from experiments.speed.peaks import memory
from x2l.compressors.merging import ToMe
from x2l.engine.meter import Meter
from x2l.runs.run_info import processor_name
from x2l.video import write_video

SIZE, LEVELS = (360, 640), {"low": 2, "high": 32}
RESULTS = Path(__file__).parents[1] / "results" / "streaming"


def pictures(count: int) -> Iterator[np.ndarray]:
    """A slope of grey that wanders."""
    slope = np.add.outer(np.arange(SIZE[0]), np.arange(SIZE[1])) // 4
    for number in range(count):
        grey = ((slope + 3 * number) % 256).astype(np.uint8)
        yield np.repeat(grey[:, :, None], 3, axis=2)


def measure(path: str, count: int, at_once: bool) -> dict[str, float]:
    """Bytes and seconds of one pre-fill in this process."""
    Meter._begin_peak = lambda self: None  # type: ignore[method-assign]  # one peak from start to end
    model, start = x2l.load("x2l_tiny"), time.perf_counter()
    read = x2l.read_frames if at_once else x2l.open_frames
    levels = {name: x2l.Level(ToMe(), ratio) for name, ratio in LEVELS.items()}
    session = x2l.prefill(model, read(path, count, None), levels, 8, "high")
    store = session.store
    kvs = store.prefix.nbytes + sum(sum(store.stored_bytes(level)) for level in LEVELS)
    return {
        "frames": count,
        "peak_bytes": memory("cpu", "VmHWM"),
        "kv_bytes": kvs,
        "seconds": time.perf_counter() - start,
        "seconds_read": session.seconds_read,
    }


def main() -> None:
    """Makes the video if need be, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[256, 10_000])
    parser.add_argument("--video", type=Path, default=Path(tempfile.gettempdir()) / "x2l_long.mp4")
    parser.add_argument("--at-once", action="store_true")
    parser.add_argument("--one", action="store_true", help="measure here, print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(str(options.video), options.frames[0], options.at_once)))
        return
    if not options.video.exists():
        write_video(options.video, pictures(max(options.frames)), fps=1)
    rows = []
    for count in options.frames:
        words = ["--one", "--video", str(options.video), "--frames", str(count)]
        words += ["--at-once"] * options.at_once
        command = [sys.executable, "-m", "experiments.speed.streaming", *words]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    rest = [row["peak_bytes"] - row["kv_bytes"] for row in rows]
    print(
        f"beside KVs: {rest[-1] / 1e6:.0f} MB at {options.frames[-1]:,} frames, "
        f"{(rest[-1] - rest[0]) / 1e6:+.0f} MB against {options.frames[0]:,}"
    )
    RESULTS.mkdir(parents=True, exist_ok=True)
    about = {"processor": processor_name(), "rows": rows, "at_once": options.at_once}
    (RESULTS / "streaming.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
