"""FLOPs, KV bytes and seconds against frames: full KVs, all-low, all-high, X²L in one pass and in two.

Seconds are medians over questions with the range of the middle half. One token is decoded, so they end with the first
token of the answer; reading the file is not in them.
"""

from collections.abc import Callable

import numpy as np

from experiments.paper import kit
from x2l.engine.stages import QUESTION_STAGES

PASSES = {"full": "one pass", "own": "two passes (own)"}
FRAMES = kit.over_trait("frames", "frames", scale="log", ticks=True)


def to_first_token(cell: kit.Cell, share: float = 0.5) -> float:
    """Seconds of a lone question: pre-fill, selection, re-loading, first token; a quantile over questions."""
    return float(np.quantile(cell.seconds(), share))


def of_one_more(cell: kit.Cell, share: float = 0.5) -> float:
    """Of a further question on a pre-filled video."""
    return float(np.quantile(cell.seconds(QUESTION_STAGES), share))


def name(cell: kit.Cell) -> str:
    """What a line is called."""
    if cell.condition.baseline:
        return "full KVs" if cell["system"] == "full" else cell["system"]
    return f"X²L, {cell['system']}, k = {cell['top_k']}, {PASSES[cell['context']]}"


def of_lines(cells: kit.Cells) -> kit.Cells:
    """The cells of the lines: controls of one pass, and what chooses in one pass or two.

    Raises:
        ValueError: a line has two cells at equal frames.
    """
    lines = [cells.where(system="full")]
    lines += [cells.where(system=s, context="full") for s in ("all-low", "all-high", "attention")]
    lines.append(cells.where(system="attention", context="own"))
    shown = (
        line.only(system=tuple(line.values("system")), frames=n)
        for line in lines
        for n in line.values("frames")
    )
    return kit.Cells(shown)


def finding(cells: kit.Cells, tested: kit.Family) -> str:
    """What X²L takes of what full KVs take, at most frames."""
    last = cells.where(frames=max)
    full = last.only(system="full")
    if full is None:
        return "Full KVs were not run, so nothing can be set against them."

    def share(value: Callable[[kit.Cell], float], digits: int = 0) -> str:
        return f"{kit.percent(value(cell) / value(full), digits)} %"

    parts = []
    for cell in last.where(baseline=None):
        parts.append(
            f"{name(cell)}: {share(lambda c: c.point.kv_bytes_stored, 1)} of the KV bytes; of a lone question "
            f"{share(lambda c: c.point.flops_first)} of the FLOPs and {share(to_first_token)} of the seconds, of one "
            f"more {share(lambda c: c.point.flops_next)} and {share(of_one_more)}"
        )
    behind = f"{full['sample']}, medians"
    return f"Against full KVs at {full['frames']:g} frames ({behind}) {'; '.join(parts)}."


LINES = (
    kit.Lines({"system": "full"}, label="full KVs"),
    kit.Lines({"system": "all-low"}, joined="-"),
    kit.Lines({"system": "all-high"}, joined=":"),
    kit.Lines({"system": "attention"}, ("context",), label=name, variant="context"),
)


def panel(label: str, value: Callable[..., float], bars: bool = False) -> kit.Panels:
    """One measure against frames; bars are the middle half."""
    middle = (lambda cell: (value(cell, 0.25), value(cell, 0.75))) if bars else None
    measure = kit.Axis(label, value, middle, scale="log")
    return kit.Panels(FRAMES, LINES, measure, over=None)


def gflops(cell: kit.Cell) -> float:
    """Of a lone question."""
    return cell.point.flops_first * 1e-9


def megabytes(cell: kit.Cell) -> float:
    """Of KVs, as stored."""
    return cell.point.kv_bytes_stored * 1e-6


SPEC = kit.FigureSpec(
    title="Efficiency against frames",
    panels=(
        kit.Beside(
            panel("FLOPs of a lone question (GFLOPs)", gflops),
            panel("KV bytes stored (MB)", megabytes),
        ),
        kit.Beside(
            panel("seconds to the first token", to_first_token, True),
            panel("seconds to the first token,\none more question", of_one_more, True),
        ),
    ),
    prepare=of_lines,
    above="one token decoded",
    tables=(
        kit.Rows(
            "Compute against frames; milliseconds are medians over questions",
            "system | frames | GFLOPs, lone question | MFLOPs, one more | MB stored | MB attended | MB on host | "
            "ms to first token | ms, one more | ms, its decoding",
            "{line} | {frames:.0f} | {first} | {next} | {stored} | {attended} | {host} | {ms_first} | {ms_next} | "
            "{ms_decoding}",
            where={},
            texts={
                "line": name,
                "first": lambda c: f"{gflops(c):.2f}",
                "next": lambda c: f"{c.point.flops_next * 1e-6:.0f}",
                "stored": lambda c: f"{megabytes(c):.2f}",
                "attended": lambda c: f"{c.point.kv_bytes_attended * 1e-6:.2f}",
                "host": lambda c: f"{c.point.kv_bytes_host * 1e-6:.2f}",
                "ms_first": lambda c: f"{1e3 * to_first_token(c):.1f}",
                "ms_next": lambda c: f"{1e3 * of_one_more(c):.1f}",
                "ms_decoding": lambda c: f"{1e3 * np.median(c.seconds(['decode'])):.1f}",
            },
        ),
    ),
    finding=finding,
    notes=(
        "FLOPs and bytes are closed forms. Seconds of the lines were measured one after another: other work on the "
        "machine shows in them.",
        # Their seconds are a hundred times ours: in a panel they would squash all lines.
        f"Not drawn. {kit.Reported('haystack_seconds').note.removeprefix('Grey, hollow: ')}",
    ),
    size=(3.6, 2.6),
    bars="the middle half of all questions",
)
