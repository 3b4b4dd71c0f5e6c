"""How far chunked pre-fill at ratio 1 is from the stock model: measured for the tests and for the table in the docs."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.tiny import PAIRS, ours, stock, stock_inputs
from x2l.compressors.base import Level
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.decode import answer, ask
from x2l.engine.kv_store import KVStore
from x2l.engine.prefill import prefill
from x2l.kv import KV
from x2l.models.huggingface import HFVideoModel
from x2l.video import Frames, read_frames, write_video

QUESTION = "What is the colour of the star?\nA. red\nB. blue"
FULL = {"low": Level(KeyNorm(), 1), "high": Level(KeyNorm(), 1)}
QWEN2 = ("qwen2_vl", "qwen2_5_vl")  # where transformers 5 places text after a video elsewhere
RULES = [(family, "hf") for family in PAIRS] + [
    (family, "reference") for family in (*QWEN2, "qwen3_vl", "qwen3_vl_moe")
]


def clip(folder: Path) -> Frames:
    """Frames of an mp4 file written here: 14 noisy pictures of 48 x 80, 2 a second."""
    noise = np.random.default_rng(0).integers(0, 256, (14, 6, 10, 3), dtype=np.uint8)
    write_video(folder / "clip.mp4", noise.repeat(8, axis=1).repeat(8, axis=2), fps=2)
    return read_frames(folder / "clip.mp4", frames=None, fps=2)


def inputs_for(family: str, video: Frames, dtype: torch.dtype, rule: str = "hf") -> dict[str, Any]:
    """The stock model's inputs for a video and the question, made by the stock processor.

    Without positions of ours under the rule `hf`. Under `reference` Qwen2(.5)-VL gets the positions of transformers 4,
    written here once more; Qwen3-VL gets the prompt of transformers 4.
    """
    inputs = stock_inputs(family, video, QUESTION, unwrapped=rule == "reference")
    given = {
        name: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    if rule == "reference" and family in QWEN2:
        given["position_ids"] = _behind_everything(family, given)
        given.pop("mm_token_type_ids")
    return given


def _behind_everything(family: str, inputs: dict[str, Any]) -> torch.Tensor:
    """Positions of transformers 4: the text after the video follows the video's largest position on any axis."""
    extra = {"second_per_grid_ts": inputs["second_per_grid_ts"]} if family == "qwen2_5_vl" else {}
    positions, _ = stock(family).model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        video_grid_thw=inputs["video_grid_thw"],
        **extra,
    )
    end = int((inputs["mm_token_type_ids"][0] == 2).nonzero()[-1]) + 1
    after = positions.shape[2] - end
    positions[:, :, end:] = torch.arange(after) + int(positions[:, :, :end].max()) + 1
    return positions


def stock_logits(family: str, video: Frames, dtype: torch.dtype, rule: str = "hf") -> torch.Tensor:
    """Logits of the first answer token by the stock model's own forward, `(vocabulary,)`."""
    hf = stock(
        family, dtype
    )  # cached: made outside, or its weights would be inference tensors for good
    with torch.inference_mode():
        return hf(**inputs_for(family, video, dtype, rule)).logits[0, -1]


def stock_tokens(family: str, video: Frames, count: int) -> list[int]:
    """Greedy tokens of the stock model's `generate`; nothing of ours is involved."""
    inputs, hf = inputs_for(family, video, torch.float32), stock(family)
    with torch.inference_mode():
        out = hf.generate(**inputs, max_new_tokens=count, do_sample=False)
    return out[0, inputs["input_ids"].shape[1] :].tolist()


def logits_of(model: HFVideoModel, store: KVStore) -> torch.Tensor:
    """Logits of the first answer token from the cache that holds every chunk's L-KVs, in the model's precision."""
    mixed = store.mix(["low"] * len(store.prompt.chunks))
    return ask(model, model.load_cache(mixed.kv), model.question(QUESTION), mixed.place)


def chunked_logits(
    family: str, video: Frames, dtype: torch.dtype, rule: str, chunk_frames: int
) -> torch.Tensor:
    """The same from chunked pre-fill at ratio 1."""
    model = ours(family, dtype, rule)
    return logits_of(model, prefill(model, model.prompt(video, chunk_frames), FULL))


def chunked_tokens(family: str, video: Frames, rule: str, chunk_frames: int, count: int) -> list:
    """Greedy tokens from chunked pre-fill at ratio 1."""
    model = ours(family, torch.float32, rule)
    store = prefill(model, model.prompt(video, chunk_frames), FULL)
    return list(
        answer(model, store, model.question(QUESTION), store.reloading((0,)), count).token_ids
    )


def dropped_chunk(family: str, video: Frames, rule: str = "hf") -> float:
    """Largest difference of the logits when the second chunk's KVs are left out: the negative control."""
    model = ours(family, torch.float32, rule)
    store = prefill(model, model.prompt(video, 4), FULL)
    mixed = store.mix(["low"] * len(store.prompt.chunks))
    layers = []
    for layer, spans in zip(mixed.kv.layers, mixed.spans, strict=True):
        start, stop = spans[1]
        rest = [*range(start), *range(stop, layer.tokens)]
        layers.append(layer.take(torch.tensor(rest)))
    cache = model.load_cache(KV(tuple(layers)))
    broken = ask(model, cache, model.question(QUESTION), mixed.place)
    return float((logits_of(model, store) - broken).abs().max())
