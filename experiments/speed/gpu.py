"""Everything about speed and memory on one GPU, within minutes, from random weights; one JSON and one figure.

    python -m experiments.speed.gpu                                         # a Qwen2.5-VL-7B, bfloat16
    python -m experiments.speed.gpu model=x2l_tiny --frames 16 32 --size 64 64      # what the tests run, on a CPU

Downloads nothing. First parity: x2l_tiny in fp32 and fp64 and the model itself, chunked at ratio 1 against the stock
forward over the whole video. Then, at each number of frames, seconds of vision, pre-fill and compression, peak memory,
and decoded tokens a second: chunked at ratio 1, two levels with context `full` and `high`, and stock `generate`. Then
re-loading every chunk at the finest level, against a plain copy of as many bytes from pinned memory, and how many
frames fit the memory, by a line through the last two measured peaks. A number of frames is left out once the time is
up. Takes the overrides of `x2l`. Written for CUDA and not run on it yet: no GPU was at hand.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.speed.model import (
    QUESTION,
    attempt,
    decoded,
    pictures,
    pre_filled,
    random_weights,
    stock,
    stock_inputs,
)
from x2l.cli.compose import composed, engine
from x2l.compressors.base import Level
from x2l.engine.decode import answer
from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.engine.prefill import prefill
from x2l.models.huggingface import HFVideoModel
from x2l.models.loading import load
from x2l.runs.condition import methods_label
from x2l.runs.run_info import describe, processor_name
from x2l.video import Frames

RESULTS = Path(__file__).parents[1] / "results" / "gpu"
PARITY_SIZE, PARITY_FRAMES = (64, 64), 32
REPEATS = 5  # of a copy
WHOLE, TWO, HIGH, STOCK = "chunked, ratio 1", "two levels", "two levels, context high", "stock"
COLOURS = {STOCK: "#777777", WHOLE: "#56B4E9", TWO: "#0072B2", HIGH: "#D55E00"}


def parity(model: HFVideoModel, frames: Frames, chunk_frames: int, base: str) -> dict[str, Any]:
    """Logits of the first answer token, chunked at ratio 1 against stock's; and whether greedy tokens are equal."""
    levels = {"whole": Level(engine(()).levels["low"].compressor, 1)}
    store = prefill(model, model.prompt(frames, chunk_frames), levels)
    question = model.question(QUESTION)
    ours = answer(model, store, question, store.reloading([]), 8)
    inputs = stock_inputs(model, frames)
    registered = model.decoder.config._attn_implementation
    model.decoder.set_attn_implementation(base)
    try:
        with torch.no_grad():
            logits = model.hf(**inputs, logits_to_keep=1).logits[0, -1].float().cpu()
            tokens = model.hf.generate(**inputs, max_new_tokens=8, do_sample=False)
    finally:
        model.decoder.set_attn_implementation(registered)
    theirs = tokens[0, inputs["input_ids"].shape[1] :].tolist()
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "tokens": store.prompt.tokens,
        "largest_difference": (ours.first_logits - logits).abs().max().item(),
        "largest_logit": logits.abs().max().item(),
        "greedy_tokens_equal": list(ours.token_ids) == theirs[: len(ours.token_ids)],
    }


def rows_of(
    model: HFVideoModel, count: int, given: argparse.Namespace, used: Any, base: str
) -> list[dict[str, Any]]:
    """Every way on one video, and re-loading it."""
    frames, rows = pictures(count, given.size), list[dict[str, Any]]()
    whole = {name: Level(level.compressor, 1) for name, level in used.levels.items()}
    coarsest = tuple(used.levels)[-1]
    ways = {
        WHOLE: (whole, "full"),
        TWO: (used.levels, "full"),
        HIGH: (used.levels, coarsest),
    }
    for way, (levels, context) in ways.items():
        stores: list[KVStore] = []

        def fill(levels=levels, context=context, stores=stores) -> dict[str, Any]:
            settings = replace(used.settings, context=context)
            store, figures = pre_filled(model, frames, levels, settings)
            stores.append(store)
            return figures

        row = {"frames": count, "way": way, **attempt(fill)}
        if stores:
            said = attempt(lambda s=stores: decoded(model, s[0], [], given.new_tokens))
            row |= {"decoding": said}
        if stores and way == TWO:
            row |= {"reload": attempt(lambda s=stores: reloading(model, s[0]))}
        rows.append(row)
        print(line(row), flush=True)
        del stores
    row = {"frames": count, "way": STOCK}
    row |= attempt(lambda: stock(model, frames, base, given.new_tokens))
    rows.append(row)
    print(line(row), flush=True)
    return rows


