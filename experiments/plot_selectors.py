"""Selectors at one k: accuracy beside chunk recall, so that what selection loses is told from what compression loses.

x2l -m experiment=selectors
python experiments/plot_selectors.py outputs/sweeps/selectors        # -> selectors.png, selectors.csv in that folder
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from x2l.points import Point, points, write_points
from x2l.records import RECORDS, load

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def draw(rows: list[Point], path: Path) -> None:
    """Writes the figure: one row a selector, best first; one colour a high ratio.

    Args:
        rows: points of the sweep.
        path: the picture.

    Raises:
        ValueError: nothing that selects among them.
    """
    chosen = [row for row in rows if not row.control]
    if not chosen:
        raise ValueError("no records of selectors there; run x2l -m experiment=selectors")
    ratios = sorted({row.ratio_high for row in chosen})
    names = sorted(
        {row.selector for row in chosen},
        key=lambda name: max(row.accuracy for row in chosen if row.selector == name),
    )
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(7.6, 1.2 + 0.34 * len(names)), sharey=True, layout="constrained"
    )
    for ratio, colour, shift in zip(ratios, COLOURS, (-0.17, 0.17, -0.34, 0.34), strict=False):
        of_ratio = {row.selector: row for row in chosen if row.ratio_high == ratio}
        for place, name in enumerate(names):
            if (row := of_ratio.get(name)) is None:
                continue
            at, value = place + shift, 100 * row.accuracy
            reach = [[value - 100 * row.low], [100 * row.high - value]]
            left.errorbar(value, at, xerr=reach, color=colour, marker="o", ms=4, capsize=2, lw=1)
            right.plot(100 * row.recall, at, color=colour, marker="s", ms=4, ls="")
            right.annotate(
                f"KV {100 * row.kv_share:.1f} %",
                (100 * row.recall, at),
                xytext=(6, -3),
                textcoords="offset points",
                fontsize=6.5,
                color="#555555",
            )
        left.plot([], [], color=colour, marker="o", ms=4, lw=1, label=f"high {ratio:g}x")
        for row in rows:
            if row.control == "all-high" and row.ratio_high == ratio:
                left.axvline(100 * row.accuracy, color=colour, ls=":", lw=0.9)
            if row.control == "all-low" and row.ratio_high == ratio:
                left.axvline(100 * row.accuracy, color="#555555", ls=(0, (4, 3)), lw=0.9)
    left.plot([], [], color="#555555", ls=":", lw=0.9, label="all-high")
    left.plot([], [], color="#555555", ls=(0, (4, 3)), lw=0.9, label="all-low")
    left.set_yticks(range(len(names)), names)
    left.set_xlabel("accuracy (%)")
    right.set_xlabel("recall of ground-truth chunks (%)")
    right.set_xlim(-4, 122)
    right.set_xticks(range(0, 101, 20))
    for axes in (left, right):
        axes.grid(alpha=0.25, lw=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=8, loc="outside lower center", ncols=len(ratios) + 2)
    first = chosen[0]
    figure.suptitle(
        f"{first.benchmark}, {first.model}, {first.compressor}, low {first.ratio_low:g}x, k = {first.top_k}, "
        f"{max(row.videos for row in rows)} videos",
        fontsize=9,
    )
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
    draw(rows, out / "selectors.png")
    write_points(out / "selectors.csv", rows)


if __name__ == "__main__":
    main()
