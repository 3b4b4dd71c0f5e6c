"""Tiny random models of every family with their real processors, and frames for tests.

Nothing is downloaded. Weights are large enough for attention to matter. What differs between families (sizes, special
tokens, chat template) lies in tests/families/.
"""

import copy
import warnings

import x2l.models  # noqa: F401 - before transformers: it lets the processors import

# isort: split
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, BatchFeature, PreTrainedConfig, ProcessorMixin
from transformers.video_utils import VideoMetadata

from tests.families import (
    glm4v,
    internvl,
    llava,
    llava_video,
    qwen,
    smolvlm,
    video_llama_3,
    video_xl,
)
from tests.families.base import END, TINY
from x2l.models.huggingface import HFVideoModel
from x2l.video import Frames

PACKAGED = TINY


@dataclass(frozen=True)
class Family:
    """How a family's processor and configuration (for the processor's tokenizer) are made."""

    processor: Callable[[], ProcessorMixin]
    config: Callable[[Any], PreTrainedConfig]


_MADE = {
    "qwen2_vl": Family(qwen.qwen2_processor, qwen.qwen2_config),
    "qwen2_5_vl": Family(qwen.qwen2_5_processor, qwen.qwen2_5_config),
    "qwen3_vl": Family(qwen.qwen3_processor, qwen.qwen3_config),
    "llava_onevision": Family(llava.onevision_processor, llava.onevision_config),
    "llava_next_video": Family(llava.next_video_processor, llava.next_video_config),
    "video_xl": Family(video_xl.processor, video_xl.config),
    "internvl": Family(internvl.processor, internvl.config),
    "internvl_qwen3": Family(internvl.processor, internvl.qwen3_config),
    "video_llama_3": Family(video_llama_3.processor, video_llama_3.config),
    "smolvlm": Family(smolvlm.processor, smolvlm.config),
    "glm4v": Family(glm4v.processor, glm4v.config),
}
FAMILIES = tuple(_MADE)
# Other language models behind the same prompt and vision tower: what parity and FLOPs are checked on besides.
_MADE |= {
    "llava_video": Family(llava_video.processor, llava_video.config),
    "llava_next_video_mistral": Family(llava.next_video_processor, llava.next_video_mistral_config),
    "internvl_llama": Family(internvl.processor, internvl.llama_config),
    "internvl_qwen3_moe": Family(internvl.processor, internvl.qwen3_moe_config),
    "qwen3_vl_moe": Family(qwen.qwen3_processor, qwen.qwen3_moe_config),
    "glm4v_moe": Family(glm4v.processor, glm4v.moe_config),
}
PAIRS = tuple(_MADE)


@lru_cache
def processor(family: str = "qwen2_5_vl") -> ProcessorMixin:
    """The family's own processor; without a name that of x2l_tiny."""
    return _MADE[family].processor()


def build(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """A stock model with random weights: 4 layers, 8 query heads over 2 KV heads, a vision tower of 3 layers."""
    model = copy.deepcopy(_built(family))  # half the time of drawing the same weights again
    if dtype == torch.float64:  # torch's grouped product of experts knows none
        model.set_experts_implementation("eager")
    return model.to(dtype)


@lru_cache
def _built(family: str) -> Any:
    words = processor(family).tokenizer
    torch.manual_seed(0)
    with torch.inference_mode(False):  # cached: its weights must not become inference tensors
        model = AutoModelForImageTextToText.from_config(
            _MADE[family].config(words), attn_implementation="sdpa"
        )
        if not family.startswith("qwen2"):
            _stir_zeros(model)
    model.generation_config.eos_token_id = words.convert_tokens_to_ids(END)
    return model.eval()


def _stir_zeros(model: torch.nn.Module) -> None:
    """Gives weights to what starts at zero (biases, position embeddings): a zero hides that it was left out."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0.0, 0.1)


@lru_cache
def stock(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """The stock model, untouched: the oracle."""
    with torch.inference_mode(
        False
    ):  # cached: its weights must not become inference tensors for good
        return build(family, dtype)


@lru_cache
def ours(
    family: str, dtype: torch.dtype = torch.float32, positions: str = "reference"
) -> HFVideoModel:
    """The same weights behind the adapter."""
    return HFVideoModel(build(family, dtype), processor(family), positions)


def save(family: str, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes model and processor so that the Auto classes load them from the folder."""
    build(family, dtype).save_pretrained(folder)
    processor(family).save_pretrained(folder)


def frames(count: int = 14, seed: int = 0, size: tuple[int, int] = (64, 64)) -> Frames:
    """Random pictures, one a second."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, *size, 3), generator=generator, dtype=torch.uint8)
    return Frames(
        pixels, torch.arange(count, dtype=torch.float64), 4.0, float(count), "random.mp4", "pyav"
    )


def metadata(video: Frames) -> VideoMetadata:
    """The file's own times as transformers' processors take them: second = index / fps, whatever the spacing.

    A new one for each call: processors write into it. `total_num_frames` only serves Qwen2.5-VL, which divides the
    number of indices by it to get the sampled rate.
    """
    seconds = video.seconds.tolist()
    spacing = (seconds[-1] - seconds[0]) / (len(seconds) - 1) if len(seconds) > 1 else 1 / video.fps
    return VideoMetadata(
        total_num_frames=len(seconds) * spacing,
        fps=1.0,
        frames_indices=seconds,
        duration=video.duration,
    )


def stock_inputs(
    family: str,
    video: Frames,
    question: str = "What is shown?",
    instead: ProcessorMixin | None = None,
    unwrapped: bool = False,
) -> BatchFeature:
    """The whole prompt as a user of the stock model prepares it: one video, one question, the answer's start.

    Args:
        family: whose processor is used.
        video: any frames.
        question: the text behind them.
        instead: another processor of that family, such as one that was loaded from a folder.
        unwrapped: Qwen3-VL's prompt as transformers 4 made it: no vision marks around all frames, only around each.
    """
    stock_processor = processor(family) if instead is None else instead
    content = [{"type": "video"}, {"type": "text", "text": question}]
    text = stock_processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    if unwrapped and family.startswith("qwen3_vl"):
        text = text.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>")
    with warnings.catch_warnings():
        # Glm4vProcessor hands a tensor to np.array, which torch 2.13 answers with a warning from numpy.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        return stock_processor(
            text=[text],
            videos=[video.pixels.permute(0, 3, 1, 2)],
            videos_kwargs={"do_sample_frames": False, "video_metadata": [metadata(video)]},
            return_tensors="pt",
        )
