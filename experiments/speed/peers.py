"""Pre-fill and decoding beside stock transformers and kvpress, the same random Qwen2 and tokens in all.

    python3 -m venv peers
    peers/bin/pip install kvpress==0.5.2 torch==2.13.0 transformers==5.2.0
    python -m experiments.speed.peers --peers peers/bin/python       # -> experiments/results/peers/

kvpress 0.5.2 reads the cache_position that its hooks are called with, which transformers 5.23 no longer passes on:
hence the older one, for stock too.

Stock is one forward over all tokens; kvpress the same, compressing each layer after its attention (KnormPress, and
SnapKVPress with its own window of 64); x2l goes chunk by chunk, 512 tokens each, and compresses by the same methods
(SnapKV's window is the tail of each chunk), later chunks seeing all earlier KVs (`full`, as in kvpress) or the
compressed ones (`high`). Without --peers kvpress is left out. Every measurement is a process of its own, forked from
one that has imported what it needs, in alternating order; medians. Seconds are the processor's, of the pre-fill through
the decoder (no logits), and of each decoded token but the first; peak memory is the largest resident size during the
pre-fill less what stood before (Linux). At ratio 1 x2l must decode the very tokens of stock.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tabulate import tabulate

from experiments.speed.forked import forked
from experiments.speed.peaks import memory, reset_peak
from experiments.speed.prefill import build
from x2l.compressors.base import Level
from x2l.compressors.pruning_by_attention import SnapKV
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.decode import answer
from x2l.engine.prefill import prefill
from x2l.models.huggingface import HFVideoModel
from x2l.models.interface import Embedded
from x2l.models.prompt import Prompt
from x2l.runs.run_info import describe, processor_name
from x2l.video import Frames

# isort: split
from transformers import Qwen2Config, Qwen2ForCausalLM

RESULTS = Path(__file__).parents[1] / "results" / "peers"
CHUNK_FRAMES = 64  # of 64 x 64 pixels: 512 tokens
METHODS = {"key norm": KeyNorm(), "SnapKV": SnapKV()}


@dataclass(frozen=True)
class Way:
    """One way to pre-fill: a press of kvpress, or a method and context of x2l; neither is stock."""

    method: str | None = None
    press: str | None = None
    context: str | None = None
    plain: bool = False  # ratio 1


WAYS = {
    "stock": Way(),
    "kvpress, key norm": Way("key norm", press="KnormPress"),
    "kvpress, SnapKV": Way("SnapKV", press="SnapKVPress"),
    "x2l, ratio 1": Way("key norm", context="full", plain=True),
    "x2l, key norm, context full": Way("key norm", context="full"),
    "x2l, key norm, context high": Way("key norm", context="high"),
    "x2l, SnapKV, context full": Way("SnapKV", context="full"),
    "x2l, SnapKV, context high": Way("SnapKV", context="high"),
}
PEER_OF = {"key norm": "kvpress, key norm", "SnapKV": "kvpress, SnapKV"}


def text_model(hf) -> Qwen2ForCausalLM:
    """The text stack of a Qwen2.5-VL as a Qwen2: the same weights; with equal positions on all axes the same sums."""
    text = hf.config.text_config.to_dict()
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps")
    kept += ("num_attention_heads", "num_key_value_heads", "max_position_embeddings", "hidden_act")
    rope = {"rope_type": "default", "rope_theta": text["rope_parameters"]["rope_theta"]}
    config = Qwen2Config(**{name: text[name] for name in kept}, rope_parameters=rope)
    config.tie_word_embeddings = False
    qwen2 = Qwen2ForCausalLM(config)
    weights = hf.model.language_model.state_dict()
    state = {f"model.{name}": weight for name, weight in weights.items()}
    qwen2.load_state_dict({**state, "lm_head.weight": hf.get_output_embeddings().weight})
    return qwen2


def prompt_of(model: HFVideoModel, tokens: int, vocabulary: int) -> Prompt:
    """A video's prompt with random tokens of text in place of visual ones, at consecutive positions."""
    count = tokens // 8  # 16 tokens for two frames
    pixels = torch.zeros(1, 64, 64, 3, dtype=torch.uint8).expand(count, -1, -1, -1)
    seconds = torch.arange(count, dtype=torch.float64)
    prompt = model.prompt(Frames(pixels, seconds, 1.0, float(count), "-", "-"), CHUNK_FRAMES)
    random = torch.randint(
        0, vocabulary, (prompt.tokens,), generator=torch.Generator().manual_seed(1)
    )
    ids = torch.where(torch.arange(prompt.tokens) < prompt.prefix, prompt.input_ids, random)
    positions = torch.arange(prompt.tokens).expand(len(prompt.positions), -1)
    chunks = tuple(replace(c, positions=positions[:, c.start : c.stop]) for c in prompt.chunks)
    return replace(
        prompt,
        input_ids=ids,
        positions=positions,
        chunks=chunks,
        next_position=prompt.tokens,
        video_end=prompt.tokens,
    )


