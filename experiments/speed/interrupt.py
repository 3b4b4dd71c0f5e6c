"""Ctrl-C, and errors of a decoder, in the middle of a pre-fill whose frames a thread decodes: does all of it end?

    python -m experiments.speed.interrupt      # 50 of each -> experiments/results/interrupt/interrupt.json

Every try is a process of its own, forked from this one: it pre-fills a video over and over by x2l_tiny. It gets SIGINT
after a random time, or its decoder fails at a random picture. Clean is: the error that was expected is raised, within
the time of a few chunks, no thread is left, and the process ends by itself.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import x2l
from experiments.speed.streaming import pictures
from x2l import video
from x2l.compressors.merging import ToMe
from x2l.runs.run_info import describe, processor_name
from x2l.video import VideoError, write_video

RESULTS = Path(__file__).parents[1] / "results" / "interrupt"
FRAMES, LATEST, PATIENCE = 64, 1.5, 60.0
CLEAN, DIRTY = 0, 3  # exit status of a try
LEVELS = {"low": x2l.Level(ToMe(), 2), "high": x2l.Level(ToMe(), 8)}


def work(model: Any, path: Path, fails_at: int | None, ready: int) -> None:
    """Pre-fills the video until something ends it; tells the parent when it begins."""
    image, decoded = video._ByTime.image, 0

    def failing(self: Any, number: int) -> Any:
        nonlocal decoded
        decoded += 1
        if fails_at is not None and decoded > fails_at:
            raise VideoError(self.path, "fails, as told")
        return image(self, number)

    video._ByTime.image = failing  # type: ignore[method-assign]
    os.write(ready, b".")
    while True:
        x2l.prefill(model, x2l.open_frames(path, FRAMES, None), LEVELS, 8, "high")


def attempt(model: Any, path: Path, fails_at: int | None, wait: float) -> tuple[str, float]:
    """How one try ended, and seconds from the signal (or, without one, from the start) to its end."""
    read, write = os.pipe()
    sys.stdout.flush()
    number = os.fork()
    if number == 0:
        os.close(read)
        _child(model, path, fails_at, write)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    begun = time.monotonic()
    if fails_at is None:
        time.sleep(wait)
        begun = time.monotonic()
        os.kill(number, signal.SIGINT)
    while time.monotonic() - begun < PATIENCE:
        ended, status = os.waitpid(number, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            end = "clean" if code == CLEAN else f"status {code}"
            return end, time.monotonic() - begun
        time.sleep(0.005)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return "hung", PATIENCE


def _child(model: Any, path: Path, fails_at: int | None, ready: int) -> None:
    expected = KeyboardInterrupt if fails_at is None else VideoError
    code = DIRTY
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the progress bar
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work(model, path, fails_at, ready)
    except expected:
        left = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
        code = DIRTY if any(thread.name == "x2l-ahead" for thread in left) else CLEAN
    except BaseException:
        traceback.print_exc(file=sys.stdout)
    finally:
        sys.stdout.flush()
        os._exit(code)  # what the parent has open is not this process's to end


def tries(count: int, seed: int) -> dict[str, Any]:
    """So many of each kind."""
    torch.set_num_threads(1)
    model, draw = x2l.load("x2l_tiny"), random.Random(seed)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "video.mp4"
        write_video(path, pictures(2 * FRAMES), fps=4)
        for kind in ("Ctrl-C", "error of the decoder"):
            ends, seconds = Counter[str](), []
            for _ in range(count):
                fails_at = None if kind == "Ctrl-C" else draw.randrange(1, FRAMES)
                end, took = attempt(model, path, fails_at, draw.uniform(0, LATEST))
                ends[end] += 1
                seconds.append(took)
            found[kind] = {"ends": dict(ends), "longest_seconds": max(seconds)}
    return found


def main() -> None:
    """Tries, prints, writes JSON; exit status 1 if anything did not end cleanly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    found = tries(given.tries, given.seed)
    print(found)
    info = describe("interrupt", {}, "cpu", processor_name(), 1)
    about = {"commit": info.commit, "dirty": info.dirty, "started": info.started}
    about |= {"processor": info.processor, "tries": given.tries, "seed": given.seed}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "interrupt.json").write_text(json.dumps({**about, **found}, indent=1) + "\n")
    sys.exit(0 if all(kind["ends"] == {"clean": given.tries} for kind in found.values()) else 1)


if __name__ == "__main__":
    main()
