"""One pre-fill of a Qwen2 as transformers runs it, alone or with a press of kvpress, and some decoded tokens.

A worker of peers.py, which says how its environment is made: it imports torch, transformers, kvpress, nothing of x2l.
"""

import json
import sys
import time
from contextlib import nullcontext

import torch
from transformers import DynamicCache, Qwen2ForCausalLM

from experiments.speed.forked import forked
from experiments.speed.peaks import memory, reset_peak

WARM_UP = 256  # tokens


def press_of(name: str | None, ratio: float):
    """A context for the pre-fill, from the model; without a press it does nothing."""
    if name is None:
        return lambda model: nullcontext()
    import kvpress

    return getattr(kvpress, name)(compression_ratio=1 - 1 / ratio)


def prefilled(model, ids, press):
    """The cache, processor seconds and peak bytes of one forward through the decoder."""
    cache = DynamicCache()
    reset_peak("cpu")
    before, start = memory("cpu", "VmRSS"), time.process_time()
    with torch.no_grad(), press(model):
        model.model(input_ids=ids, past_key_values=cache, use_cache=True)
    return cache, time.process_time() - start, memory("cpu", "VmHWM") - before


def decoded(model, cache, prompt_tokens, question, count):
    """Greedy tokens after a question, and processor seconds of each but the first."""
    ids, place, tokens, start = question, prompt_tokens, [], 0.0
    with torch.no_grad():
        while True:
            positions = torch.arange(place, place + ids.shape[1])[None]
            said = model(
                input_ids=ids, past_key_values=cache, position_ids=positions, logits_to_keep=1
            )
            tokens.append(int(said.logits[0, -1].argmax()))
            if len(tokens) == 1:
                start = time.process_time()
            if len(tokens) == count:
                return tokens, (time.process_time() - start) / (count - 1)
            place += ids.shape[1]
            ids = torch.tensor([[tokens[-1]]])


def measure(weights, ids, press, ratio, new_tokens):
    """One way in this process, after a warm-up."""
    model = Qwen2ForCausalLM.from_pretrained(weights, attn_implementation="sdpa").eval()
    prompt, question = (torch.tensor([ids[name]]) for name in ("prompt", "question"))
    applied = press_of(press, ratio)
    warm, _, _ = prefilled(model, prompt[:, :WARM_UP], applied)
    decoded(model, warm, WARM_UP, question, 2)
    del warm
    cache, seconds, peak = prefilled(model, prompt, applied)
    kept = cache.get_seq_length()
    tokens, each = decoded(model, cache, prompt.shape[1], question, new_tokens)
    measured = {"seconds": seconds, "peak": peak, "seconds_token": each, "kept": kept}
    return {**measured, "tokens": tokens}


def main() -> None:
    """Reads the arguments of `measure` as lines of JSON, and answers each from a process of its own."""
    for line in sys.stdin:
        asked = json.loads(line)
        torch.set_num_threads(asked.pop("threads"))
        print(json.dumps(forked(measure, **asked)), flush=True)


if __name__ == "__main__":
    main()
