"""Recall of every selector against what it takes: a row of panels for each scene, FLOPs left and bytes right.

`python -m experiments.selection.figure plain=FILE crowded=FILE --out FILE.png`, of what recall.py writes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from x2l.analysis.curve_legend import CHANCE
from x2l.analysis.figure_style import RC, SOFT, Style, selector_styles

K = 4
LEAST = {"flops": 1e3, "bytes": 10.0}  # where what takes nothing is drawn
LABELS = {
    "flops": "FLOPs a question",
    "bytes": "bytes streamed a question and resident",
}


def taken(row: Mapping[str, Any], measure: str) -> float:
    """FLOPs, or bytes streamed and resident."""
    value = row["flops"] if measure == "flops" else row["bytes_streamed"] + row["bytes_resident"]
    return max(value, LEAST[measure])


def draw_panel(
    axes: Axes, rows: Sequence[Mapping[str, Any]], measure: str, styles: Mapping[str, Style]
) -> None:
    """Recall@4 with its interval over one measure, and the recall of random chunks across it."""
    for row in rows:
        name, recall = row["selector"], row[f"recall@{K}"]
        bars = [[recall - row[f"low@{K}"]], [row[f"high@{K}"] - recall]]
        style = styles[name]
        axes.errorbar(
            taken(row, measure), recall, bars, fmt=style.marker, color=style.colour, ms=5,
            mfc="white" if row["role"] != "method" else style.colour, elinewidth=0.7, label=name,
        )  # fmt: skip
        if name == "random":
            axes.axhline(recall, color=SOFT, lw=0.9, ls=CHANCE, zorder=1)
    axes.set(xscale="log", ylim=(0, 1.04), xlabel=LABELS[measure], ylabel=f"recall@{K} of chunks")
    decades = range(1 + round(math.log10(LEAST[measure])), 11)
    inside = [10.0**n for n in decades if 10.0**n <= axes.get_xlim()[1]]
    words = [rf"$10^{{{round(math.log10(tick))}}}$" for tick in inside]
    axes.set_xticks([LEAST[measure], *inside], ["none", *words])
    axes.minorticks_off()


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="+", help="SCENE=FILE")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    scenes = dict(text.split("=", 1) for text in options.scenes)
    of_scene = {scene: json.loads(Path(file).read_text()) for scene, file in scenes.items()}
    styles = selector_styles(
        {row["selector"]: row["role"] for rows in of_scene.values() for row in rows}
    )
    with plt.rc_context(RC):
        figure, grid = plt.subplots(
            len(of_scene), 2, figsize=(11, 3.6 * len(of_scene) + 1), squeeze=False,
            layout="constrained",
        )  # fmt: skip
        for line, (scene, rows) in zip(grid, of_scene.items(), strict=True):
            for axes, measure in zip(line, LABELS, strict=True):
                draw_panel(axes, rows, measure, styles)
                axes.set_title(scene)
        handles, names = grid[0, 0].get_legend_handles_labels()
        handles.append(Line2D([], [], color=SOFT, lw=0.9, ls=CHANCE))
        names.append("recall of random chunks")
        figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
        figure.suptitle("Bars: 95 % intervals by video. Hollow: controls and ground-truth chunks")
        figure.savefig(options.out, dpi=125)


if __name__ == "__main__":
    main()
