"""Seconds by stage, peak memory and decoded tokens a second at the shape of a published model, against stock generate.

    python -m experiments.speed.model model=qwen2_5_vl_7b frames=64,256,1024 --random-weights
    python -m experiments.speed.model model=internvl3_8b frames=64 prefill.context=high      # downloads the weights

Takes the overrides of `x2l`, and `frames=`. With --random-weights nothing is downloaded for Qwen2-VL and Qwen2.5-VL
(shapes in docs/published.py, the tokenizer of x2l_tiny); other families need config and processor from the Hub.
Speed and memory do not depend on the values of weights. One process: every way is measured after a warm-up on the same
weights and frames, stock last. Stock is `generate` on the whole video at once; its vision tower and pre-fill are one
figure. Tokens a second leave out the first token, which the question's pre-fill gives. Memory is torch's peak of
allocated bytes on CUDA (weights included), the process's largest resident size on the CPU.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from experiments.docs.published import SHAPES
from x2l.cli.compose import composed, engine
from x2l.compressors.base import Level
from x2l.engine.decode import answer
from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.engine.prefill import prefill
from x2l.models.attention import register
from x2l.models.checkpoint import PACKAGED, locate, overridden, read_config, read_processor
from x2l.models.huggingface import HFVideoModel
from x2l.models.out_of_memory import is_out_of_memory
from x2l.runs.condition import methods_label
from x2l.runs.run_info import describe, processor_name
from x2l.video import Frames

# isort: split
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2_5_VLProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.video_utils import VideoMetadata

QUESTION = "What happens in the video?"
COLUMNS = ("vision", "prefill", "compression", "reload", "first token", "tokens/s", "peak GB")


def random_weights(name: str, node: Any) -> HFVideoModel:
    """A model of the published shape on its device, without its weights."""
    config, processor = shape(name, node)
    device = "cuda" if node.device is None else node.device
    with torch.device(device):
        hf = AutoModelForImageTextToText.from_config(
            config,
            dtype=getattr(torch, node.dtype),
            attn_implementation=node.attn_implementation,
        )
    hf.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    return HFVideoModel(hf, processor, node.positions)


def shape(name: str, node: Any) -> tuple[Any, Any]:
    """Configuration and processor of conf/model/NAME.yaml."""
    config = SHAPES[name]() if name in SHAPES else None
    if config is None or config.model_type not in ("qwen2_vl", "qwen2_5_vl"):
        source = locate(node.name_or_path, node.revision, False)
        described = read_config(source)
        return described.config, read_processor(source, described, node.video_processor)
    tiny = AutoProcessor.from_pretrained(PACKAGED["x2l_tiny"])
    vision = config.vision_config
    video = Qwen2VLVideoProcessor(
        patch_size=vision.patch_size,
        temporal_patch_size=vision.temporal_patch_size,
        merge_size=vision.spatial_merge_size,
        cap_pixels_per_frame=False,
    )
    if node.video_processor is not None:
        video = overridden(video, node.video_processor)
    made = Qwen2VLProcessor if config.model_type == "qwen2_vl" else Qwen2_5_VLProcessor
    processor = made(tiny.image_processor, tiny.tokenizer, video, tiny.chat_template)
    ids = tiny.tokenizer.convert_tokens_to_ids
    config.video_token_id, config.image_token_id = ids("<|video_pad|>"), ids("<|image_pad|>")
    config.vision_start_token_id = ids("<|vision_start|>")
    config.vision_end_token_id = ids("<|vision_end|>")
    return config, processor


def pictures(count: int, size: Sequence[int]) -> Frames:
    """Random pictures of (height, width), one a second."""
    pixels = torch.randint(0, 256, (count, *size, 3), dtype=torch.uint8)
    seconds = torch.arange(count, dtype=torch.float64)
    return Frames(pixels, seconds, 1.0, float(count), "-", "-")


def pre_filled(
    model: HFVideoModel, frames: Frames, levels: dict[str, Level], settings: Any
) -> tuple[KVStore, dict[str, Any]]:
    """Store, and figures of a pre-fill."""
    begun = time.perf_counter()
    prompt = model.prompt(frames, settings.chunk_frames)
    prepared = time.perf_counter() - begun
    meter = Meter(model.device)
    store = prefill(model, prompt, levels, settings.context, settings.positions, meter)
    stages = {name: meter.seconds[name] for name in ("vision", "prefill", "compression")}
    peak = {"peak_bytes": meter.peak_bytes, "seconds_prompt": prepared}
    return store, {"tokens": prompt.tokens, **stages, **peak}


def decoded(
    model: HFVideoModel, store: KVStore, selected: Sequence[int], new_tokens: int
) -> dict[str, Any]:
    """Figures of one answer: re-load, the first token (question included), tokens a second after it."""
    question, meters, answers = model.question(QUESTION), [], []
    for limit in (1, new_tokens):
        meters.append(Meter(model.device))
        answers.append(answer(model, store, question, store.reloading(selected), limit, meters[-1]))
    first, whole = (meter.seconds["decode"] for meter in meters)
    more = len(answers[-1].token_ids) - 1
    return {
        "reload": meters[-1].seconds["reload"],
        "first token": first,
        "tokens/s": more / (whole - first) if more > 0 and whole > first else None,
        "kv_bytes_stored": answers[-1].kv_bytes_stored,
        "kv_bytes_reloaded": answers[-1].kv_bytes_reloaded,
        "peak_bytes": meters[-1].peak_bytes,
    }


def stock_inputs(model: HFVideoModel, frames: Frames) -> Any:
    """What the stock model takes for a question about the whole video."""
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    text = model.processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    seconds = frames.seconds.tolist()  # one a second: `pictures`
    told = VideoMetadata(total_num_frames=len(seconds), fps=1.0, frames_indices=seconds)
    settings: dict[str, Any] = {"do_sample_frames": False, "video_metadata": [told]}
    if hasattr(model.processor.video_processor, "cap_pixels_per_frame"):
        settings["cap_pixels_per_frame"] = False
    return model.processor(
        text=[text],
        videos=[frames.pixels.permute(0, 3, 1, 2)],
        videos_kwargs=settings,
        return_tensors="pt",
    ).to(model.device, model.dtype)


def stock(model: HFVideoModel, frames: Frames, base: str, new_tokens: int) -> dict[str, Any]:
    """Figures of stock generate on the same weights."""
    inputs = stock_inputs(model, frames)
    ours = model.decoder.config._attn_implementation
    model.decoder.set_attn_implementation(base)
    meter, seconds = Meter(model.device), []
    try:
        for limit in (1, new_tokens):
            before = meter.seconds["decode"]
            with torch.no_grad(), meter.stage("decode"):
                model.hf.generate(
                    **inputs, max_new_tokens=limit, min_new_tokens=limit, do_sample=False
                )
            seconds.append(meter.seconds["decode"] - before)
    finally:
        model.decoder.set_attn_implementation(ours)
    first, whole = seconds
    return {
        "tokens": int(inputs["input_ids"].shape[1]),
        "first token": first,
        "tokens/s": (new_tokens - 1) / (whole - first) if whole > first else None,
        "peak_bytes": meter.peak_bytes,
    }


def attempt(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Figures, or that there was not enough memory for them."""
    try:
        return run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {"failed": "out of memory"}


