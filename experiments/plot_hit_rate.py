"""Accuracy over the hit rate of a simulated selector, one line a high ratio.

    x2l -m experiment=hit_rate
    python experiments/plot_hit_rate.py outputs/sweeps/hit_rate          # -> hit_rate.png, hit_rate.csv in that folder

The hit rate on the axis is the one that was measured: the share of questions with a ground-truth chunk re-loaded.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from x2l.points import Point, points, write_points
from x2l.records import RECORDS, load

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def lines(rows: list[Point]) -> dict[float, list[Point]]:
    """The simulated selectors by high ratio, in order of their hit rate; all-high stands for no hit at all."""
    found: dict[float, list[Point]] = {}
    for row in rows:
        if row.selector.startswith("hit_rate") or row.control == "all-high":
            found.setdefault(row.ratio_high, []).append(row)
    return {ratio: sorted(line, key=lambda p: p.hit) for ratio, line in sorted(found.items())}


def draw(rows: list[Point], path: Path) -> None:
    """Writes the figure.

    Args:
        rows: points of the sweep.
        path: the picture.

    Raises:
        ValueError: no simulated selector among them.
    """
    by_ratio = lines(rows)
    if not any(row.selector.startswith("hit_rate") for row in rows):
        raise ValueError("no records of hit_rate selectors there; run x2l -m experiment=hit_rate")
    figure, axes = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    for (ratio, line), colour, marker in zip(by_ratio.items(), COLOURS, "os^D", strict=False):
        accuracy = [100 * p.accuracy for p in line]
        reach = [
            [max(0.0, a - 100 * p.low) for p, a in zip(line, accuracy, strict=True)],
            [max(0.0, 100 * p.high - a) for p, a in zip(line, accuracy, strict=True)],
        ]
        axes.errorbar(
            [100 * p.hit for p in line],
            accuracy,
            yerr=reach,
            color=colour,
            marker=marker,
            capsize=2,
            lw=1.4,
            elinewidth=0.9,
            label=f"high {ratio:g}x",
        )
    low = [row for row in rows if row.control == "all-low"]
    if low:
        best = 100 * sum(p.accuracy for p in low) / len(low)
        axes.axhline(best, color="#555555", ls=(0, (4, 3)), lw=0.9, label="all-low")
    axes.set_xlabel("hit rate: questions with a ground-truth chunk re-loaded (%)")
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.25, lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    first = rows[0]
    axes.set_title(
        f"{first.benchmark}, {first.model}, {first.compressor}, low {first.ratio_low:g}x, "
        f"{max(row.videos for row in rows)} videos",
        fontsize=9,
    )
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=160)
    plt.close(figure)


def main() -> None:
    """Reads records, writes figure and points."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="default: the folder")
    options = parser.parse_args()
    out = options.out or options.folder
    out.mkdir(parents=True, exist_ok=True)
    rows = points(record for run in options.folder.rglob(RECORDS) for record in load(run))
    draw(rows, out / "hit_rate.png")
    write_points(out / "hit_rate.csv", rows)
    for row in rows:
        print(f"{row.selector:14} high {row.ratio_high:g}x  hit {row.hit:.2f}  {row.accuracy:.3f}")


if __name__ == "__main__":
    main()
