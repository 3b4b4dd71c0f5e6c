"""FLOPs, KV bytes and seconds against frames: full KVs, all-low, all-high, X²L in one pass and in two.

Seconds are medians over videos with the range of the middle half. One token is decoded, so they end with the first
token of the answer; reading the file is not in them.

python -m experiments.paper.figures.paper_efficiency outputs/paper/sweeps/paper_efficiency
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from experiments.paper.kit.cells import Cell, cells, pick
from experiments.paper.kit.drawing import CONTROL, GREY, LOOKS, described, legend, panels
from experiments.paper.kit.output import Result, main
from experiments.paper.kit.sourced import sourced as reported
from experiments.paper.kit.tables import Table
from experiments.paper.kit.words import listed, percent
from x2l.analysis.points import FULL, Point
from x2l.engine.stages import STAGES, VIDEO_STAGES
from x2l.runs.records import Record

NAME = "paper_efficiency"
Look = tuple[str, str, str, bool]


def to_first_token(record: Record) -> float:
    """Seconds of a lone question: pre-fill, selection, re-loading, first token."""
    return sum(getattr(record, f"seconds_{stage}") for stage in STAGES)


def of_one_more(record: Record) -> float:
    """Seconds of a further question on a pre-filled video, to its first token."""
    return sum(getattr(record, f"seconds_{stage}") for stage in STAGES if stage not in VIDEO_STAGES)


def decode_only(record: Record) -> float:
    """Seconds of the question's forward over the mixed cache and its first token."""
    return record.seconds_decode


def lines(found: Sequence[Cell]) -> dict[str, tuple[list[Cell], Look]]:
    """The cells of each line of the figure, by frames.

    Raises:
        ValueError: a line has two cells at equal frames.
    """
    compressed = [cell for cell in found if cell.point.control != FULL]
    one, two = pick(compressed, context="full"), pick(compressed, context="own")
    k = next((cell.point.top_k for cell in pick(one, selector="attention")), None)
    blue = LOOKS["attention"][0]
    wanted = {
        "full KVs": ([c for c in found if c.point.control == FULL], ("#000000", "*", "--", False)),
        "all-low": (pick(one, selector="all"), (CONTROL, "p", "-", False)),
        "all-high": (pick(one, selector="none"), (CONTROL, "h", ":", False)),
        f"X²L, attention, k = {k}, one pass": (
            pick(one, selector="attention"),
            (blue, "s", "-", False),
        ),
        f"X²L, attention, k = {k}, two passes (own)": (
            pick(two, selector="attention"),
            (blue, "s", ":", True),
        ),
    }
    for name, (own, _) in wanted.items():
        for frames in _frames(own):
            there = pick(own, frames=frames)
            if len(there) > 1:
                sizes = listed(
                    [f"{cell.point.n} questions, k = {cell.point.top_k}" for cell in there]
                )
                raise ValueError(
                    f"records: {len(there)} cells of {name} at {frames:g} frames ({sizes}), where a line has one; "
                    "give runs of other sizes or settings a folder of their own (hydra.sweep.dir=)"
                )
    return {
        name: (sorted(own, key=lambda c: c.point.frames), look)
        for name, (own, look) in wanted.items()
        if own
    }


def make(records: Sequence[Record]) -> Result:
    """Figure, table and a sentence."""
    found = cells(records)
    shown = lines(found)
    figure, axes = panels(2, 2, width=3.6, height=2.6, below=0.9)
    of_points: list[tuple[str, Callable[[Point], float]]] = [
        ("FLOPs of a lone question (GFLOPs)", lambda p: p.flops_first * 1e-9),
        ("KV bytes resident (MB)", lambda p: p.kv_bytes_resident * 1e-6),
    ]
    for axis, (title, value) in zip(axes, of_points, strict=False):
        for name, (own, (colour, marker, style, hollow)) in shown.items():
            x = [cell.point.frames for cell in own]
            axis.plot(
                x,
                [value(c.point) for c in own],
                color=colour,
                marker=marker,
                ls=style,
                ms=5,
                lw=1.3,
                mfc="white" if hollow else colour,
                label=name,
            )
        _axes(axis, found, title)
    for axis, title, value in (
        (axes[2], "seconds to the first token", to_first_token),
        (axes[3], "seconds to the first token,\none more question", of_one_more),
    ):
        for name, (own, look) in shown.items():
            _timed(axis, own, value, name, look)
        _axes(axis, found, title)
    theirs = reported("haystack_seconds")
    axes[2].plot(
        *zip(*theirs.points, strict=True),
        "o",
        mfc="white",
        mec=GREY,
        ms=5,
        label="Video-XL 7B, haystack logs of its authors",
    )
    axes[2].set_xticks([*_frames(found), 1118], [*(f"{n:g}" for n in _frames(found)), "1118"])
    legend(figure, axes, columns=2)
    described(figure, found, "one token decoded")
    return Result(
        "Efficiency against frames",
        figure,
        (_table(shown),),
        _finding(shown, found),
        (
            "FLOPs and bytes are closed forms. Seconds of the lines were measured one after another: other work on the "
            "machine shows in them.",
            theirs.told,
        ),
    )


