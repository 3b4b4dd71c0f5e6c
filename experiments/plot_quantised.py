"""Accuracy over KV bytes as stored: one panel a compressor, one line a form of storage.

x2l -m experiment=quantised
python -m experiments.plot_quantised outputs/sweeps/quantised     # -> quantised.png, quantised.csv in that folder
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from x2l.points import Point, points, write_points
from x2l.records import RECORDS, load

STYLES = {"as they are": ("#0072B2", "o"), "int8": ("#009E73", "s"), "int4": ("#D55E00", "^")}


def form(row: Point) -> tuple[str, str]:
    """(compressor, form of storage) of a point, whose label joins them by a hyphen."""
    name, _, codec = row.compressor.partition("-")
    return name, codec or "as they are"


def draw(rows: list[Point], path: Path) -> None:
    """Writes the figure.

    Args:
        rows: points of the sweep, one a compressor, ratio and form of storage.
        path: the picture.

    Raises:
        ValueError: no records.
    """
    if not rows:
        raise ValueError("no records there; run x2l -m experiment=quantised")
    names = sorted({form(row)[0] for row in rows})
    figure, grid = plt.subplots(
        1, len(names), figsize=(3.6 * len(names), 3.8), sharey=True, squeeze=False
    )
    for axes, name in zip(grid[0], names, strict=True):
        for codec, (colour, marker) in STYLES.items():
            line = [row for row in rows if form(row) == (name, codec)]
            line.sort(key=lambda row: row.kv_share)
            accuracy = [100 * row.accuracy for row in line]
            low = [a - 100 * row.low for a, row in zip(accuracy, line, strict=True)]
            high = [100 * row.high - a for a, row in zip(accuracy, line, strict=True)]
            axes.errorbar(
                [100 * row.kv_share for row in line],
                accuracy,
                yerr=[[max(0, v) for v in low], [max(0, v) for v in high]],
                color=colour,
                marker=marker,
                ms=4,
                lw=1.3,
                elinewidth=0.7,
                capsize=2,
                label=codec,
            )
        axes.set_xscale("log")
        axes.set_xticks([2, 5, 10, 20], ["2", "5", "10", "20"])
        axes.minorticks_off()
        axes.set_title(f"{name}: 32x, 16x, 8x, 4x", fontsize=10)
        axes.set_xlabel("KV bytes as stored, % of full")
        axes.grid(alpha=0.25, lw=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("accuracy (%)")
    grid[0][0].set_ylim(0, 105)
    grid[0][0].legend(fontsize=8, title="KVs stored", title_fontsize=8)
    first = rows[0]
    figure.suptitle(
        f"{first.benchmark}, {first.model}; {first.n} questions, {first.videos} videos", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Draws and writes the points of a sweep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path)
    folder = parser.parse_args().sweep
    rows = points(record for path in sorted(folder.rglob(RECORDS)) for record in load(path))
    draw(rows, folder / "quantised.png")
    write_points(folder / "quantised.csv", rows)
    for row in sorted(rows, key=lambda row: (form(row)[0], row.kv_share)):
        print(
            f"{row.compressor:16s} {row.ratio_high:>3g}x  KV {100 * row.kv_share:5.1f} %  {100 * row.accuracy:5.1f}"
        )


if __name__ == "__main__":
    main()
