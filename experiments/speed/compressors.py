"""Time of every compressor against the pre-fill of the same tokens; writes experiments/results/compressors.json.

    python -m experiments.speed.compressors            # about three minutes on two cores
    python -m experiments.speed.compressors tome kmeans --ratios 2 8 32
    python -m experiments.docs.methods_table                # then: docs/methods.md

A layer as wide as Qwen2.5-VL-7B's (hidden 3584, 28 query heads over 4 KV heads, 18944 inside), random weights, chunks
of 1440 visual tokens (10 time steps of 12 x 12, the chunk of the official code). One pre-fill holds all methods at all
ratios as so many levels; each is timed around its own call, for every layer and chunk but the first chunk, which warms
up. Share: the median of these over the median of the decoder's for a layer and chunk. The first chunks of a video are
the cheapest to pre-fill, so for later ones the share is smaller. On a CPU it is the process's CPU time with one thread,
which others on the machine hardly disturb; on a GPU synchronised wall time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

import x2l.models  # noqa: F401 - before transformers: it lets the processors import
from experiments.docs.methods_table import CONF, compressor, names
from experiments.speed.prefill import build
from x2l.compressors.base import Compressor, Level, Observation, Sizes
from x2l.engine.prefill import prefill
from x2l.kv import LayerKV
from x2l.models.huggingface import HFVideoModel
from x2l.models.interface import Embedded
from x2l.runs.run_info import processor_name
from x2l.video import Frames

RESULT = Path(__file__).parents[1] / "results" / "compressors.json"
SEVEN_B = {"hidden": 3584, "heads": 28, "kv_heads": 4, "wide": 18944}
STEPS, SIDE = 10, 192  # 12 x 12 tokens a time step of two frames


@dataclass(frozen=True)
class Timed(Compressor):
    """A compressor, and the seconds that each of its calls took."""

    method: Compressor
    device: str
    seconds: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The method's."""
        return self.method.name

    @property
    def ragged(self) -> bool:  # type: ignore[override]
        """The method's."""
        return self.method.ragged

    @property
    def needs(self) -> frozenset[str]:
        """The method's."""
        return self.method.needs

    @property
    def probe(self) -> str:
        """The method's."""
        return self.method.probe

    def check(self, tokens: int, keep: int) -> None:
        """The method's."""
        self.method.check(tokens, keep)

    def compress(self, kv: LayerKV, obs: Observation, keep: int) -> LayerKV:
        """The method's, with the clock running."""
        start = clock(self.device)
        out = self.method.compress(kv, obs, keep)
        self.seconds.append(clock(self.device) - start)
        return out

    def flops(self, sizes: Sizes) -> int:
        """The method's."""
        return self.method.flops(sizes)


def clock(device: str) -> float:
    """Seconds, for differences: of CPU time, or of wall time once a GPU has done what it was told."""
    if not device.startswith("cuda"):
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def video(chunks: int) -> Frames:
    """Grey pictures, one a second; what is on them does not matter, their embeddings are drawn."""
    count = 2 * STEPS * chunks
    pixels = torch.zeros(count, SIDE, SIDE, 3, dtype=torch.uint8)
    seconds = torch.arange(count, dtype=torch.float64)
    return Frames(pixels, seconds, 1.0, float(count), "-", "-")


