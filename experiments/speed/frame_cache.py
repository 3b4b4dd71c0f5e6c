"""Sampled frames from `video.cache` beside decoding them: processor seconds, and bytes on the disk.

    python -m experiments.speed.frame_cache      # -> experiments/results/frame_cache/frame_cache.json

Made videos of 640 x 360 with a key frame every 250, sampled at every 1st, 8th and 64th of their frames, in spans of 8;
decoding has to go through all those between. In turn, `--repeats` times: decoding, decoding and keeping, reading what
was kept (the hash of the video and the check of every frame included). Seconds are the processor's, of all threads; the
files were written just before, so that reading is not from a slow disk. Real films are less even than these and take
longer to decode.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.speed.streaming import pictures
from x2l.engine.disk_cache.kept_frames import FrameCache
from x2l.frames import SampledFrames
from x2l.runs.run_info import describe, processor_name
from x2l.video import open_frames, write_video

RESULTS = Path(__file__).parents[1] / "results" / "frame_cache"
SPAN = 8


def seconds(opened: Callable[[], SampledFrames]) -> float:
    """Of opening a video and seeing all its frames."""
    start = time.process_time()
    frames = opened()
    count = frames.shape[0]
    for block in frames.blocks((at, min(at + SPAN, count)) for at in range(0, count, SPAN)):
        assert len(block)
    return time.process_time() - start


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--apart", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for apart in given.apart:
            path = str(Path(place) / f"{apart}.mp4")
            write_video(path, pictures(apart * given.frames), fps=25)
            runs: dict[str, list[float]] = {"decoding": [], "keeping": [], "reading": []}
            kept = 0
            for repeat in range(given.repeats):
                folder = Path(place) / f"{apart}-{repeat}"
                cache = FrameCache(folder, 10)

                def through(cache=cache, path=path):
                    return cache.open(path, given.frames, None, "pyav")

                runs["decoding"].append(seconds(lambda p=path: open_frames(p, given.frames, None)))
                runs["keeping"].append(seconds(through))
                runs["reading"].append(seconds(through))
                assert (cache.files.made, cache.files.loaded) == (1, 1)
                (file,) = folder.iterdir()
                kept = file.stat().st_size
            medians = {name: statistics.median(each) for name, each in runs.items()}
            row = {"apart": apart, "kept_bytes": kept, "video_bytes": Path(path).stat().st_size}
            rows.append({**row, **medians, "runs": runs})
            print({**row, **medians}, flush=True)
    info = describe("frame_cache", {}, "cpu", processor_name(), 1)
    about = {"commit": info.commit, "dirty": info.dirty, "started": info.started}
    about |= {"processor": info.processor, "frames": given.frames, "rows": rows}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "frame_cache.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