class TextModel(HFVideoModel):
    """Embeds the tokens of a chunk in place of pictures, and never ends an answer."""

    end_tokens = frozenset()

    def visual_inputs(self, prompt, chunk, pixels=None):
        """Nothing."""
        return {}

    def embed_chunk(self, prompt, chunk, inputs=None):
        """The chunk's tokens."""
        with torch.no_grad():
            ids = prompt.input_ids[None, chunk.start : chunk.stop]
            return Embedded(self.hf.get_input_embeddings()(ids))


def measure(way: Way, tokens: int, given: argparse.Namespace) -> dict[str, object]:
    """One way of x2l in this process, after a warm-up."""
    model = TextModel(*build(given.layers, given.hidden, "cpu"))
    question = model.question("What?")
    vocabulary = model.hf.config.text_config.vocab_size
    levels = {"high": Level(METHODS[way.method], 1 if way.plain else given.ratio)}
    for count in (2 * 8 * CHUNK_FRAMES, tokens):
        prompt = prompt_of(model, count, vocabulary)
        reset_peak("cpu")
        before, start = memory("cpu", "VmRSS"), time.process_time()
        store = prefill(model, prompt, levels, way.context)
        seconds, peak = time.process_time() - start, memory("cpu", "VmHWM") - before
    said, times = [], []
    for limit in (1, given.new_tokens):
        start = time.process_time()
        said = answer(model, store, question, store.reloading([]), limit).token_ids
        times.append(time.process_time() - start)
    return {
        "seconds": seconds,
        "peak": peak,
        "seconds_token": (times[1] - times[0]) / (given.new_tokens - 1),
        "kept": round(statistics.mean(store.prefix.tokens)) + sum(store.kept("high")),
        "tokens": list(said),
    }


def table(rows: dict[int, dict[str, dict[str, float]]]) -> str:
    """Markdown."""
    lines = []
    for tokens, ways in rows.items():
        stock = ways["stock"]
        for name, found in ways.items():
            peer = ways.get(PEER_OF.get(WAYS[name].method or "", ""))
            ours = WAYS[name].context is not None and not WAYS[name].plain
            beside = [found[key] / peer[key] for key in KEYS] if peer and ours else []
            lines.append(
                [
                    f"{tokens:,}",
                    name,
                    *(f"{found[key] * scale:.{digits}f}" for key, scale, digits in SHOWN),
                    *(f"{found[key] / stock[key]:.2f}" for key in KEYS),
                    *([f"{value:.2f}" for value in beside] or ["", "", ""]),
                ]
            )
    heads = ["tokens", "", "seconds", "peak MB", "ms a token"]
    heads += [f"{name} / {of}" for of in ("stock", "kvpress") for name in ("s", "MB", "ms")]
    return tabulate(lines, heads, "github", disable_numparse=True)


KEYS = ("seconds", "peak", "seconds_token")
SHOWN = (("seconds", 1, 2), ("peak", 1e-6, 0), ("seconds_token", 1e3, 1))