def reloading(model: HFVideoModel, store: KVStore) -> dict[str, Any]:
    """Seconds to bring every chunk back at its finest level, and of a plain copy of as many bytes to the device."""
    finest = store.reloading(range(len(store.prompt.chunks)))
    nbytes = sum(store.stored_bytes(tuple(store.levels)[0]))
    cuda = model.device.type == "cuda"
    plain = torch.zeros(nbytes, dtype=torch.uint8, pin_memory=cuda)
    there = torch.empty(nbytes, dtype=torch.uint8, device=model.device)
    seconds: dict[str, list[float]] = {"reload": [], "copy": []}
    for _ in range(REPEATS + 1):
        meter = Meter(model.device)
        with meter.stage("reload"):
            mixed = store.mix(finest)
            model.load_cache(mixed.layers(), reserve=0)
        del mixed
        seconds["reload"].append(meter.seconds["reload"])
        meter = Meter(model.device)
        with meter.stage("reload"):
            there.copy_(plain, non_blocking=True)
        seconds["copy"].append(meter.seconds["reload"])
    medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    rates = {f"{name}_gb_per_second": nbytes / 1e9 / value for name, value in medians.items()}
    return {"bytes": nbytes, **{f"{n}_seconds": v for n, v in medians.items()}, **rates}


def fitting(rows: Sequence[dict[str, Any]], limit: float) -> dict[str, int | None]:
    """Frames whose peak is `limit` bytes, by a line through the last two measured peaks of each way; None unknown."""
    found: dict[str, int | None] = {}
    for way in COLOURS:
        points = [
            (r["frames"], r["peak_bytes"]) for r in rows if r["way"] == way and r.get("peak_bytes")
        ]
        found[way] = None
        if len(points) > 1:
            (first, low), (last, high) = points[-2:]
            if high > low:
                found[way] = int(last + (limit - high) * (last - first) / (high - low))
    return found


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    start = f"{row['frames']:6d} {row['way']:26s}"
    if "failed" in row:
        return f"{start} {row['failed']}"
    decoding = row if row["way"] == STOCK else row.get("decoding", {})
    values = (
        video_seconds(row),
        (row["peak_bytes"] or 0) / 2**30,
        decoding.get("tokens/s"),
        row.get("reload", {}).get("reload_gb_per_second"),
        row.get("reload", {}).get("copy_gb_per_second"),
    )
    return start + "".join(f" {'' if v is None else format(v, '.2f'):>12s}" for v in values)


def video_seconds(row: dict[str, Any]) -> float:
    """Vision, pre-fill and compression; of stock up to the first token, which is not told apart."""
    if row["way"] == STOCK:
        return row["first token"]
    return row["vision"] + row["prefill"] + row["compression"]


