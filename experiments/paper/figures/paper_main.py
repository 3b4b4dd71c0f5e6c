"""Main table: full KVs, all-low, all-high, X²L at k = 1..5, and the controls that spend as much."""

from experiments.paper import kit
from x2l.analysis.figure_style import PINK, Style

PRUNED = ("random", "uniform")  # compressors of the controls at equal ratios
METHODS = {"compressor": kit.all_but(*PRUNED)}
ONE_PASS = {"context": "full", "positions": "keep", "pinned": ""}
SHOWN = {"system": ("oracle", "attention", "random")}
COMPARED = {**METHODS, **ONE_PASS, "system": ("attention", "oracle")}
# With what: controls of equal bytes, and all-high.
RIVALS = {
    "all-high": ({"system": "all-high"}, ("compressor", "context")),
    "random chunks": ({"system": "random"}, ("compressor", "context", "top_k")),
    "fewer frames": ({"system": "equal_kv_bytes"}, ("context", "top_k")),
    "random pruning": ({"compressor": "random"}, ("context", "system", "top_k")),
    "uniform pruning": ({"compressor": "uniform"}, ("context", "system", "top_k")),
}
EQUAL = ("equal_kv_bytes", "equal_flops")
IN_FINDING = {"attention": ("random chunks", "fewer frames"), "oracle": ("all-high",)}
K = 3  # that the finding is about: the official code's default
SYSTEMS = ("full", "all-low", "all-high", "attention", "oracle", "random", *EQUAL)


def order(cell: kit.Cell) -> tuple[object, ...]:
    """Full KVs, methods, controls."""
    is_control = cell["compressor"] in PRUNED or cell["system"] in EQUAL
    place = SYSTEMS.index(cell["system"]) if cell["system"] in SYSTEMS else len(SYSTEMS)
    official = cell["context"] != "full"
    return cell["system"] != "full", is_control, cell["compressor"], official, place, cell["k"]


def finding(cells: kit.Cells, tested: kit.Family) -> str:
    """Of k = 3: attention against random chunks and fewer frames of as many bytes, the oracle against all-high."""
    parts = []
    for cell in cells.where(**COMPARED, top_k=K):
        pairs = [pair for name in IN_FINDING[cell["system"]] if (pair := tested.to(cell, name))]
        against = kit.listed([f"{pair.difference} against {pair.name}" for pair in pairs])
        parts.append(f"{cell['compressor']} with {cell['system']} {cell['accuracy']} %, {against}")
    full = cells.only(system="full")
    start = f"Full KVs {full['accuracy']} %; " if full else ""
    return f"{start}at k = {K}: {'; '.join(parts)} {kit.behind(cells, tested)}."


OVER_BYTES = (
    kit.Lines(SHOWN | ONE_PASS),
    kit.Lines({"system": "equal_kv_bytes"}, label="fewer frames, equal KV bytes", everywhere=True),
    kit.Lines(
        {"compressor": "random", "system": "attention", "context": "full"},
        label="attention, random pruning",
        style=Style(PINK, "D", "-."),
        everywhere=True,
    ),
    kit.Lines({"system": ("all-low", "all-high"), "context": "full"}),
    kit.Lines({"system": "full"}, label="full KVs", across=True, everywhere=True),
)
OVER_K = (
    kit.Lines(SHOWN | ONE_PASS),
    kit.Lines(
        SHOWN | {"context": "own", "positions": "compact"},
        label="{label}, official settings",
        variant="context",
    ),
)
CHUNKS = kit.over_trait("k: chunks re-loaded", "top_k", ticks=(1, 2, 3, 4, 5), apart=0.06)
SPEC = kit.FigureSpec(
    title="Main table: X²L against full, all-low, all-high and controls at equal KV bytes",
    panels=(
        kit.Panels(
            kit.KV_BYTES, OVER_BYTES, where=METHODS, reported=(kit.Reported("video_xl_mlvu"),)
        ),
        kit.Panels(CHUNKS, OVER_K, where=METHODS, reported=(kit.Reported("video_xl_2_by_k", "s"),)),
    ),
    pairs=tuple(kit.Pairs(COMPARED, *rival, name) for name, rival in RIVALS.items()),
    tables=(
        kit.Rows(
            "Accuracy and compute, {sample}",
            "compressor | method | settings | k | accuracy % (95 %) | KV bytes % | recall % | "
            "MFLOPs of one more question",
            "{method} | {label} | {settings} | {k} | {interval} | {kv} | {recall} | {mflops}",
            words=3,
            where={},
            order=order,
            texts={
                "method": lambda c: c["compressor"] if c["is_compressed"] else "-",
                "settings": lambda c: "" if c["context"] == "full" else "official",
                "mflops": lambda c: f"{c.point.flops_next * 1e-6:.0f}",
            },
        ),
        kit.Rows(
            "Paired differences in points (95 % interval), method minus control; {stars} of this table",
            f"compressor | selector | k | {' | '.join(RIVALS)}",
            f"{{compressor}} | {{system}} | {{k}} | {' | '.join(f'{{against[{name}]}}' for name in RIVALS)}",
            words=2,
            where=COMPARED,
        ),
    ),
    finding=finding,
    notes=(
        "Official settings: one pass a level, compact positions, chunks of 10 frames, both ends on top of k.",
        kit.Note(
            "Compressors: at 32x tome keeps little of what needle asks for and kmeans most of it (experiments/LOG.md), "
            "so the two show re-loading where it has much and where it has little to add.",
            where={"benchmark": "needle"},
        ),
    ),
)
