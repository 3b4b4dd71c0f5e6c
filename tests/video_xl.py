"""A folder in the official layout of Video-XL, and what the official code computed from its tiny random weights.

`oracles/video_xl/oracle.json` says what was recorded and how.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2Tokenizer

from x2l.compressors.base import Level
from x2l.compressors.summary_tokens import SummaryTokens
from x2l.engine.decode import answer, ask
from x2l.engine.kv_store import KVStore
from x2l.engine.prefill import prefill
from x2l.models.huggingface import HFVideoModel
from x2l.models.interface import Embedded
from x2l.models.loading import load
from x2l.models.prompt import Chunk, Prompt, Question
from x2l.video import Frames

ORACLE = Path(__file__).parent / "oracles" / "video_xl"
ABOUT = json.loads((ORACLE / "oracle.json").read_text())
CASES = ABOUT["cases"]
START, END = "<|im_start|>", "<|im_end|>"


def tokenizer() -> Qwen2Tokenizer:
    """Qwen2's, of letters only: 256 rows of embedding have no room for words. Marks are where config.json has them."""
    letters = [*map(chr, range(33, 127)), "\u0120", "\u010a"]  # as bytes: space, line break
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    vocabulary |= {f"unused{index}" * 9: index for index in range(len(letters), 250)}
    vocabulary |= {START: 250, END: 251}
    special = {"additional_special_tokens": [START], "eos_token": END}
    return Qwen2Tokenizer(vocab=vocabulary, merges=[], unk_token="?", pad_token="?", **special)


def config(**changes: Any) -> dict[str, Any]:
    """Values of its config.json, with those of the tower, which is smaller than the one that a checkpoint names."""
    values = json.loads((ORACLE / "checkpoint" / "config.json").read_text())
    tower = json.loads((ORACLE / "checkpoint" / "vision_config.json").read_text())
    return values | {"vision_config": tower} | changes


def checkpoint(folder: Path, **changes: Any) -> Path:
    """Writes such a folder; None takes a key out of its config.json."""
    values = {key: value for key, value in config(**changes).items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    weights = ORACLE / "checkpoint" / "model.safetensors"
    (folder / "model.safetensors").write_bytes(weights.read_bytes())
    tokenizer().save_pretrained(folder)
    return folder


def spoil(folder: Path, **weights: Tensor | None) -> None:
    """Replaces weights of the folder, `__` for a dot; None takes one out."""
    path = folder / "model.safetensors"
    kept = load_file(path) | {name.replace("__", "."): tensor for name, tensor in weights.items()}
    save_file({name: t for name, t in kept.items() if t is not None}, path, {"format": "pt"})


def frames(count: int) -> Frames:
    """The first chunk's pictures, again and again, one a second."""
    pixels = inputs()["frames_first10"].repeat(-(-count // 10), 1, 1, 1)[:count]
    seconds = torch.arange(count, dtype=torch.float64)
    return Frames(pixels, seconds, 1.0, float(count), "official.mp4", "pyav")


def official_prompt(model: HFVideoModel, count: int) -> Prompt:
    """The prompt of that many frames, with the official tokens before them in place of those of the template."""
    made, before = model.prompt(frames(count), ABOUT["chunk_frames"]), inputs()["prefix_ids"]
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


@cache
def loaded(folder: Path, dtype: str) -> HFVideoModel:
    """The model, loaded from a `checkpoint`; frames are embedded as the official code did it, whatever they show.

    The oracle holds pictures of its first chunk only, and embeddings of all.
    """
    model = load(str(folder), dtype=dtype)
    per_frame = ABOUT["tokens_per_frame"]

    def embed_chunk(prompt: Prompt, chunk: Chunk, prepared: object = None) -> Embedded:
        first, last = (frame * per_frame for frame in chunk.frames)
        return Embedded(inputs()["visual_embeds"][None, first:last].to(model.dtype))

    model.embed_chunk = embed_chunk  # type: ignore[method-assign]
    model.visual_inputs = lambda *shown: {}  # type: ignore[method-assign]
    return model


@cache
def inputs() -> dict[str, Tensor]:
    """What the official code was given, and its visual embeddings."""
    return load_file(ORACLE / "inputs.safetensors")


@cache
def recorded(case: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """KVs, logits and tokens of one case, L-KVs from the case that has the same ones."""
    precision = {torch.float32: "fp32", torch.float64: "fp64"}[dtype]
    tensors = load_file(ORACLE / f"{case}.{precision}.safetensors")
    shared = CASES[case].get("low_from")
    return (load_file(ORACLE / f"{shared}.{precision}.safetensors") if shared else {}) | tensors


def official_store(model: HFVideoModel, case: str, edges: bool | None = None) -> KVStore:
    """The pre-fill of a case, with its rule for first and last chunk or another."""
    about = CASES[case]
    rule = SummaryTokens(2 if (about["first_last"] if edges is None else edges) else None)
    levels = {"low": Level(rule, about["low"]), "high": Level(rule, about["high"])}
    return prefill(model, official_prompt(model, about["frames"]), levels, "own", "compact")


def logits_after(
    model: HFVideoModel, store: KVStore, selected: Sequence[int], ids: Tensor
) -> Tensor:
    """Logits behind the last of `ids`, which stand behind the mixed cache, `(vocabulary,)`."""
    mixed = store.mix(store.reloading(selected))
    question = Question("", ids, torch.zeros(len(ids), 2))
    return ask(model, model.load_cache(mixed.kv), question, mixed.place)


@dataclass(frozen=True)
class Differences:
    """Largest ones between what x2l and the official code computed of a case, and whether all tokens are equal."""

    kvs: float
    logits: float
    same_tokens: bool


def differences(model: HFVideoModel, case: str) -> Differences:
    """Of all that was recorded: every layer and every question's token in float32, less in float64."""
    store, official, ids = (
        official_store(model, case),
        recorded(case, model.dtype),
        inputs()["question_ids"],
    )
    whole = model.dtype == torch.float32
    parts = {"sink": store.prefix}
    for level, chunks in store.levels.items():
        parts |= {f"{level}.{index}": kv.decode() for index, kv in enumerate(chunks)}
    kvs, logits, same = [], [], True
    for name, kv in parts.items():
        layers = kv.layers if whole else kv.layers[-1:]
        kvs.append(_apart(torch.cat([layer.keys for layer in layers]), official[f"{name}.k"]))
        kvs.append(_apart(torch.cat([layer.values for layer in layers]), official[f"{name}.v"]))
    for label, selected in CASES[case]["selected"].items():
        tokens, rows = official[f"tokens.{label}"], official[f"logits.{label}.generated"]
        question = Question("", ids, torch.zeros(len(ids), 2))
        said = answer(model, store, question, store.reloading(selected), len(tokens))
        same &= said.token_ids == tuple(tokens.tolist())
        written = [torch.cat([ids, tokens[:step]]) for step in range(len(tokens))]
        if whole:
            rows = torch.cat([rows, official[f"logits.{label}.question"]])
            written += [ids[: token + 1] for token in range(len(ids))]
        ours = [logits_after(model, store, selected, text) for text in written]
        logits.append(_apart(torch.stack(ours), rows))
    return Differences(max(kvs), max(logits), same)


def _apart(ours: Tensor, official: Tensor) -> float:
    assert ours.shape == official.shape and ours.dtype == official.dtype
    return float((ours - official).abs().max())
