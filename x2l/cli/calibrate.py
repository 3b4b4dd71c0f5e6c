"""`x2l-calibrate model=NAME`: finds the heads of a model that find what a question asks about.

Asks every head questions whose answer is known to lie somewhere, by default of the needle benchmark's train split, and
writes their scores, and a picture of them. Use them with `selector=keys selector.keys.heads=FILE`, or
`selector=retrieval_heads selector.retrieval_heads.heads=FILE`, on any other split. Any setting of `x2l` may follow,
e.g. video.frames=64 benchmark.split=dev: heads are best found at the length that they are used at.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from x2l.cli.compose import Engine, build_benchmark, composed, config_dir, engine
from x2l.cli.output import command, show
from x2l.evaluation.progress import Progress
from x2l.evaluation.settings import ConfigError
from x2l.runs.pasted import setting
from x2l.runs.run_info import checkpoint_digest
from x2l.selectors.calibration import FORMAT, SCORES, ranked

if TYPE_CHECKING:
    from x2l.models.interface import VideoModel
    from x2l.selectors.head_scores import Found

DEFAULTS = ("benchmark=needle", "benchmark.split=train", "benchmark.videos=8")


def calibrate(overrides: Sequence[str], questions: int, path: Path | None) -> Path:
    """Finds a model's heads and writes them; returns where to.

    Args:
        overrides: as on the command line of `x2l`.
        questions: at most that many.
        path: of the JSON file; None = outputs/calibration/MODEL-BENCHMARK-SPLIT.json.

    Raises:
        ConfigError: a value that cannot work, or nothing to learn from.
    """
    if questions < 1:
        raise ConfigError(f"--questions {questions}: must be at least 1")
    chosen = any(override.startswith("benchmark=") for override in overrides)
    overrides = [*(() if chosen else DEFAULTS), *overrides]
    made, config = engine(overrides), composed(overrides)
    settings = made.settings
    benchmark = build_benchmark(config)
    benchmark.prepare()
    # transformers, which takes seconds to import, waits until all this is known to be right.
    from x2l.evaluation.find_heads import find_heads, questions_to_ask

    samples = questions_to_ask(benchmark.samples(), questions, settings.evaluated)
    checkpoint = checkpoint_digest(settings.model)
    model = made.load_model()
    with Progress(len(samples), "questions", unit="question") as progress:
        found = find_heads(model, benchmark, settings, made.levels, samples, progress.advance)
    if not found:
        raise ConfigError(
            f"video.frames={settings.frames}: no question is about a part of its video only; use more frames, or a "
            "smaller prefill.chunk_frames"
        )
    name = f"{Path(settings.model).name}-{settings.evaluated.replace('/', '-')}.json"
    path = path or Path(str(config.paths.outputs)) / "calibration" / name
    values = _values(made, checkpoint, model, found, config.benchmark.get("seed"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    draw(values, path)
    return path


def _values(
    made: Engine, checkpoint: str | None, model: VideoModel, found: Sequence[Found], seed: Any
) -> dict[str, Any]:
    """What the file holds."""
    from x2l.models.fingerprint import UntoldWeights
    from x2l.selectors.head_scores import SHARE, attention_scores, best_count, key_scores

    settings, shape = made.settings, model.shape
    of_keys, of_attention = key_scores(found), attention_scores(found)
    try:
        fingerprint = model.fingerprint
    except UntoldWeights:
        fingerprint = None
    return {
        "format": FORMAT,
        "model": settings.model,
        "checkpoint": checkpoint,
        "fingerprint": fingerprint,
        "layers": shape.layers,
        "heads": shape.heads,
        "found_on": settings.evaluated,
        "seed": seed,
        "questions": len(found),
        "frames": settings.frames,
        "fps": settings.fps,
        "chunk_frames": settings.chunk_frames,
        "scores": {
            "keys": {"best": best_count(found, ranked(of_keys)), "of_heads": _rounded(of_keys)},
            "attention": {
                "best": math.ceil(SHARE * shape.layers * shape.heads),
                "of_heads": _rounded(of_attention),
            },
        },
    }


def _rounded(scores: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[float(f"{score:.6g}") for score in row] for row in scores]


def draw(values: dict[str, Any], file: Path) -> None:
    """Draws the scores of both kinds beside the file that holds them, see `plot.heads`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from x2l.analysis.plot import heads

    size = (9, 2 + 0.16 * max(values["layers"], 8))
    figure, axes = plt.subplots(1, 2, figsize=size, layout="constrained")
    for of_score, score in zip(axes, SCORES, strict=True):
        heads(file, score, of_score)
    figure.suptitle(
        f"{Path(values['model']).name}: heads found on {values['questions']} questions of {values['found_on']}; "
        "those marked are used"
    )
    figure.savefig(file.with_suffix(".png"), dpi=150)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; exit status 2 where heads cannot be found."""
    parser = argparse.ArgumentParser(prog="x2l-calibrate", description=__doc__)
    parser.add_argument("settings", nargs="*", help="model=NAME video.frames=128 ...")
    parser.add_argument("--config-dir", metavar="DIR", help="yaml files of your own methods")
    parser.add_argument("--questions", type=int, default=24, help="at most so many (24)")
    parser.add_argument("--out", type=Path, default=None, help="the JSON file")
    options = parser.parse_intermixed_args(arguments)
    with command(), config_dir(options.config_dir):
        _calibrate(options.settings, options.questions, options.out)


def _calibrate(settings: Sequence[str], questions: int, out: Path | None) -> None:
    path = calibrate(settings, questions, out)
    values = json.loads(path.read_text(encoding="utf-8"))
    scores = values["scores"]["keys"]
    best = ranked(scores["of_heads"])[: scores["best"]]
    heads = " ".join(f"({layer}, {head})" for layer, head in best)
    show(
        f"heads     {heads}, layer and head from 0, of {values['questions']} questions of {values['found_on']}",
        f"written   {path}, {path.with_suffix('.png').name}",
        f"use with  x2l selector=keys {setting('selector.keys.heads', path)}",
    )


if __name__ == "__main__":
    main()