def measure(
    methods: Mapping[str, Compressor],
    ratios: list[float],
    layers: int,
    chunks: int,
    device: str,
    size: Mapping[str, int],
) -> dict[str, object]:
    """Median seconds a layer and chunk: of the decoder, and of every method at every ratio."""
    hf, processor = build(
        layers, size["hidden"], device, size["heads"], size["kv_heads"], size["wide"]
    )
    processor.video_processor.size = {"shortest_edge": SIDE**2, "longest_edge": SIDE**2}
    model = HFVideoModel(hf, processor)
    model.visual_inputs = lambda *shown: {}  # type: ignore[method-assign]
    model.embed_chunk = lambda prompt, chunk, inputs=None: Embedded(  # type: ignore[method-assign]  # vision is not what is measured
        torch.randn(1, chunk.tokens, size["hidden"], device=device) * 0.02
    )
    prompt = model.prompt(video(chunks), 2 * STEPS)
    assert prompt.chunks[0].grid == (STEPS, 12, 12), prompt.chunks[0].grid
    timed = {
        (name, ratio): Timed(method, device) for name, method in methods.items() for ratio in ratios
    }
    levels = {f"{name} {ratio}": Level(one, ratio) for (name, ratio), one in timed.items()}
    advance, decoder = model.prefill_span, []

    def timed_advance(*arguments) -> None:
        start = clock(device)
        advance(*arguments)
        decoder.append((arguments[0].embeds.shape[1], clock(device) - start))

    model.prefill_span = timed_advance  # type: ignore[method-assign]
    prefill(model, prompt, levels)
    of_chunks = [spent for tokens, spent in decoder if tokens == prompt.chunks[0].tokens]
    asked = {name: probe_seconds(model, prompt, method) for name, method in methods.items()}
    seconds: dict[str, dict[str, float]] = defaultdict(dict)
    for (name, ratio), one in timed.items():
        own = statistics.median(one.seconds[layers:])
        seconds[name][f"{ratio:g}"] = own + asked[name] / layers
    return {
        "decoder": statistics.median(of_chunks[1:]) / layers,
        "methods": seconds,
        "tokens": prompt.chunks[0].visual_tokens,
    }


def probe_seconds(model: HFVideoModel, prompt, method: Compressor) -> float:
    """Seconds to run a method's probe text behind one chunk, through all layers; 0 without one."""
    if "probe" not in method.needs:
        return 0.0
    ids = model.question(method.probe).input_ids
    at = prompt.chunks[0].stop + torch.arange(len(ids)).expand(model.axes, -1)
    cache, spent = model.new_cache(prompt.tokens + len(ids)), []
    chunk = prompt.chunks[0]
    model.prefill_span(model.embed_chunk(prompt, chunk), chunk.positions, cache)
    for _ in range(3):
        before, start = cache.lengths, clock(str(model.device))
        model.prefill_span(model.embed_text(ids), at, cache)
        spent.append(clock(str(model.device)) - start)
        cache.cut(before)
    return statistics.median(spent)


def main() -> int:
    """Measures, prints a table, and writes the file if every method was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", help="names of conf/compressor; default: all")
    parser.add_argument("--ratios", type=float, nargs="+", default=[2, 32])
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--chunks", type=int, default=3, help="the first one warms up")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=json.loads, default=SEVEN_B, help=f"default: {SEVEN_B}")
    parser.add_argument("--out", type=Path, help=f"default: {RESULT}, if all methods are measured")
    given = parser.parse_args()
    if unknown := sorted(set(given.methods) - set(names())):
        parser.error(f"methods={unknown}: must be some of {names()} ({CONF})")
    torch.set_num_threads(1)
    methods = {name: compressor(name) for name in given.methods or names()}
    found = measure(methods, given.ratios, given.layers, given.chunks, given.device, given.size)
    found |= {
        "ratios": given.ratios,
        "layers": given.layers,
        "chunks": given.chunks - 1,
        "size": given.size,
        "machine": processor_name() if given.device == "cpu" else torch.cuda.get_device_name(),
        "torch": torch.__version__,
    }
    columns = [f"{ratio:g}" for ratio in given.ratios]
    print(f"decoder: {found['decoder']:.3f} s a layer and chunk of {found['tokens']} tokens")
    print(f"{'':24s}" + "".join(f"{f'{column}x: ms':>12s} {'share':>8s}" for column in columns))
    for name, row in sorted(found["methods"].items(), key=lambda item: -max(item[1].values())):
        shares = [(row[column], row[column] / found["decoder"]) for column in columns]
        print(f"{name:24s}" + "".join(f"{s * 1e3:12.1f} {part:8.2%}" for s, part in shares))
    out = given.out or (None if given.methods else RESULT)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1) + "\n")
        print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
