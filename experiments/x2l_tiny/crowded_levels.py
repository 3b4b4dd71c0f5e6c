r"""Plain against crowded needle: different keys of a chunk by layer, and accuracy of single levels over the ratio.

First the runs (each prints its folder's table), then the picture and one table of both:

    for S in plain crowded; do
      x2l -m benchmark.scene=$S benchmark.in_view=4 benchmark.split=dev benchmark.seed=3 benchmark.videos=12 \
        compressor=density_peaks,kmeans,tome levels.high.ratio=2,4,8,16,32 levels.low.ratio=1 selector=none \
        tracker=none hydra.sweep.dir=outputs/crowded/$S
      x2l-collect outputs/crowded/$S
    done
    python -m experiments.x2l_tiny.crowded_keys
    python -m experiments.x2l_tiny.crowded_levels

`benchmark.tasks=[retrieval]` asks what a model can answer that has not learned the other tasks on crowded scenes.
"""

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from x2l.analysis.curve_legend import CHANCE
from x2l.analysis.figure_style import SOFT, style_of_compressor

SCENES = ("plain", "crowded")
RESULTS = Path("experiments/results/crowded")
COLUMNS = (
    *("scene", "compressor", "ratio", "task", "accuracy", "accuracy_low", "accuracy_high"),
    *("questions", "videos"),
)


def single_levels(folder: Path, scene: str) -> list[dict[str, str]]:
    """Rows of `COLUMNS` from the points of one scene's sweep; chunks all at the high level."""
    with (folder / scene / "points.csv").open(newline="") as file:
        points = [row for row in csv.DictReader(file) if row["selector"] == "none"]
    return [
        {"scene": scene, "ratio": row["ratio.high"]}
        | {name: row[name] for name in row if name in COLUMNS}
        for row in points
    ]


def plot(
    levels: list[dict[str, str]], keys: list[dict[str, str]], picture: Path, asked: str
) -> None:
    """Left: different keys by layer. Then accuracy over ratio, a panel a scene."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    for scene, in_view in dict.fromkeys((row["scene"], row["in_view"]) for row in keys):
        rows = [row for row in keys if (row["scene"], row["in_view"]) == (scene, in_view)]
        axes[0].plot(
            [int(row["layer"]) for row in rows], [float(row["distinct"]) for row in rows],
            marker="o", label=scene if scene == "plain" else f"{scene}, {in_view} in view",
        )  # fmt: skip
    axes[0].set(title="different keys of a chunk's 64", xlabel="layer", ylim=(0, None))
    axes[0].set_ylabel("different keys")
    axes[0].legend(fontsize=8)
    for axis, scene in zip(axes[1:], SCENES, strict=True):
        rows = [row for row in levels if row["scene"] == scene and row["task"] == "all"]
        for number, name in enumerate(dict.fromkeys(row["compressor"] for row in rows)):
            mine = sorted(
                (
                    float(row["ratio"]),
                    float(row["accuracy"]),
                    float(row["accuracy_low"]),
                    float(row["accuracy_high"]),
                )
                for row in rows
                if row["compressor"] == name
            )
            ratio, value, low, high = zip(*mine, strict=True)
            errors = [
                [v - b for v, b in zip(value, low, strict=True)],
                [t - v for v, t in zip(value, high, strict=True)],
            ]
            style = style_of_compressor(name)
            aside = [0.97 + 0.03 * number for _ in ratio]
            axis.errorbar(
                [r * a for r, a in zip(ratio, aside, strict=True)], value, errors, capsize=2,
                label=name, color=style.colour, marker=style.marker,
            )  # fmt: skip
        axis.axhline(0.25, color=SOFT, linewidth=0.9, linestyle=CHANCE, label="guessing: 25 %")
        axis.set(title=f"{scene}: one level for all chunks", xscale="log", ylim=(0, 1.02))
        axis.set(xlabel="tokens in / tokens out")
        axis.set_ylabel(f"accuracy ({asked})")
        axis.set_xticks([2, 4, 8, 16, 32], ["2", "4", "8", "16", "32"])
        axis.minorticks_off()
        axis.legend(fontsize=8)
    figure.suptitle("bars: 95 % intervals, clustered by video", fontsize=9)
    figure.savefig(picture, dpi=110)


def main() -> None:
    """Writes single_levels.csv and crowded.png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=Path, default=Path("outputs/crowded"))
    parser.add_argument("--asked", default="all tasks", help="what the runs asked, for the picture")
    given = parser.parse_args()
    levels = [row for scene in SCENES for row in single_levels(given.sweeps, scene)]
    with (RESULTS / "single_levels.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        rows.writeheader()
        rows.writerows(levels)
    with (RESULTS / "distinct_keys.csv").open(newline="") as file:
        keys = list(csv.DictReader(file))
    plot(levels, keys, RESULTS / "crowded.png", given.asked)


if __name__ == "__main__":
    main()