def main() -> None:
    """Measures, prints the table, writes it and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--ratio", type=float, default=16)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peers", type=Path, help="Python of an environment with kvpress")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    ways = [name for name, way in WAYS.items() if given.peers or way.press is None]
    rows: dict[int, dict[str, dict[str, float]]] = {}
    every: dict[int, dict[str, list[dict[str, object]]]] = {}
    with tempfile.TemporaryDirectory() as place, worker(given.peers) as peer:
        model = TextModel(*build(given.layers, given.hidden, "cpu"))
        text_model(model.hf).save_pretrained(place)
        question = model.question("What?").input_ids.tolist()
        for tokens in given.tokens:
            prompt = prompt_of(model, tokens, model.hf.config.text_config.vocab_size)
            ids = {"prompt": prompt.input_ids.tolist(), "question": question}
            asked = {"weights": place, "ids": ids, "ratio": given.ratio}
            asked |= {"new_tokens": given.new_tokens, "threads": given.threads}
            runs: dict[str, list[dict[str, object]]] = {name: [] for name in ways}
            for repeat in range(given.repeats):
                for name in ways[:: 1 if repeat % 2 == 0 else -1]:
                    way = WAYS[name]
                    if way.context is None:
                        runs[name].append(peer({**asked, "press": way.press}))
                    else:
                        runs[name].append(forked(measure, way, tokens, given))
                    print(tokens, name, runs[name][-1]["seconds"], flush=True)
            if runs["x2l, ratio 1"][0]["tokens"] != runs["stock"][0]["tokens"]:
                raise SystemExit("x2l at ratio 1 and stock decode other tokens")
            every[tokens] = runs
            rows[tokens] = {
                name: {key: statistics.median(run[key] for run in found) for key in KEYS}
                for name, found in runs.items()
            }
    text = table(rows)
    print(text)
    info = describe("peers", {}, "cpu", processor_name(), given.threads)
    about = {
        "commit": info.commit,
        "dirty": info.dirty,
        "started": info.started,
        "processor": info.processor,
        "versions": {**info.versions, "peers": _versions(str(given.peers or sys.executable))},
        "settings": {
            name: value for name, value in vars(given).items() if name not in ("out", "peers")
        },
    }
    given.out.mkdir(parents=True, exist_ok=True)
    runs_of = {"medians": rows, "runs": every}
    (given.out / "peers.json").write_text(json.dumps({**about, **runs_of}, indent=1) + "\n")
    head = (
        f"`python -m experiments.speed.peers`: a random Qwen2, {given.layers} layers x {given.hidden}, fp32, "
        f"{given.ratio:g}x, {given.threads} thread of {info.processor}; medians of {given.repeats} runs, processor "
        f"seconds; {about['versions']['peers']}; commit {info.commit}, {info.started[:10]}."
    )
    (given.out / "table.md").write_text(f"{head}\n\n{text}\n")


@contextmanager
def worker(python: Path | None) -> Iterator[Callable[[dict[str, object]], dict[str, object]]]:
    """Inside, a process of one_shot.py that takes what it is to measure and gives what it found."""
    # Here x2l.models has to be imported first: it lets transformers import beside a CPU's torch.
    own = "import x2l.models, experiments.speed.one_shot as worker; worker.main()"
    words = [sys.executable, "-c", own]
    if python is not None:
        words = [str(python), "-m", "experiments.speed.one_shot"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def ask(what: dict[str, object]) -> dict[str, object]:
            process.stdin.write(json.dumps(what) + "\n")
            process.stdin.flush()
            if not (said := process.stdout.readline()):
                raise SystemExit("the process of stock and kvpress ended, as it says above")
            return json.loads(said)

        yield ask
        process.stdin.close()


def _versions(python: str) -> str:
    """Of the environment of stock and kvpress."""
    code = (
        "import importlib.metadata as m\n"
        "names = {d.name for d in m.distributions()} & {'torch', 'transformers', 'kvpress'}\n"
        "print(', '.join(f'{n} {m.version(n)}' for n in sorted(names)))"
    )
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
