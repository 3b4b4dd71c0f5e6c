"""What later chunks attend to in pre-fill: one pass (full, low, high) against one pass a level (own, the paper's)."""

from statistics import median

from experiments.paper import kit
from x2l.engine.stages import PREFILL_STAGES

CONTEXTS = ("full", "low", "high", "own")
SYSTEMS = ("all-low", "all-high", "oracle", "attention", "random")
CONTEXT = kit.over_trait("context (own: two passes)", "context", CONTEXTS, apart=0.16)
FLOPS = kit.over_trait("decoder GFLOPs of one video's pre-fill", "prefill", limits=(0, None))
BY_COMPRESSOR = kit.Lines(
    {"system": "all-high"}, ("compressor",), "GFLOPs, {compressor}", "compressor"
)


def seconds(cell: kit.Cell) -> float:
    """Median seconds of a video's pre-fill: vision, decoder, compression."""
    videos = [record.video.video_id for record in cell.records]
    return median(dict(zip(videos, cell.seconds(PREFILL_STAGES), strict=True)).values())


def share(cells: kit.Cells) -> str:
    """FLOPs of one pass, of those of two."""
    one, two = (cells.where(compressor=min, context=name)[0]["prefill"] for name in ("full", "own"))
    return f"One pass takes {100 * one / two:.0f} % of the decoder FLOPs of two; "


SPEC = kit.FigureSpec(
    title="One pass for both levels against two (own)",
    panels=(
        kit.Beside(
            kit.Panels(CONTEXT, (kit.Lines({"system": SYSTEMS}),)),
            kit.Panels(CONTEXT, (BY_COMPRESSOR,), FLOPS, over=None, title="compute"),
        ),
    ),
    pairs=(
        kit.Pairs(
            {"system": SYSTEMS, "context": kit.all_but("own")},
            {"context": "own"},
            ("compressor", "system"),
        ),
    ),
    tables=(
        kit.Pivot(
            "Contexts, {sample}; differences in points; {stars} of this table",
            by=("compressor", "context"),
            over="system",
            values=SYSTEMS,
            header="{system} % | against own",
            row="{interval} | {gap}",
            texts={
                "decoder GFLOPs": lambda cell: f"{cell['prefill']:.2f}",
                "seconds": lambda cell: f"{seconds(cell):.2f}",
            },
            order=lambda row: (row[0], CONTEXTS.index(row[1])),
        ),
    ),
    finding=kit.EachPair(
        "{compressor} {system} {accuracy} % in one pass (full) and {before[accuracy]} % in two (own), {difference}",
        where={"context": "full", "system": kit.all_but("all-low")},
        start=share,
        nothing="Only one pass, or only two, was run",
    ),
    notes=(
        "Seconds are medians over videos, of vision, decoder and compression; make paper runs two at once.",
    ),
    size=(3.1, 3.0),
)
