"""One adapter for stock Hugging Face video language models. No modeling code is copied or changed.

A pre-hook on the decoder shows what the language model would receive for a chunk; then the decoder itself is called
with those embeddings, explicit positions and a cache. What differs between families lies in one small file each.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.video_utils import VideoMetadata

from x2l.chunks import Chunk, Prompt, Question
from x2l.kv import LayerKV
from x2l.models import qwen_vl
from x2l.models.attention import Watch, attending, register
from x2l.models.base import Embedded, ModelShape, VideoModel
from x2l.models.cache import BufferCache
from x2l.models.positions import after_video, mrope_video
from x2l.video import Frames, VideoError

POSITION_RULES = ("reference", "hf")


class _Captured(Exception):  # noqa: N818 - not an error: it stops a forward once its inputs are known
    def __init__(self, kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.kwargs = kwargs


def _capture(hf: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """What the language model would receive for these inputs; the language model itself does not run."""

    def stop(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        raise _Captured(kwargs)

    handle = hf.get_decoder().register_forward_pre_hook(stop, with_kwargs=True)
    try:
        hf(**inputs)
    except _Captured as captured:
        return captured.kwargs
    finally:
        handle.remove()
    raise RuntimeError(
        f"{type(hf).__name__}.get_decoder() was not called in its forward: this model cannot be chunked"
    )


def _rope_function(decoder: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The decoder's own RoPE on one tensor: (x `(B, H, T, D)`, cos, sin `(B, T, D)`) -> x."""
    function = sys.modules[type(decoder).__module__].apply_rotary_pos_emb
    if list(inspect.signature(function).parameters)[:2] == ["q", "k"]:
        return lambda x, cos, sin: function(x, x[:, :1], cos, sin)[0]
    return function


