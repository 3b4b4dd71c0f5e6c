"""What each family of models needs beyond the generic adapter, one entry each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_MEDIA_OUTTRO

from x2l.models.positions import Placement, after_video, mrope_video


@dataclass(frozen=True)
class Family:
    """How one family differs from the defaults, which fit a family that needs nothing.

    Attributes:
        text: model types of the language models that it was shown to equal the stock model around.
        label_follows: text between two time steps tells the time of the earlier one (GLM-4V), not of the later.
        outro: text at the very end of the expanded video that the question's first word may be tokenized with; a
            processor's own `outro` goes first.
        newline: visual placeholders at the end of the whole video that stand for no frame (LLaVA-OneVision: one).
        wrapper: texts around the placeholder that the `reference` rule takes away (Qwen3-VL), or None.
        lookback: frames before a chunk that its processing needs to see.
        trim: (processor outputs, n) -> the outputs without the first n frames; for families with a lookback.
        dropped: name of a processor output, `(visual tokens,)` bool, False where the processor drops a token.
        positions: (config, grid, base, sampled frames a second, rule) -> M-RoPE positions `(3, visual tokens)` of a
            video that is one block at `base`, and where the text after it goes; None = the stock model's own rule.
        extras: what the decoder takes beside embeddings for a span with frames in it.
        space_follows_time: each time step is a block of its own whose rows and columns count from its time.
        summary: the model's embedding of summary tokens, `(1,)` ids -> `(1, hidden)`; None where there are none.
    """

    text: tuple[str, ...]
    label_follows: bool = False
    outro: str = ""
    newline: int = 0
    wrapper: tuple[str, str] | None = None
    lookback: int = 0
    trim: Callable[[dict[str, Any], int], dict[str, Any]] | None = None
    dropped: str | None = None
    positions: (
        Callable[[Any, tuple[int, int, int], int, float, str], tuple[Tensor, Placement]] | None
    ) = None
    extras: tuple[str, ...] = ()
    space_follows_time: bool = False
    summary: Callable[[Any], nn.Module] | None = None


def _qwen2_positions(
    config: Any, grid: tuple[int, int, int], base: int, sampled_fps: float, rule: str
) -> tuple[Tensor, Placement]:
    """M-RoPE positions `(3, visual tokens)` of the video at `base`, of which `sampled_fps` frames a second were taken.

    Seconds a step are not cut to whole ones first: transformers 4.5x did so by accident (fixed in pull request
    48669), Qwen's own code never did.
    """
    interval = 1.0
    if config.model_type == "qwen2_5_vl":
        vision = config.vision_config
        interval = vision.tokens_per_second * (vision.temporal_patch_size / sampled_fps)
    video = mrope_video(base, grid, interval)
    return video, after_video(base, grid, int(video[0, -1]), rule)


def _video_llama_3_trim(inputs: dict[str, Any], frames: int) -> dict[str, Any]:
    """Processor outputs without the first `frames` frames, which were there for the comparison only."""
    grid = inputs["video_grid_thw"].clone()
    patches = frames * int(grid[0, 1] * grid[0, 2])
    tokens = patches // int(inputs["video_merge_sizes"][0]) ** 2
    grid[0, 0] -= frames
    return {
        **inputs,
        "video_grid_thw": grid,
        "pixel_values_videos": inputs["pixel_values_videos"][patches:],
        "video_compression_mask": inputs["video_compression_mask"][tokens:],
    }


def _qwen3(text: str) -> Family:
    """Every time step is a block of its own, behind the text of its time.

    transformers 5 keeps the template's marks around the whole expanded video; 4.57, which the models were published
    with, replaced them too (each time step brings its own pair). The `reference` rule does so.
    """
    return Family(
        text=(text,),
        wrapper=("<|vision_start|>", "<|vision_end|>"),
        extras=("visual_pos_masks", "deepstack_visual_embeds"),
        space_follows_time=True,
    )


# Every model type, and around which text model types, whose parity with the stock model is tested. All else is refused:
# it might run and be wrong.
FAMILIES = {
    # One block of visual tokens without text inside, placed by M-RoPE in time, rows and columns.
    "qwen2_vl": Family(text=("qwen2_vl_text",), positions=_qwen2_positions),
    "qwen2_5_vl": Family(text=("qwen2_5_vl_text",), positions=_qwen2_positions),
    "qwen3_vl": _qwen3("qwen3_vl_text"),
    "qwen3_vl_moe": _qwen3("qwen3_vl_moe_text"),
    # One learned `image_newline` ends the whole video; the stock forward adds it on every call.
    "llava_onevision": Family(text=("qwen2",), newline=1),
    "llava_next_video": Family(text=("llama", "mistral")),
    # Only in the layout of its authors' own code, see original_layouts.py.
    "video_xl": Family(text=("qwen2",), summary=lambda hf: hf.model.summary_embedding),
    # The same; newlines are tokens of their own inside the video.
    "llava_video": Family(text=("qwen2",)),
    "internvl": Family(text=("qwen2", "qwen3", "llama", "qwen3_moe")),
    # Its processor drops visual tokens whose pixels hardly differ from the frame before.
    "video_llama_3": Family(
        text=("qwen2",), lookback=1, trim=_video_llama_3_trim, dropped="video_compression_mask"
    ),
    # The expanded video ends in an empty line, which the tokenizer may join with the question.
    "smolvlm": Family(text=("llama",), outro=DEFAULT_MEDIA_OUTTRO),
    # Every time step is a block of its own, and the text of its time stands behind it.
    "glm4v": Family(text=("glm4v_text",), label_follows=True, space_follows_time=True),
    "glm4v_moe": Family(text=("glm4v_moe_text",), label_follows=True, space_follows_time=True),
}

_LINEAR = "layers of linear attention keep one running state, of which no chunk can be cut out or re-loaded"
_WINDOW = "layers with a sliding window forget what lies behind it, so that a re-loaded chunk would not be seen"
_CROSS = "pictures reach the language model by cross-attention, not as KVs among those of the text"
_CLIP = (
    "the vision tower looks at frames together, so that a chunk on its own would get other features"
)

# Model types that are asked for, and why they are refused; docs/refused.md says what each would take.
REFUSED = {
    "qwen3_5": _LINEAR,
    "qwen3_5_moe": _LINEAR,
    "gemma3": _WINDOW,
    "gemma3n": _WINDOW,
    "gemma4": _WINDOW,
    "mllama": _CROSS,
    "kimi_k25": _CLIP,
    "minimax_m3_vl": _CLIP,
}
