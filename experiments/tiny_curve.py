"""Picture of a training log: `python experiments/tiny_curve.py LOG.jsonl CURVE.png`."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TASKS = {"retrieval": "tab:blue", "ordering": "tab:orange", "counting": "tab:green"}


def plot(log: Path, picture: Path) -> None:
    """Draws the loss and the accuracies of every stage against its time."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    stages = [name for name in ("symbols", "tower", "join") if any(_of(lines, name))]
    figure, axes = plt.subplots(
        2, len(stages), figsize=(4.2 * len(stages), 6), squeeze=False, layout="constrained"
    )
    for column, name in enumerate(stages):
        rows = _of(lines, name)
        minutes = [row["seconds"] / 60 for row in rows]
        top, bottom = axes[0, column], axes[1, column]
        top.plot(minutes, [row["loss"] for row in rows], color="black", linewidth=1)
        top.set(title=f"stage {name}", yscale="log", ylabel="loss" if column == 0 else "")
        if name == "tower":
            for field, colour in (("colour", "tab:red"), ("shape", "tab:purple"), ("hay", "gray")):
                held = [(row["seconds"] / 60, row[field]) for row in rows if field in row]
                bottom.plot(*zip(*held, strict=True), color=colour, label=field)
            bottom.set_title("right visual tokens, held-out videos", fontsize=9)
        else:
            for task, colour in TASKS.items():
                bottom.plot(minutes, [row[task] for row in rows], color=colour, label=task)
                word = [row[task + "_word"] for row in rows]
                bottom.plot(minutes, word, color=colour, linestyle=":", label=f"{task}, as a word")
            levels = [row["level"] for row in rows]
            for at in range(1, len(rows)):
                if levels[at] > levels[at - 1]:
                    bottom.axvline(minutes[at], color="gray", linewidth=0.6)
            bottom.set_title("running accuracy at the top level (lines: next level)", fontsize=9)
        bottom.set(xlabel="minutes", ylim=(0, 1.02), ylabel="accuracy" if column == 0 else "")
        bottom.legend(fontsize=7, loc="lower right")
    figure.savefig(picture, dpi=110)


def _of(lines: list[dict], stage: str) -> list[dict]:
    """The lines of one stage; where a stopped run went over steps again, the last of each."""
    return list({line["step"]: line for line in lines if line["stage"] == stage}.values())


if __name__ == "__main__":
    plot(Path(sys.argv[1]), Path(sys.argv[2]))
