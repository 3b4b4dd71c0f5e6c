"""Frames and text through a stock processor: the whole prompt without pixels, then the pixels chunk by chunk.

The prompt depends on the size that the whole video's frames are brought to, and some families choose that size from
the number of frames. So the video processor first runs on frames without content (the meta device), which tells sizes
and text; later each chunk's frames are brought to that size and processed alone. Memory does not grow with the video.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.image_utils import PILImageResampling, SizeDict
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from x2l.frames import SampledFrames
from x2l.models.families import Family
from x2l.video import VideoError

_TEXT = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids", "video_metadata")
# Processors and tokenizers keep state while they run, and a worker thread prepares chunks beside the main one.
one_at_a_time = threading.RLock()
_BLOCK = 16  # frames looked at together where the processor drops tokens by their pixels


@dataclass(frozen=True)
class Expanded:
    """The prompt of a whole video.

    Attributes:
        input_ids: `(tokens,)`.
        visual: `(tokens,)` bool: placeholders of frames, and newlines that are compressed as the last of their row.
        region: span of tokens that the video expanded to, up to the text it shares with the question.
        grid: visual tokens as (time steps, rows, columns), before the processor drops any.
        kept: `(steps, rows * columns)` bool: False where the processor drops a token.
        grid_thw: the processor's own grid in patches, `(1, 3)`; None for families of one fixed size.
        sampled_fps: frames a second, on average.
    """

    input_ids: Tensor
    visual: Tensor
    region: tuple[int, int]
    grid: tuple[int, int, int]
    kept: Tensor
    grid_thw: Tensor | None
    sampled_fps: float

    @property
    def counts(self) -> tuple[int, ...]:
        """Visual tokens of each time step."""
        return tuple(self.kept.sum(dim=1).tolist())


def temporal_patch(processor: Any) -> int:
    """Frames that make one time step."""
    return int(getattr(processor.video_processor, "temporal_patch_size", None) or 1)


def _metadata(frames: SampledFrames, first: int = 0, last: int | None = None) -> VideoMetadata:
    """Tells the processor the file's own times: at one frame a second, a frame's number is its time.

    Made anew for every call, because processors write into it.
    """
    seconds = frames.seconds[first:last].tolist()
    return VideoMetadata(
        total_num_frames=len(seconds) * _spacing(frames),  # type: ignore[arg-type]  # in frames of one second
        fps=1.0,
        frames_indices=seconds,
        duration=frames.duration,
    )


def _spacing(frames: SampledFrames) -> float:
    count = len(frames.seconds)
    spacing = (
        float(frames.seconds[-1] - frames.seconds[0]) / (count - 1)
        if count > 1
        else 1.0 / frames.fps
    )
    if spacing <= 0:
        raise VideoError(frames.path, "its timestamps do not increase; re-encode the file")
    return spacing


def options(processor: Any, rule: str) -> dict[str, Any]:
    """Settings of every call to the video processor, under the positions rule `reference` or `hf`."""
    settings: dict[str, Any] = {"do_sample_frames": False}
    if hasattr(processor.video_processor, "cap_pixels_per_frame"):
        # Checkpoints from before the setting existed leave it unset: their reference code caps the pixels of a frame by
        # the number of frames, transformers 5 does not.
        cap = processor.video_processor.cap_pixels_per_frame
        settings["cap_pixels_per_frame"] = rule == "reference" if cap is None else cap
    return settings


def turn(processor: Any, family: Family, text: str, rule: str) -> str:
    """One user turn of a video and a text, as the model's chat template writes it."""
    content = [{"type": "video"}, {"type": "text", "text": text}]
    written = str(
        processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
    )
    if family.wrapper is not None and rule == "reference":
        before, after = family.wrapper
        written = written.replace(f"{before}{processor.video_token}{after}", processor.video_token)
    if written.count(processor.video_token) != 1:
        raise ValueError(
            f"model.name_or_path: its chat template writes the video placeholder {processor.video_token!r} "
            f"{written.count(processor.video_token)} times for one video; it must write it once"
        )
    return written


def _contentless(
    processor: Any, frames: SampledFrames, settings: dict[str, Any]
) -> tuple[dict[str, Any], VideoMetadata]:
    """What the video processor would give for the whole video, with the shapes right and no content."""
    count, height, width, _ = frames.shape
    metadata = _metadata(frames)
    try:
        outputs = processor.video_processor(
            videos=[torch.empty(count, 3, height, width, dtype=torch.uint8, device="meta")],
            video_metadata=[metadata],
            return_metadata=True,
            return_tensors="pt",
            do_rescale=False,
            do_normalize=False,  # looks at values
            resample=PILImageResampling.BICUBIC,  # any: LANCZOS needs pixels, and complains
            **({"use_token_compression": False} if _drops(processor) else {}),
            **settings,
        )
    except ValueError as error:
        step = temporal_patch(processor)
        remedy = f"; give it {step} frames or more" if count < step else ""
        raise VideoError(
            frames.path, f"the model's processor refuses it: {error}{remedy}"
        ) from error
    hollow = {
        name: torch.zeros(1, dtype=value.dtype).expand(value.shape)
        if isinstance(value, Tensor) and value.is_meta
        else value
        for name, value in outputs.items()
    }
    return hollow, outputs["video_metadata"][0]


def _drops(processor: Any) -> bool:
    return bool(getattr(processor.video_processor, "use_token_compression", False))


