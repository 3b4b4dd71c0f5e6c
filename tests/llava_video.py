"""Folders in the layout of LLaVA-Video and LongVA, and what the official code computed from tiny random weights.

`oracles/llava_video/oracle.json` says what was recorded and how.
"""

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.video_xl import tokenizer
from x2l.compressors.base import Level
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.decode import answer, ask
from x2l.engine.prefill import prefill
from x2l.models.loading import load
from x2l.models.prompt import Question
from x2l.video import Frames

ORACLE = Path(__file__).parent / "oracles" / "llava_video"
ABOUT = json.loads((ORACLE / "oracle.json").read_text())
CASES = ABOUT["cases"]
FULL = {"low": Level(KeyNorm(), 1), "high": Level(KeyNorm(), 1)}


@cache
def recorded():
    return load_file(ORACLE / "oracle.safetensors")


def checkpoint(folder, kind="llava_video", **changes):
    """A folder in the official layout; None takes a key out of its config.json."""
    about = ABOUT[kind]
    values = about["config"] | {"vision_config": about["vision_config"]} | changes
    values = {key: value for key, value in values.items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    state = load_file(ORACLE / "llava_video.safetensors")
    if kind == "longva":
        theirs = ("vision_tower", "mm_projector", "image_newline")
        state = {k: v for k, v in state.items() if not any(name in k for name in theirs)}
        state |= load_file(ORACLE / "longva_vision.safetensors")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    tokenizer().save_pretrained(folder)
    return folder


def loaded(folder, case):
    """The model as a case was recorded; its prompt does not tell times."""
    if case == "unires":
        return load(str(checkpoint(folder, "longva")))
    mode, position = case.split(".")
    options = {"mm_spatial_pool_mode": mode, "mm_newline_position": position}
    return load(str(checkpoint(folder)), original=options | {"add_time_instruction": False})


def frames(pixels):
    seconds = torch.arange(len(pixels), dtype=torch.float64)
    return Frames(pixels, seconds, 1.0, float(len(pixels)), "official.mp4", "pyav")


def official_prompt(model, case, chunk_frames):
    """The prompt of the official, already resized frames, with the official tokens before them."""
    name = "longva_resized_uint8" if case == "unires" else "resized_uint8"
    made = model.prompt(frames(recorded()[name].permute(0, 2, 3, 1)), chunk_frames)
    before = recorded()["input_ids"][: CASES[case]["visual_start"]]
    moved = len(before) - made.prefix
    ids = torch.cat([before, made.input_ids[made.prefix :]])
    chunks = [
        replace(c, start=c.start + moved, stop=c.stop + moved, positions=c.positions + moved)
        for c in made.chunks
    ]
    return replace(
        made,
        input_ids=ids,
        positions=torch.arange(len(ids))[None],
        prefix=len(before),
        chunks=tuple(chunks),
        next_position=len(ids),
        video_end=len(ids),
    )


def question(case):
    ids = recorded()["input_ids"][CASES[case]["visual_start"] + 1 :]
    return Question("", ids, torch.zeros(len(ids), 2))


def video_embeds(model, prompt):
    return torch.cat([model.embed_chunk(prompt, chunk).embeds[0] for chunk in prompt.chunks])


@dataclass(frozen=True)
class Differences:
    """Largest ones from the official numbers of a case, and whether all tokens are equal."""

    embeds: float
    logits: float
    same_tokens: bool


def differences(model, case, chunk_frames):
    """Through prompt, tower, chunked pre-fill at ratio 1, mixed cache and answer."""
    about, official = CASES[case], recorded()[f"{case}.logits"]
    start, embeds = about["visual_start"], recorded()[f"{case}.inputs_embeds"]
    prompt, asked = official_prompt(model, case, chunk_frames), question(case)
    ours = video_embeds(model, prompt)
    assert len(ours) == about["visual_tokens"] == prompt.tokens - start
    store = prefill(model, prompt, FULL)
    mixed = store.mix(["low"] * len(prompt.chunks))
    logits = ask(model, model.load_cache(mixed.kv), asked, mixed.place)
    # Rows that the tokenizer lacks are cut off, as the official loader does it.
    assert len(logits) == 252 and official.std() > 0.5
    said = answer(model, store, asked, store.reloading((0,)), len(about["greedy"]))
    return Differences(
        float((ours - embeds[start : start + len(ours)]).abs().max()),
        float((logits - official[:252]).abs().max()),
        list(said.token_ids) == about["greedy"],
    )
