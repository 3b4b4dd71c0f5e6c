"""Chunked, compressing pre-fill against stock one-shot forward: seconds and peak memory, as ratios.

    python -m experiments.speed.prefill                  # 4k and 16k visual tokens, on the CPU
    python -m experiments.speed.prefill --device cuda    # not tried yet

A Qwen2.5-VL with random weights and a real text stack's proportions; the vision tower is left out of the times. Every
measurement has a process of its own, so that peak memory is its own; the order alternates, the median is reported.
Peak memory is the process's largest resident size on the CPU (Linux), torch's largest allocation on CUDA, less what
stood before the pre-fill (weights; for stock the embeddings too, which the chunked modes make chunk by chunk).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch

from experiments.speed.peaks import memory, reset_peak
from x2l.compressors.base import Level
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.meter import Meter
from x2l.engine.prefill import prefill
from x2l.models.huggingface import HFVideoModel
from x2l.models.interface import Embedded
from x2l.models.loading import PACKAGED
from x2l.video import Frames

MODES = {
    "stock": None,
    "chunked, ratio 1": ("full", 1, 1),
    "one pass, 2x + 32x, context full": ("full", 2, 32),
    "one pass, 2x + 32x, context low": ("low", 2, 32),
    "one pass, 2x + 32x, context high": ("high", 2, 32),
    "two passes (own), 2x + 32x": ("own", 2, 32),
}


def build(layers: int, hidden: int, device: str, heads: int = 8, kv_heads: int = 2, wide: int = 0):
    """A random Qwen2.5-VL with a tiny vision tower: 8 query heads over 2 KV heads, SwiGLU of 3.5 x hidden or `wide`."""
    # Here, not above: x2l.models must be imported first, it lets the processors import.
    from transformers import AutoConfig, AutoProcessor, Qwen2_5_VLForConditionalGeneration

    processor = AutoProcessor.from_pretrained(PACKAGED["x2l_tiny"])
    config = AutoConfig.from_pretrained(PACKAGED["x2l_tiny"])
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size = hidden, wide or hidden * 7 // 2
    text.num_hidden_layers, text.layer_types = layers, ["full_attention"] * layers
    text.num_attention_heads, text.num_key_value_heads = heads, kv_heads
    section = hidden // heads // 2
    text.rope_parameters = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [section - 2 * (section // 3), section // 3, section // 3],
    }
    text.max_position_embeddings = 1 << 17
    vision.out_hidden_size = hidden
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    return model.eval().to(device), processor


def measure(mode: str, tokens: int, layers: int, hidden: int, device: str) -> dict[str, float]:
    """Runs one mode once, in this process, after a warm-up on a short video."""

    def frames(count: int) -> Frames:
        pixels = torch.zeros(count, 64, 64, 3, dtype=torch.uint8)
        return Frames(pixels, torch.arange(count, dtype=torch.float64), 1.0, float(count), "-", "-")

    hf, processor = build(layers, hidden, device)
    model = HFVideoModel(hf, processor)
    model.visual_inputs = lambda *shown: {}  # type: ignore[method-assign]
    model.embed_chunk = lambda prompt, chunk, inputs=None: Embedded(  # type: ignore[method-assign]  # vision is not what is measured
        torch.randn(1, chunk.tokens, hidden, device=device) * 0.02
    )
    for count in (32, tokens // 8):  # 16 tokens for two frames; the first round warms up
        prompt = model.prompt(frames(count), 64)  # 512 tokens a chunk
        meter = Meter(device)
        if MODES[mode] is None:
            model.decoder.set_attn_implementation("sdpa")
            embeds = torch.randn(1, prompt.tokens, hidden, device=device) * 0.02
            positions = prompt.positions[:, None].to(device)
            reset_peak(device)
            before = memory(device, "VmRSS")
            with torch.no_grad(), meter.stage("prefill"):
                model.decoder(inputs_embeds=embeds, position_ids=positions, use_cache=True)
        else:
            context, low, high = MODES[mode]
            levels = {"low": Level(KeyNorm(), low), "high": Level(KeyNorm(), high)}
            reset_peak(device)
            before = memory(device, "VmRSS")
            store = prefill(model, prompt, levels, context=context, meter=meter)
            assert store.kept("low")
    return {
        "seconds": meter.seconds["prefill"] + meter.seconds["compression"],
        "peak": memory(device, "VmHWM") - before,
    }


def main() -> None:
    """Prints one table a length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--one", choices=MODES, help="internal: measure one mode in this process")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.one:
        print(
            json.dumps(
                measure(given.one, given.tokens[0], given.layers, given.hidden, given.device)
            )
        )
        return
    print(
        f"Qwen2.5-VL text stack, random weights, {given.layers} layers x {given.hidden}, fp32, {given.device}, "
        f"{given.threads} threads, torch {torch.__version__}; median of {given.repeats}"
    )
    shared = [
        "--layers",
        str(given.layers),
        "--hidden",
        str(given.hidden),
        "--device",
        given.device,
    ]
    shared += ["--threads", str(given.threads)]
    for tokens in given.tokens:
        rows: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
        begun = time.perf_counter()
        for repeat in range(given.repeats):
            for mode in list(MODES)[:: 1 if repeat % 2 == 0 else -1]:
                command = [
                    sys.executable,
                    "-m",
                    "experiments.speed.prefill",
                    "--one",
                    mode,
                    "--tokens",
                    str(tokens),
                    *shared,
                ]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                rows[mode].append(json.loads(done.stdout.splitlines()[-1]))
        print(f"\n{tokens} visual tokens ({time.perf_counter() - begun:.0f} s for all)")
        print(f"{'':36s} {'seconds':>9s} {'x stock':>8s} {'peak MB':>9s} {'x stock':>8s}")
        middle = {
            mode: {key: statistics.median(run[key] for run in runs) for key in ("seconds", "peak")}
            for mode, runs in rows.items()
        }
        base = middle["stock"]
        for mode, value in middle.items():
            print(
                f"{mode:36s} {value['seconds']:9.2f} {value['seconds'] / base['seconds']:8.2f} "
                f"{value['peak'] / 1e6:9.0f} {value['peak'] / base['peak']:8.2f}"
            )


if __name__ == "__main__":
    main()
