"""Chunk size: accuracy over KV bytes, one panel a compressor and selector, one line a number of frames."""

from experiments.paper import kit

SELECTORS = ("oracle", "attention", "random")
SIZES = kit.Lines({}, ("chunk_frames",), "{chunk_frames} frames a chunk", colour="chunk_frames")
DEFAULT = 8  # frames, which other sizes are compared with
AT_ONE_K = ("compressor", "system", "top_k")
AS_MANY_FRAMES = ("compressor", "system", "frames_reloaded")
LARGEST = {"chunk_frames": max}
SMALLEST = {"chunk_frames": lambda cell: min}
SPEC = kit.FigureSpec(
    title="Chunk size",
    panels=tuple(
        kit.Panels(kit.KV_BYTES, (SIZES,), where={"system": name}, title="{compressor}, {label}")
        for name in SELECTORS
    ),
    above="k = {k}",
    pairs=(
        kit.Pairs(
            {"chunk_frames": kit.all_but(DEFAULT)}, {"chunk_frames": DEFAULT}, AT_ONE_K, "one k"
        ),
        kit.Pairs(
            {"system": "oracle", "top_k": max, **LARGEST}, SMALLEST, AT_ONE_K, "all true chunks"
        ),
        kit.Pairs(
            {"system": "attention", **LARGEST, "top_k": 1},
            SMALLEST,
            AS_MANY_FRAMES,
            "as many frames",
        ),
    ),
    tables=(
        kit.Rows(
            "Accuracy by chunk size at one k, {sample}; {stars} of this table and the finding",
            "compressor | selector | k | frames a chunk | accuracy % (95 %) | recall % | KV bytes % | "
            "against 8 frames, points (95 %)",
            "{compressor} | {system} | {k} | {chunk_frames} | {interval} | {recall} | {kv} | {gap}",
            words=2,
            where={},
            order=lambda cell: (
                cell["compressor"],
                cell["system"],
                cell["k"],
                cell["chunk_frames"],
            ),
            name="one k",
        ),
    ),
    finding=kit.EachPair(
        "{compressor} with {system} ({name} re-loaded) {before[accuracy]} % in chunks of {before[chunk_frames]} frames "
        "({before[kv]} % of the KV bytes) and {accuracy} % in chunks of {chunk_frames} frames ({kv} % of the KV "
        "bytes), {difference}",
        names=("all true chunks", "as many frames"),
    ),
    notes=(
        "The authors' stored results hold none by chunk size; the official code has 10 frames a chunk.",
    ),
    size=(3.7, 2.6),
)
