"""One pre-fill of a Qwen2 as transformers runs it, alone or with a press of kvpress, and some decoded tokens.

A worker of peers.py, which says how its environment is made: it imports torch, transformers, kvpress, nothing of x2l.
"""

import argparse
import json
import time
from contextlib import nullcontext

import torch
from transformers import DynamicCache, Qwen2ForCausalLM

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


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="folder")
    parser.add_argument("tokens", help="JSON file: prompt and question")
    parser.add_argument("--press", help="class of kvpress")
    parser.add_argument("--ratio", type=float, default=1)
    parser.add_argument("--new-tokens", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    press = press_of(given.press, given.ratio)
    model = Qwen2ForCausalLM.from_pretrained(given.weights, attn_implementation="sdpa").eval()
    with open(given.tokens) as file:
        ids = {name: torch.tensor([row]) for name, row in json.load(file).items()}
    prompt, question = ids["prompt"], ids["question"]
    warm, _, _ = prefilled(model, prompt[:, :WARM_UP], press)
    decoded(model, warm, WARM_UP, question, 2)
    del warm
    cache, seconds, peak = prefilled(model, prompt, press)
    kept = cache.get_seq_length()
    tokens, each = decoded(model, cache, prompt.shape[1], question, given.new_tokens)
    measured = {"seconds": seconds, "peak": peak, "seconds_token": each, "kept": kept}
    print(json.dumps({**measured, "tokens": tokens}))


if __name__ == "__main__":
    main()
