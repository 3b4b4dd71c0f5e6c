"""Picture of a training log: `python -m experiments.x2l_tiny.curve LOG.jsonl CURVE.png`."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TASKS = {"retrieval": "tab:blue", "ordering": "tab:orange", "counting": "tab:green"}


def plot(log: Path, picture: Path) -> None:
    """Draws the loss and the accuracies of every stage against its steps."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    stages = [name for name in ("symbols", "tower", "join") if _of(lines, name)]
    figure, axes = plt.subplots(
        2, len(stages), figsize=(4.6 * len(stages), 6.4), squeeze=False, layout="constrained"
    )
    for column, name in enumerate(stages):
        rows = _of(lines, name)
        top, bottom = axes[0, column], axes[1, column]
        minutes = rows[-1]["seconds"] / 60
        top.plot([r["step"] for r in rows], [r["loss"] for r in rows], color="black", linewidth=1)
        top.set(title=f"stage {name} ({minutes:.0f} minutes)", yscale="log")
        top.set(xlabel="step", ylabel="loss" if column == 0 else "")
        if name == "tower":
            for field, colour in (("colour", "tab:red"), ("shape", "tab:purple"), ("hay", "gray")):
                _line(bottom, rows, field, color=colour, label=field)
            bottom.set_title("right visual tokens, held-out videos", fontsize=9)
        else:
            for task, colour in TASKS.items():
                _line(bottom, rows, task, color=colour, label=task)
                label = f"{task}, as a word"
                _line(bottom, rows, f"{task}_word", color=colour, linestyle=":", label=label)
            bottom.set_title(
                "running accuracy at the level of the time (it grows)"
                if name == "symbols"
                else "running accuracy",
                fontsize=9,
            )
        bottom.set(xlabel="step", ylim=(0, 1.02), ylabel="accuracy" if column == 0 else "")
        bottom.legend(fontsize=7, loc="lower right")
    figure.savefig(picture, dpi=110)


def _line(axes, rows: list[dict], field: str, **style) -> None:
    points = [(row["step"], row[field]) for row in rows if field in row]
    axes.plot([step for step, _ in points], [value for _, value in points], linewidth=1.2, **style)


def _of(lines: list[dict], stage: str) -> list[dict]:
    """The lines of one stage; where a stopped run went over steps again, the last of each."""
    return list({line["step"]: line for line in lines if line["stage"] == stage}.values())


if __name__ == "__main__":
    plot(Path(sys.argv[1]), Path(sys.argv[2]))