def draw(result: dict[str, Any], path: Path) -> None:
    """Seconds and peak memory over frames, tokens a second, and re-loading beside a copy."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ((left, right), (below, beside)) = plt.subplots(
        2, 2, figsize=(8.4, 6.2), layout="constrained"
    )
    rows = [row for row in result["rows"] if "failed" not in row]
    for way, colour in COLOURS.items():
        mine = [row for row in rows if row["way"] == way]
        frames = [row["frames"] for row in mine]
        style = {"color": colour, "marker": "o", "ms": 3, "label": way}
        left.plot(frames, [video_seconds(row) for row in mine], **style)
        peaks = [row["peak_bytes"] / 2**30 if row["peak_bytes"] else None for row in mine]
        right.plot(frames, peaks, **style)
        said = [row if way == STOCK else row.get("decoding", {}) for row in mine]
        below.plot(frames, [one.get("tokens/s") or float("nan") for one in said], **style)
    copies = [row for row in rows if "failed" not in row.get("reload", {"failed": ""})]
    for name, colour in (("reload", COLOURS[TWO]), ("copy", COLOURS[STOCK])):
        rates = [row["reload"][f"{name}_gb_per_second"] for row in copies]
        beside.plot(
            [row["frames"] for row in copies], rates, marker="o", ms=3, color=colour, label=name
        )
    right.axhline(result["limit_gb"] * 1e9 / 2**30, color="#999999", lw=0.8, ls="--")
    for axes, title in (
        (left, "Seconds to read the video in (stock: to the first token)"),
        (right, "Peak memory of that, GiB"),
        (below, "Decoded tokens a second"),
        (beside, "Every chunk re-loaded, and a plain copy, GB/s"),
    ):
        axes.set_title(title, fontsize=9)
        axes.set(xlabel="frames", xscale="log")
        if axes is not left:
            axes.set_ylim(0, None)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_yscale("log")
    left.legend(frameon=False, fontsize=8)
    beside.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{result['model']}, {result['machine']}", fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints one table, writes JSON and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "overrides", nargs="*", default=["model=qwen2_5_vl_7b", "model.device=cuda"]
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--size", type=int, nargs=2, default=[336, 448], metavar=("H", "W"))
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--limit-gb", type=float, default=80, help="memory that frames are to fit")
    parser.add_argument("--minutes", type=float, default=7, help="no more frames are begun then")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_intermixed_args(arguments)
    begun = time.monotonic()
    used = engine([*given.overrides, f"video.frames={max(given.frames)}"])
    node = composed(given.overrides).model
    name = next((o[6:] for o in given.overrides if o.startswith("model=")), "x2l_tiny")
    device = torch.device(node.device or "cuda")
    # Else convolutions of the vision tower round to 10 bits in fp32, in one chunk otherwise than in the whole video.
    torch.backends.cudnn.allow_tf32 = False
    small = pictures(PARITY_FRAMES, PARITY_SIZE)
    checks = []
    for dtype in ("float32", "float64"):
        tiny = load("x2l_tiny", device=str(device), dtype=dtype, positions="hf")
        checks.append({"model": "x2l_tiny", **parity(tiny, small, 8, "sdpa")})
    model = random_weights(name, node)
    base = node.attn_implementation
    chunk_frames = used.settings.chunk_frames
    by_stock = HFVideoModel(model.hf, model.processor, "hf")  # positions as transformers has them
    checks.append({"model": name, **parity(by_stock, small, chunk_frames, base)})
    for check in checks:
        print(check, flush=True)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    heads = ("seconds", "peak GiB", "tokens/s", "reload GB/s", "copy GB/s")
    print(f"\nframes {'way':26s}" + "".join(f" {head:>12s}" for head in heads))
    rows, left_out = list[dict[str, Any]](), list[int]()
    for count in sorted(given.frames):
        if time.monotonic() - begun > 60 * given.minutes:
            left_out.append(count)
        else:
            rows += rows_of(model, count, given, used, base)
    info = describe("gpu", {}, str(device), machine, torch.get_num_threads())
    result = {
        "model": name,
        "machine": machine,
        "memory_bytes": torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None,
        "methods": methods_label(used.settings.levels),
        "overrides": given.overrides,
        "size": given.size,
        "new_tokens": given.new_tokens,
        "commit": info.commit,
        "dirty": info.dirty,
        "versions": dict(info.versions),
        "started": info.started,
        "parity": checks,
        "rows": rows,
        "left_out": left_out,
        "limit_gb": given.limit_gb,
        "frames_that_fit": fitting(rows, 1e9 * given.limit_gb),
        "seconds": time.monotonic() - begun,
    }
    print(
        f"\nframes until {given.limit_gb:g} GB: {result['frames_that_fit']}; {result['seconds']:.0f} s in all"
    )
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    if rows:
        draw(result, given.out / "gpu.png")


if __name__ == "__main__":
    main()
