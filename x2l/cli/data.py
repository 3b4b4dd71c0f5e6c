"""`x2l-data check benchmark=NAME benchmark.root=DIR`: what of a set is there, missing or unreadable.

Any setting of `x2l` may follow, e.g. benchmark.split=test or benchmark.shard=1/4.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from x2l.benchmarks.base import SEVERAL, DatasetError, Sample
from x2l.benchmarks.multiple_choice import ChoiceSet
from x2l.benchmarks.subtitles import Subtitles
from x2l.cli.compose import build_benchmark, composed, config_dir, plain
from x2l.cli.output import command, fail, show
from x2l.evaluation.progress import Progress
from x2l.video import VideoError, read_frames

SOME = 20  # videos that `--decode some` opens, evenly spread
Decode = Literal["all", "some", "none"]


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        lines: for the user to read.
        complete: whether every video is there and every one that was opened can be read; with subtitles on, theirs too.
    """

    lines: tuple[str, ...]
    complete: bool


def check(dataset: ChoiceSet, decode: Decode = "some") -> Report:
    """Looks at every file of a set, and opens `decode` of its videos (their first and last frame) and all subtitles.

    Args:
        dataset: the set; that it could be made says that its annotations are right.
        decode: `all`, `some` (20, evenly spread) or `none`.
    """
    samples = dataset.samples()
    videos = list(dict.fromkeys(sample.video for sample in samples))
    missing = dataset.missing()
    there = [video for video in videos if video not in set(missing)]
    opened = {"all": there, "some": _spread(there, SOME), "none": []}[decode]
    bad = list(_unreadable(opened))
    lines = [
        f"{dataset.name}, protocol {dataset.protocol}, in {dataset.folder.root}",
        f"questions   {len(samples)} of {dataset.whole}, about {len(videos)} videos",
        *_counts("tasks", Counter(t for sample in samples for t in sample.task.split(SEVERAL))),
        *_counts("durations", Counter(s.tags["duration"] for s in samples if "duration" in s.tags)),
        f"spans       {sum(s.spans is not None for s in samples)} questions say where the answer lies",
    ]
    if any(sample.answer is None for sample in samples):
        lines.append("answers     kept back: a run has predictions and no accuracy")
    texts = [] if dataset.subtitles is None else list(_bad_subtitles(dataset.subtitles, samples))
    if dataset.subtitles is not None:
        files = [dataset.subtitles[video].path for video in {s.video_id for s in samples}]
        there_are = f"{sum(f.is_file() for f in files)} of {len(files)} files"
        lines.append(f"subtitles   {there_are}, {len(texts)} missing or unreadable")
        lines += texts
    lines += [
        f"videos      {len(there)} of {len(videos)} are there, {len(opened)} opened, "
        f"{len(bad)} cannot be read",
        *(f"  missing     {video}" for video in missing),
        *(f"  unreadable  {error}" for error in bad),
    ]
    complete = not (missing or bad or texts)
    if not complete and dataset.folder.source is not None:
        lines.append(f"fetch with  {dataset.folder.source.command(dataset.folder.root)}")
    return Report(tuple(lines), complete)


def _bad_subtitles(subtitles: Mapping[str, Subtitles], samples: Sequence[Sample]) -> Iterator[str]:
    """A line for each file that should be there and is not, or that cannot be read."""
    for video in dict.fromkeys(sample.video_id for sample in samples):
        file = subtitles[video]
        if not file.path.is_file():
            if not file.optional:
                yield f"  missing     {file.path}"
            continue
        try:
            file.shown(())
        except DatasetError as error:
            yield f"  unreadable  {error}"


def _spread(items: Sequence[str], most: int) -> list[str]:
    step = max(1.0, len(items) / most)
    return [items[int(step * index)] for index in range(min(most, len(items)))]


def _unreadable(videos: Sequence[str]) -> Iterator[str]:
    with Progress(len(videos), "opening videos", unit="video") as progress:
        for video in videos:
            try:
                read_frames(video, frames=2, fps=None)
            except VideoError as error:
                yield str(error)
            progress.advance()


def _counts(title: str, counts: Counter[str]) -> list[str]:
    if not counts:
        return []
    return [f"{title:<11} " + ", ".join(f"{name} {count}" for name, count in counts.items())]


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; exit status 1 where something is missing, 2 where nothing can be checked."""
    parser = argparse.ArgumentParser(prog="x2l-data", description=__doc__)
    parser.add_argument("command", choices=("check",))
    parser.add_argument("settings", nargs="*", help="benchmark=NAME benchmark.root=DIR ...")
    parser.add_argument("--config-dir", metavar="DIR", help="yaml files of your own methods")
    parser.add_argument("--decode", choices=("all", "some", "none"), default="some")
    options = parser.parse_intermixed_args(arguments)
    with command(), config_dir(options.config_dir):
        config = composed(options.settings)
        plain(config)
        benchmark = build_benchmark(config)
        if not isinstance(benchmark, ChoiceSet):
            fail(f"benchmark={benchmark.name}: makes its own videos; nothing to check")
        report = check(benchmark, options.decode)
        show(*report.lines)
    sys.exit(0 if report.complete else 1)


if __name__ == "__main__":
    main()
