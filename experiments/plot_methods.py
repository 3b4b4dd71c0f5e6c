"""Accuracy over KV bytes of every compressor, all chunks at its ratio: one panel a kind, controls in all of them.

x2l -m experiment=methods
python -m experiments.plot_methods outputs/sweeps/methods       # -> methods.png, methods.csv in that folder
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from experiments.methods_table import compressor, kind
from x2l.points import Point, points, write_points
from x2l.records import RECORDS, load

CONTROLS = {"uniform": ("#000000", "-"), "random": ("#777777", "--")}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933")
MARKERS = "os^Dv<>P"


def draw(rows: list[Point], path: Path) -> None:
    """Writes the figure.

    Args:
        rows: points of the sweep, one a compressor and ratio.
        path: the picture.

    Raises:
        ValueError: the controls are missing, without which no line says anything.
    """
    lines: dict[str, list[Point]] = {}
    for row in rows:
        lines.setdefault(row.compressor, []).append(row)
    missing = sorted(set(CONTROLS) - set(lines))
    if missing:
        raise ValueError(f"no records of {missing} there; run x2l -m experiment=methods")
    kinds = {name: kind(compressor(name.split(".")[0])) for name in lines}
    panels = sorted({kinds[name] for name in lines if name not in CONTROLS})
    figure, grid = plt.subplots(
        1, len(panels), figsize=(3.9 * len(panels), 5.4), sharey=True, layout="constrained"
    )
    for axes, panel in zip([grid] if len(panels) == 1 else grid, panels, strict=True):
        members = sorted(name for name in lines if kinds[name] == panel and name not in CONTROLS)
        for place, name in enumerate(members):
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
            style = ("-", ":")[place // len(COLOURS) % 2]
            _line(axes, lines[name], name, colour, style, marker)
        for name, (colour, style) in CONTROLS.items():
            _line(axes, lines[name], f"{name} (control)", colour, style, "")
        axes.set_title(panel, fontsize=10)
        axes.set_xscale("log")
        axes.set_xlabel("KV bytes, % of full")
        axes.set_xticks([5, 10, 20, 30], ["5", "10", "20", "30"])
        axes.minorticks_off()
        axes.grid(alpha=0.25, lw=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(
            fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False
        )
    axes = grid[0] if len(panels) > 1 else grid
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(0, 105)
    first = rows[0]
    half = 50 * max(row.high - row.low for row in rows)
    figure.suptitle(
        f"{first.benchmark}, {first.model}, all chunks at 4x, 8x, 16x, 32x; {first.n} questions, "
        f"{first.videos} videos; 95 % intervals up to ± {half:.0f} points",
        fontsize=10,
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _line(
    axes: plt.Axes, rows: list[Point], label: str, colour: str, style: str, marker: str
) -> None:
    rows = sorted(rows, key=lambda row: row.kv_share)
    axes.plot(
        [100 * row.kv_share for row in rows],
        [100 * row.accuracy for row in rows],
        color=colour,
        ls=style,
        marker=marker,
        ms=4,
        lw=1.3,
        label=label,
    )


def main() -> None:
    """Draws and writes the points of a sweep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path)
    folder = parser.parse_args().sweep
    rows = points(record for path in sorted(folder.rglob(RECORDS)) for record in load(path))
    draw(rows, folder / "methods.png")
    write_points(folder / "methods.csv", rows)
    for row in sorted(rows, key=lambda row: (row.ratio_high, -row.accuracy)):
        print(f"{row.ratio_high:>4g}x  {row.compressor:22s} {100 * row.accuracy:5.1f}")


if __name__ == "__main__":
    main()