class HFVideoModel(VideoModel):
    """A stock Hugging Face video language model. Final; `loading.load` makes one from a name."""

    def __init__(self, hf: Any, processor: Any, positions: str = "reference") -> None:
        """Wraps a loaded model and its processor; the model's text attention is switched to ours.

        Args:
            hf: a `...ForConditionalGeneration`.
            processor: its processor.
            positions: `reference` or `hf`, see `models/positions.py`.

        Raises:
            ValueError: an unknown rule, or a model family that is not supported.
        """
        if positions not in POSITION_RULES:
            raise ValueError(
                f"model.positions={positions!r}: must be one of {POSITION_RULES}; use 'reference'"
            )
        if hf.config.model_type not in qwen_vl.MODEL_TYPES:
            raise ValueError(
                f"model.name_or_path: a checkpoint of model type {hf.config.model_type!r} is not supported; "
                f"use one of type {qwen_vl.MODEL_TYPES}"
            )
        text = hf.config.get_text_config()
        kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise ValueError(
                f"model.name_or_path: layers of type {sorted(kinds - {'full_attention'})} "
                "cannot be compressed by chunk; "
                "use a checkpoint whose layers all have full attention (for Qwen: use_sliding_window=false)"
            )
        self.hf, self.processor, self.positions_rule = hf.eval(), processor, positions
        self.decoder = hf.get_decoder()
        self.decoder.set_attn_implementation(register())
        self._rope = _rope_function(self.decoder)
        self.device = self.decoder.embed_tokens.weight.device
        self.dtype = self.decoder.embed_tokens.weight.dtype
        self.axes = 3
        self.temporal_patch = int(hf.config.vision_config.temporal_patch_size)
        self.shape = ModelShape(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None)
            or text.hidden_size // text.num_attention_heads,
            intermediate=text.intermediate_size,
            vocabulary=text.vocab_size,
            kv_itemsize=self.dtype.itemsize,
            vision=qwen_vl.vision_shape(hf.config),
        )

    # --- prompt -------------------------------------------------------------------------------------------------

    def _turn(self, text: str) -> str:
        content = [{"type": "video"}, {"type": "text", "text": text}]
        messages = [{"role": "user", "content": content}]
        return str(
            self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )

    def process(self, frames: Frames, text: str) -> dict[str, Any]:
        """The whole prompt as the stock processor prepares it: ids, pixels, grid, seconds a step.

        Raises:
            VideoError: the frames' times do not increase, so that positions would be wrong, or the
                processor refuses the pictures (their shape, for one).
        """
        count = len(frames.seconds)
        spacing = (
            float(frames.seconds[-1] - frames.seconds[0]) / (count - 1)
            if count > 1
            else 1.0 / frames.fps
        )
        if spacing <= 0:
            raise VideoError(frames.path, "its timestamps do not increase; re-encode the file")
        metadata = VideoMetadata(
            total_num_frames=count, fps=1.0 / spacing, frames_indices=list(range(count))
        )
        cap = self.processor.video_processor.cap_pixels_per_frame
        try:
            inputs = self.processor(
                text=[self._turn(text)],
                videos=[frames.pixels.permute(0, 3, 1, 2)],
                videos_kwargs={
                    "do_sample_frames": False,
                    "video_metadata": [metadata],
                    # Checkpoints from before the setting existed leave it unset; their reference code caps.
                    "cap_pixels_per_frame": True if cap is None else cap,
                },
                return_tensors="pt",
            )
        except ValueError as error:
            raise VideoError(frames.path, f"the model's processor refuses it: {error}") from error
        return dict(inputs)

    def prompt(self, frames: Frames, chunk_frames: int) -> Prompt:
        """Prepares a video and the text before it, cut into chunks of `chunk_frames` frames.

        Raises:
            ValueError: `chunk_frames` is not a positive multiple of the temporal patch.
        """
        if chunk_frames < 1 or chunk_frames % self.temporal_patch:
            raise ValueError(
                f"prefill.chunk_frames={chunk_frames}: must be a positive multiple of the model's temporal patch "
                f"({self.temporal_patch} frames make one time step)"
            )
        inputs = self.process(frames, "")
        ids, config = inputs["input_ids"][0], self.hf.config
        visual_at = (ids == config.video_token_id).nonzero()[:, 0]
        prefix, stop = int(visual_at[0]), int(visual_at[-1]) + 1
        if stop - prefix != len(visual_at):
            raise RuntimeError("text inside the video span: not expected of this model family")
        visual = {
            k: v
            for k, v in inputs.items()
            if k not in ("input_ids", "attention_mask", "mm_token_type_ids")
        }
        grid = qwen_vl.merged_grid(visual, config)
        video = mrope_video(prefix, grid, qwen_vl.time_interval(visual, config))
        place = after_video(prefix, grid, int(video[0, -1]), self.positions_rule)
        positions = torch.cat([torch.arange(prefix).expand(3, -1), video], dim=1)
        return Prompt(
            input_ids=ids[:stop],
            positions=positions,
            prefix=prefix,
            chunks=self._chunks(frames, grid, positions, prefix, chunk_frames),
            next_position=place.next_position,
            video_end=place.video_end,
            visual=visual,
        )

    def _chunks(
        self,
        frames: Frames,
        grid: tuple[int, int, int],
        positions: Tensor,
        prefix: int,
        chunk_frames: int,
    ) -> tuple[Chunk, ...]:
        steps, rows, columns = grid
        area, times = rows * columns, frames.seconds.tolist()
        count = len(times)
        last = (
            times[-1] + (times[-1] - times[0]) / (count - 1)
            if count > 1
            else times[-1] + 1.0 / frames.fps
        )
        chunks = []
        for index, first in enumerate(range(0, count, chunk_frames)):
            after = min(first + chunk_frames, count)
            step, step_after = first // self.temporal_patch, -(-after // self.temporal_patch)
            start, stop = prefix + step * area, prefix + step_after * area
            chunks.append(
                Chunk(
                    index=index,
                    start=start,
                    stop=stop,
                    frames=(first, after),
                    seconds=(times[first], times[after] if after < count else last),
                    frame_seconds=tuple(times[first:after]),
                    is_visual=torch.ones(stop - start, dtype=torch.bool),
                    grid=(step_after - step, rows, columns),
                    positions=positions[:, start:stop],
                )
            )
        assert chunks[-1].stop == prefix + steps * area
        return tuple(chunks)

    def question(self, text: str) -> Question:
        """The tokens of the user's turn after the video.

        Raises:
            ValueError: the text holds the model's video placeholder.
        """
        marker = self.processor.video_token
        if marker in text:
            raise ValueError(
                f"question={text!r}: must not contain the model's video placeholder {marker!r}"
            )
        suffix = self._turn(text).rpartition(marker)[2]
        encoded = self.processor.tokenizer(suffix, add_special_tokens=False, return_tensors="pt")
        return Question(text, encoded["input_ids"][0])

    def decode_text(self, token_ids: list[int]) -> str:
        """Text of generated tokens, special tokens left out."""
        return str(self.processor.tokenizer.decode(token_ids, skip_special_tokens=True)).strip()

    @property
    def end_tokens(self) -> frozenset[int]:
        """Token ids that end an answer."""
        ends = self.hf.generation_config.eos_token_id
        tokens = [ends] if isinstance(ends, int) else list(ends or [])
        return frozenset([*tokens, self.processor.tokenizer.eos_token_id])

    # --- forward ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def embed_chunk(self, prompt: Prompt, chunk: Chunk) -> Embedded:
        """Runs the vision tower for one chunk."""
        area = chunk.grid[1] * chunk.grid[2]
        first = (chunk.start - prompt.prefix) // area
        inputs = qwen_vl.chunk_inputs(prompt.visual, first, first + chunk.grid[0])
        grid = tuple(int(n) for n in inputs["video_grid_thw"][0])
        received = _capture(
            self.hf,
            {
                "input_ids": prompt.input_ids[None, chunk.start : chunk.stop].to(self.device),
                "position_ids": chunk.positions[:, None].to(self.device),
                **{name: tensor.to(self.device) for name, tensor in inputs.items()},
            },
        )
        return Embedded(received["inputs_embeds"], (grid[0], grid[1], grid[2]))

    @torch.no_grad()
    def embed_text(self, input_ids: Tensor) -> Embedded:
        """Embeddings of `(tokens,)` text ids."""
        return Embedded(self.hf.get_input_embeddings()(input_ids[None].to(self.device)))

    @torch.no_grad()
    def advance(
        self, embedded: Embedded, positions: Tensor, cache: BufferCache, watch: Watch | None = None
    ) -> None:
        """Runs the decoder over a span; its rotated KVs are appended to the cache."""
        with attending(watch=watch, bias=cache.bias):
            self.decoder(
                inputs_embeds=embedded.embeds,
                position_ids=positions[:, None].to(self.device),
                past_key_values=cache,
                use_cache=True,
            )

    @torch.no_grad()
    def logits(
        self, embedded: Embedded, positions: Tensor, cache: BufferCache, watch: Watch | None = None
    ) -> Tensor:
        """Like `advance`, and returns the logits after the last token, `(vocabulary,)`."""
        with attending(watch=watch, bias=cache.bias):
            out = self.hf(
                inputs_embeds=embedded.embeds,
                position_ids=positions[:, None].to(self.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return torch.as_tensor(out.logits[0, -1])

    # --- rotary positions ---------------------------------------------------------------------------------------

    def _tables(self, positions: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cos and sin `(h, T, D)` at positions `(A, h, T)`, at least in fp32 whatever the model's dtype."""
        precise = torch.float64 if self.dtype == torch.float64 else torch.float32
        like = torch.empty(0, dtype=precise, device=device)
        cos, sin = self.decoder.rotary_emb(like, positions.to(device))
        return cos, sin

    def _apply(self, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """RoPE with a table for each head (or one for all): heads stand in for the batch."""
        turned = self._rope(keys.to(cos.dtype).transpose(0, 1), cos, sin)
        return turned.transpose(0, 1).to(keys.dtype)

    @torch.no_grad()
    def rotate(self, layer: LayerKV) -> Tensor:
        """Keys `(1, H, T, D)` with RoPE at the layer's positions."""
        cos, sin = self._tables(layer.positions, layer.keys.device)
        return self._apply(layer.keys, cos, sin)

    @torch.no_grad()
    def unrotate(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Rotated keys `(1, H, T, D)` at `(A, T)` -> keys before RoPE.

        Divides by cos^2 + sin^2, which is the square of YaRN's scaling where a model has one, and removes the fp32
        rounding of the tables, so that re-rotating gives back fp64 keys to 1e-15.
        """
        cos, sin = self._tables(positions[:, None], keys.device)
        norm = cos * cos + sin * sin
        return self._apply(keys, cos / norm, -sin / norm)