def _fixed_grid(total: int, steps: int) -> tuple[int, int, int]:
    """Grid of a family whose processor names none: its frames are square."""
    area = total // steps
    side = math.isqrt(area)
    return (steps, side, side) if side * side == area else (steps, 1, area)


def expand(
    processor: Any, family: Family, frames: SampledFrames, text: str, settings: dict[str, Any]
) -> Expanded:
    """The prompt of a whole video.

    Args:
        processor: the stock processor.
        family: what its family needs.
        frames: the video.
        text: the user's turn, with the placeholder, from `turn`.
        settings: of the video processor, from `options`.

    Raises:
        VideoError: the frames' times do not increase, so that positions would be wrong, or the processor refuses the
            pictures (their shape, for one).
    """
    outputs, metadata = _contentless(processor, frames, settings)
    steps = -(-len(frames.seconds) // temporal_patch(processor))
    grid_thw = outputs.get("video_grid_thw")
    kept = None
    if family.dropped is not None and grid_thw is not None:
        if _drops(processor):
            outputs[family.dropped] = _dropped(processor, family, frames, grid_thw, settings)
        kept = outputs[family.dropped].view(steps, -1)
    sampled_fps = float(metadata.sampled_fps)
    replacement = processor.replace_video_token(outputs, video_idx=0)
    (written,), (spans,) = processor.get_text_with_replacements(
        [text], videos_replacements=[replacement]
    )
    begin, end = spans[0]["new_span"]
    encoded = processor.tokenizer(written, return_offsets_mapping=True, return_tensors="pt")
    ids, offsets = encoded["input_ids"][0], encoded["offset_mapping"][0]
    end -= len(family.outro)
    inside = (offsets[:, 0] >= begin) & (offsets[:, 1] <= end) & (offsets[:, 1] > offsets[:, 0])
    within = inside.nonzero()[:, 0]
    region = (int(within[0]), int(within[-1]) + 1)
    visual = (ids == _placeholder(processor, ids[region[0] : region[1]])) & inside
    if family.newline:
        visual[visual.nonzero()[-family.newline :, 0]] = False
    if grid_thw is None:
        grid = _fixed_grid(int(visual.sum()), steps)
    else:
        merge = int(processor.video_processor.merge_size)
        grid = (steps, int(grid_thw[0, 1]) // merge, int(grid_thw[0, 2]) // merge)
    if (row_end := getattr(processor, "row_end_token_id", None)) is not None:
        visual |= (ids == row_end) & inside
        grid = (*grid[:2], grid[2] + 1)
    if kept is None:
        kept = torch.ones(steps, grid[1] * grid[2], dtype=torch.bool)
    return Expanded(ids, visual, region, grid, kept, grid_thw, sampled_fps)


def _placeholder(processor: Any, ids: Tensor) -> int:
    """The token that stands for a piece of a frame: some families take the one of images."""
    for name in ("video_token_id", "image_token_id"):
        token = getattr(processor, name, None)
        if token is not None and bool((ids == token).any()):
            return int(token)
    raise RuntimeError(
        f"{type(processor).__name__} expanded the video to text without any visual placeholder"
    )


def looked_at(span: tuple[int, int], family: Family) -> tuple[int, int]:
    """The frames that processing some frames needs to see."""
    return max(0, span[0] - family.lookback), span[1]


def chunk_inputs(
    processor: Any,
    family: Family,
    frames: SampledFrames,
    pixels: Tensor,
    span: tuple[int, int],
    grid_thw: Tensor | None,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """The visual inputs of the stock model for frames [first, last).

    Frames are brought to the size that the whole video asked for (`grid_thw`, in patches), not to one that the
    processor would choose for these few.

    Args:
        processor: the stock processor.
        family: what its family needs.
        frames: the video.
        pixels: of the frames of `looked_at(span, family)`.
        span: first, last.
        grid_thw: of the whole video; None for families of one fixed size.
        settings: of the video processor, from `options`.
    """
    first, last = span
    start, _ = looked_at(span, family)
    pixels = pixels.permute(0, 3, 1, 2)
    settings = dict(settings)
    if grid_thw is not None:
        vp = processor.video_processor
        size = SizeDict(
            height=int(grid_thw[0, 1]) * vp.patch_size, width=int(grid_thw[0, 2]) * vp.patch_size
        )
        pixels = BaseVideoProcessor.resize(vp, pixels, size, resample=vp.resample)
        settings["do_resize"] = False
    metadata = _metadata(frames, start, last)
    with one_at_a_time:
        outputs = processor(
            text=[processor.video_token],
            videos=[pixels],
            videos_kwargs={"video_metadata": [metadata], "return_tensors": "pt", **settings},
        )
    inputs = {name: value for name, value in outputs.items() if name not in _TEXT}
    if start < first and family.trim is not None:
        inputs = family.trim(inputs, first - start)
    return inputs


def _dropped(
    processor: Any,
    family: Family,
    frames: SampledFrames,
    grid_thw: Tensor,
    settings: dict[str, Any],
) -> Tensor:
    """Which visual tokens of the whole video the processor keeps, looked at block by block."""
    count = len(frames.seconds)
    spans = [(first, min(first + _BLOCK, count)) for first in range(0, count, _BLOCK)]
    blocks = frames.blocks([looked_at(span, family) for span in spans])
    parts = []
    for span, pixels in zip(spans, blocks, strict=True):
        inputs = chunk_inputs(processor, family, frames, pixels, span, grid_thw, settings)
        parts.append(inputs[family.dropped or ""])
    return torch.cat(parts)