def _frames(found: Sequence[Cell]) -> list[float]:
    return sorted({cell.point.frames for cell in found})


def _axes(axis: Axes, found: Sequence[Cell], title: str) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(_frames(found), [f"{n:g}" for n in _frames(found)])
    axis.minorticks_off()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel("frames")
    axis.set_ylabel(title)


def quartiles(cell: Cell, value: Callable[[Record], float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile over questions."""
    low, middle, high = np.quantile([value(record) for record in cell.records], [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)


def _timed(
    axis: Axes, own: Sequence[Cell], value: Callable[[Record], float], label: str, look: Look
) -> None:
    colour, marker, style, hollow = look
    found = [quartiles(cell, value) for cell in own]
    middle = [m for _, m, _ in found]
    reach = [[m - low for low, m, _ in found], [high - m for _, m, high in found]]
    axis.errorbar(
        [c.point.frames for c in own],
        middle,
        yerr=reach,
        color=colour,
        marker=marker,
        ls=style,
        ms=5,
        lw=1.3,
        elinewidth=0.8,
        capsize=2,
        mfc="white" if hollow else colour,
        label=label,
    )


def _table(shown: dict[str, tuple[list[Cell], Look]]) -> Table:
    rows = []
    for name, (own, _) in shown.items():
        for cell in own:
            p = cell.point
            times = [
                quartiles(cell, value)[1] for value in (to_first_token, of_one_more, decode_only)
            ]
            rows.append(
                (
                    name,
                    f"{p.frames:.0f}",
                    f"{p.flops_first * 1e-9:.2f}",
                    f"{p.flops_next * 1e-6:.0f}",
                    f"{p.kv_bytes_resident * 1e-6:.2f}",
                    f"{p.kv_bytes_host * 1e-6:.2f}",
                    *(f"{1e3 * t:.1f}" for t in times),
                )
            )
    header = (
        "system",
        "frames",
        "GFLOPs, lone question",
        "MFLOPs, one more",
        "MB resident",
        "MB on host",
        "ms to first token",
        "ms, one more",
        "ms, its decoding",
    )
    return Table(
        "Compute against frames; milliseconds are medians over questions",
        header,
        tuple(rows),
        words=1,
    )


def _finding(shown: dict[str, tuple[list[Cell], Look]], found: Sequence[Cell]) -> str:
    last = max(_frames(found))
    at = {
        name: next((c for c in own if c.point.frames == last), None)
        for name, (own, _) in shown.items()
    }
    whole = at.pop("full KVs", None)
    if whole is None:
        return "Full KVs were not run, so nothing can be set against them."
    base = [quartiles(whole, value)[1] for value in (to_first_token, of_one_more)]
    told = []
    for name, cell in at.items():
        if cell is None or not name.startswith("X²L"):
            continue
        p, q = cell.point, whole.point
        times = [quartiles(cell, value)[1] for value in (to_first_token, of_one_more)]
        told.append(
            f"{name}: {percent(p.kv_bytes_resident / q.kv_bytes_resident)} % of the KV bytes; of a lone question "
            f"{percent(p.flops_first / q.flops_first, 0)} % of the FLOPs and {percent(times[0] / base[0], 0)} % of the "
            f"seconds, of one more {percent(p.flops_next / q.flops_next, 0)} % and {percent(times[1] / base[1], 0)} %"
        )
    behind = f"{whole.point.n} questions, {whole.point.videos} videos, medians"
    return f"Against full KVs at {last:g} frames ({behind}) {'; '.join(told)}."


if __name__ == "__main__":
    main(NAME, make)