def measure(model: HFVideoModel, count: int, given: Any, used: Any, base: str) -> list[dict]:
    """Every way on one video."""
    frames = pictures(count, given.size)
    rows: list[dict[str, Any]] = []

    def note(way: str, run: Callable[[], dict[str, Any]]) -> None:
        rows.append({"frames": count, "way": way, **attempt(run)})
        print(line(rows[-1]), flush=True)

    def ours(levels: dict[str, Level], cells: dict[str, Callable[[int], list[int]]]) -> None:
        made: list[KVStore] = []

        def fill() -> dict[str, Any]:
            store, figures = pre_filled(model, frames, levels, used.settings)
            made.append(store)
            return figures

        ratios = " + ".join(f"{level.ratio:g}x" for level in levels.values())
        note(f"pre-fill {ratios}", fill)
        for cell, choose in cells.items():
            if made:
                chunks = choose(len(made[0].prompt.chunks))
                note(cell, lambda c=chunks: decoded(model, made[0], c, given.new_tokens))

    whole = {name: Level(level.compressor, 1) for name, level in used.levels.items()}
    ours(whole, {"  full": lambda n: []})
    top_k = used.settings.top_k[0]
    taken = top_k if isinstance(top_k, int) else 4
    mixed = {
        "  all-high": lambda n: [],
        f"  mixed, {taken} chunks": lambda n: sorted(
            {round(i * (n - 1) / max(1, taken - 1)) for i in range(taken)}
        ),
    }
    ours(used.levels, mixed)
    note("stock generate", lambda: stock(model, frames, base, given.new_tokens))
    return rows


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    start = f"{row['frames']:6d} {row.get('tokens', ''):>7} {row['way']:22s}"
    if "failed" in row:
        return f"{start} {row['failed']}"
    values = {**row, "peak GB": row["peak_bytes"] / 1e9 if row["peak_bytes"] else None}
    return start + "".join(
        f" {values[name]:11.3f}" if values.get(name) is not None else " " * 12 for name in COLUMNS
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints one table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="+", help="model=NAME frames=64,256 and any of x2l's")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--size", type=int, nargs=2, default=[336, 448], metavar=("H", "W"))
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, help="default: outputs/bench_model/NAME.json")
    given = parser.parse_intermixed_args(arguments)
    counts = [o.removeprefix("frames=") for o in given.overrides if o.startswith("frames=")]
    overrides = [o for o in given.overrides if not o.startswith("frames=")]
    name = next((o.removeprefix("model=") for o in overrides if o.startswith("model=")), "x2l_tiny")
    frames = [int(n) for n in (counts[0] if counts else "64").split(",")]
    used = engine([*overrides, f"video.frames={max(frames)}"])
    node = composed(overrides).model
    model = random_weights(name, node) if given.random_weights else used.load_model()
    base = node.attn_implementation
    assert model.decoder.config._attn_implementation == register(base)
    cuda = model.device.type == "cuda"
    machine = torch.cuda.get_device_name(model.device) if cuda else processor_name()
    info = describe("bench_model", {}, str(model.device), machine, torch.get_num_threads())
    weights = sum(parameter.nbytes for parameter in model.hf.parameters())
    print(
        f"{name}, {'random weights' if given.random_weights else node.name_or_path}, {node.dtype}, {base}, "
        f"{weights / 1e9:.1f} GB of weights, {machine}, commit {info.commit}{' (changed)' if info.dirty else ''}\n"
        f"{methods_label(used.settings.levels)}, context {used.settings.context}, "
        f"{used.settings.chunk_frames} frames a chunk, frames of {given.size[0]} x {given.size[1]}, "
        f"{given.new_tokens} new tokens\n\n"
        f"frames  tokens {'':22s}" + "".join(f" {column:>11s}" for column in COLUMNS)
    )
    warm = pictures(2 * used.settings.chunk_frames, given.size)
    store, _ = pre_filled(model, warm, used.levels, used.settings)
    decoded(model, store, [0], 4)
    attempt(lambda: stock(model, warm, base, 4))
    rows = [row for count in frames for row in measure(model, count, given, used, base)]
    out = given.out or Path("outputs") / "bench_model" / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "model": name,
        "random_weights": given.random_weights,
        "overrides": overrides,
        "size": given.size,
        "new_tokens": given.new_tokens,
        "weights_bytes": weights,
        "machine": machine,
        "cpu_threads": info.cpu_threads,
        "commit": info.commit,
        "dirty": info.dirty,
        "code": info.code,
        "versions": dict(info.versions),
        "started": info.started,
    }
    out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    print(f"\n{out}")


if __name__ == "__main__":
    main()
