"""One adapter for stock Hugging Face video language models. No modeling code is copied or changed.

A pre-hook on the decoder shows what the language model would receive for a chunk; then the decoder itself is called
with those embeddings, explicit positions and a cache. What differs between families lies in families.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from x2l.frames import SampledFrames
from x2l.kv import LayerKV
from x2l.models.attention import AttentionCapture, CapturedEnough, attending, register
from x2l.models.decoder_inputs import decoder_inputs, last_token_only
from x2l.models.devices import input_device, layer_devices
from x2l.models.families import FAMILIES
from x2l.models.fingerprint import fingerprint
from x2l.models.flop_counter import counted_attention, flop_counter, work
from x2l.models.interface import Embedded, NotFiniteError, VideoModel
from x2l.models.kv_cache import BufferCache
from x2l.models.positions import Placement
from x2l.models.processing import (
    Expanded,
    chunk_inputs,
    expand,
    looked_at,
    one_at_a_time,
    options,
    temporal_patch,
    turn,
)
from x2l.models.prompt import Chunk, Prompt, Question
from x2l.models.rotary import Rotary, check_rope, fixed_positions
from x2l.models.shape import model_shape
from x2l.models.summary_tokens import summarising
from x2l.models.time_steps import step_starts
from x2l.models.transformers_version import CACHE

POSITION_RULES = ("reference", "hf")


def check_supported(config: Any) -> None:
    """Refuses what has not been shown to equal the stock model; needs the configuration only.

    Raises:
        ValueError: another model type, a text model that it was not shown to be right around, layers without full
            attention, or RoPE tables that cannot be relied on.
    """
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    windowed = getattr(text, "layer_types", None) is None and getattr(text, "sliding_window", None)
    if windowed and getattr(text, "use_sliding_window", True):
        kinds = {"sliding_attention"}
    if kinds != {"full_attention"}:
        raise ValueError(
            f"model.name_or_path: this model of type {config.model_type!r} has layers of type "
            f"{sorted(kinds - {'full_attention'})}, whose state cannot be kept and re-loaded by chunk; "
            "use a checkpoint whose layers all have full attention (for Qwen2: use_sliding_window=false)"
        )
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"model.name_or_path: a checkpoint of model type {config.model_type!r} is not supported; "
            f"use one of type {tuple(FAMILIES)}"
        )
    around = FAMILIES[config.model_type].text
    if text.model_type not in around:
        raise ValueError(
            f"model.name_or_path: {config.model_type!r} around a text model of type {text.model_type!r} has not been "
            f"shown to equal the stock model chunk by chunk; use one around {' or '.join(around)}"
        )
    check_rope(text)


class HFVideoModel(VideoModel):
    """A stock Hugging Face video language model. Final; `loading.load` makes one from a name."""

    def __init__(self, hf: Any, processor: Any, positions: str = "reference") -> None:
        """Wraps a loaded model and its processor; the model's text attention is switched to ours.

        Args:
            hf: a `...ForConditionalGeneration`.
            processor: its processor.
            positions: `reference`: prompt and positions as the published models were trained with; `hf`: as
                transformers 5 makes them, see `models/positions.py` and `models/families.py`.

        Raises:
            ValueError: an unknown rule, or a model that is not supported.
        """
        if positions not in POSITION_RULES:
            raise ValueError(
                f"model.positions={positions!r}: must be one of {POSITION_RULES}; use 'reference'"
            )
        check_supported(hf.config)
        self.hf, self.processor, self.positions_rule = hf.eval(), processor, positions
        self.family = FAMILIES[hf.config.model_type]
        if outro := getattr(processor, "outro", ""):  # where it depends on the checkpoint
            self.family = replace(self.family, outro=outro)
        self.decoder = hf.get_decoder()
        self.decoder.set_attn_implementation(register(self.decoder.config._attn_implementation))
        self.device, self.dtype = input_device(hf), hf.get_input_embeddings().weight.dtype
        if self.dtype == torch.float64:  # torch's grouped product of experts knows none
            self.decoder.set_experts_implementation("eager")
        self.axes = 3 if hasattr(hf.model, "get_rope_index") else 1
        self.temporal_patch = temporal_patch(processor)
        self.options = options(processor, positions)
        self.rotary = Rotary(self.decoder, self.axes, self.dtype)
        self.fixed = fixed_positions(self.decoder.config)
        self.scaling = float(self.decoder.layers[0].self_attn.scaling)
        self.has_summary_tokens = self.family.summary is not None
        self.shape = model_shape(hf.config.get_text_config(), self.dtype.itemsize)
        self._vision_flops: dict[Any, int] = {}  # a memo: what a chunk of this work takes

    @property
    def fingerprint(self) -> str:
        """A hash of weights, configuration, processor and arithmetic; reads all weights every time.

        Raises:
            UntoldWeights: see `fingerprint.fingerprint`.
        """
        return fingerprint(self.hf, self.processor, (self.positions_rule, self.options))

    @property
    def layer_devices(self) -> tuple[torch.device, ...]:
        """The device of each decoder layer."""
        return layer_devices(self.hf)

    # --- prompt -------------------------------------------------------------------------------------------------

    def prompt(self, frames: SampledFrames, chunk_frames: int) -> Prompt:
        """Prepares a video and the text before it, cut into chunks of `chunk_frames` frames.

        Raises:
            ValueError: `chunk_frames` is not a positive multiple of the temporal patch.
            VideoError: the processor refuses the pictures, or their times do not increase.
        """
        if chunk_frames < 1 or chunk_frames % self.temporal_patch:
            raise ValueError(
                f"prefill.chunk_frames={chunk_frames}: must be a positive multiple of the model's temporal patch "
                f"({self.temporal_patch} frames make one time step)"
            )
        text = turn(self.processor, self.family, "", self.positions_rule)
        video = expand(self.processor, self.family, frames, text, self.options)
        starts = step_starts(
            video.input_ids.tolist(),
            video.visual,
            video.counts,
            video.region,
            self.family.label_follows,
        )
        positions, place = self._positions(video)
        stop = video.region[1]
        return Prompt(
            input_ids=video.input_ids[:stop],
            positions=positions[:, :stop],
            prefix=starts[0],
            chunks=_chunks(video, starts, positions, frames, chunk_frames, self.temporal_patch),
            next_position=place.next_position,
            video_end=place.video_end,
            visual={"frames": frames, "grid_thw": video.grid_thw},
            space_follows_time=self.family.space_follows_time,
        )

    def _positions(self, video: Expanded) -> tuple[Tensor, Placement]:
        """`(A, tokens)` positions of the whole prompt, and where the text after the video goes."""
        stop, total = video.region[1], len(video.input_ids)
        if self.axes == 1:
            return torch.arange(total)[None], Placement(stop, stop)
        if self.family.positions is not None:
            base = int(video.visual.nonzero()[0, 0])
            of_video, place = self.family.positions(
                self.hf.config, video.grid, base, video.sampled_fps, self.positions_rule
            )
            before = torch.arange(base).expand(3, -1)
            after = torch.arange(total - stop).expand(3, -1) + place.next_position
            return torch.cat([before, of_video, after], dim=1), place
        kinds = self.processor.create_mm_token_type_ids([video.input_ids.tolist()])
        whole, _ = self.hf.model.get_rope_index(
            video.input_ids[None],
            torch.tensor(kinds),
            video_grid_thw=video.grid_thw,
        )
        next_position = int(whole[0, 0, stop])
        return whole[:, 0], Placement(next_position, next_position)

    def question(self, text: str) -> Question:
        """The tokens of the user's turn after the video.

        Raises:
            ValueError: the text holds one of the model's visual placeholders.
        """
        for marker in (self.processor.video_token, self.processor.image_token):
            if marker in text:
                raise ValueError(
                    f"question={text!r}: must not contain the model's visual placeholder {marker!r}"
                )
        written = turn(self.processor, self.family, text, self.positions_rule)
        suffix = self.family.outro + written.rpartition(self.processor.video_token)[2]
        ids, characters = self._encoded(suffix)
        shift = suffix.rfind(
            text
        )  # a template may change the text; then no token is known to be of it
        return Question(text, ids, characters - shift if shift >= 0 else characters * 0)

    def _encoded(self, text: str) -> tuple[Tensor, Tensor]:
        """Tokens of a text inside a prompt, `(tokens,)`, and the characters of each, `(tokens, 2)`.

        Behind a special token, as in the prompt: some tokenizers begin a text with a space, but not there.
        """
        marker, token = self.processor.image_token, self.processor.image_token_id
        with one_at_a_time:
            encoded = self.processor.tokenizer(
                marker + text,
                add_special_tokens=False,
                return_offsets_mapping=True,
                return_tensors="pt",
            )
        ids = encoded["input_ids"][0]
        first = int((ids == token).nonzero()[0, 0]) + 1
        return ids[first:], encoded["offset_mapping"][0, first:] - len(marker)

    def text_tokens(self, text: str) -> Tensor:
        """The tokens of a text that stands inside a prompt, `(tokens,)`."""
        return self._encoded(text)[0]

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

    def looked_at(self, chunk: Chunk) -> tuple[int, int]:
        """The frames that processing a chunk needs to see."""
        return looked_at(chunk.frames, self.family)

    def visual_inputs(self, prompt: Prompt, chunk: Chunk, pixels: Tensor) -> dict[str, Any]:
        """Runs the processor on a chunk's frames."""
        frames, grid_thw = prompt.visual["frames"], prompt.visual["grid_thw"]
        return chunk_inputs(
            self.processor, self.family, frames, pixels, chunk.frames, grid_thw, self.options
        )

    @torch.no_grad()
    def embed_chunk(
        self, prompt: Prompt, chunk: Chunk, inputs: Mapping[str, Any] | None = None
    ) -> Embedded:
        """Runs the vision tower on a chunk's frames."""
        if inputs is None:
            (pixels,) = prompt.visual["frames"].blocks([self.looked_at(chunk)])
            inputs = self.visual_inputs(prompt, chunk, pixels)
        ids = prompt.input_ids[chunk.start : chunk.stop]
        if chunk.index + 1 < len(prompt.chunks) and self.family.newline:
            # The stock forward ends every call with the newlines of a whole video; only the last chunk keeps them.
            ids = torch.cat([ids, ids[chunk.is_visual][:1].expand(self.family.newline)])
        stock_inputs = {
            "input_ids": ids[None],
            # Only so that the model does not infer any: positions do not reach the embeddings.
            "position_ids": torch.zeros((self.axes, 1, len(ids)), dtype=torch.long),
            **inputs,
        }
        if self.axes == 1:
            stock_inputs["position_ids"] = stock_inputs["position_ids"][0]
        placed = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in stock_inputs.items()
        }
        received, flops = self._captured(placed)
        extras = {name: received[name] for name in self.family.extras}
        return Embedded(received["inputs_embeds"][:, : chunk.tokens], extras, flops)

    def _captured(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """What the decoder would receive, and the operations until there."""
        key = work(inputs)
        if key in self._vision_flops:
            return decoder_inputs(self.hf, inputs), self._vision_flops[key]
        with counted_attention(self.hf), flop_counter() as counter:
            received = decoder_inputs(self.hf, inputs)
        self._vision_flops[key] = counter.get_total_flops()
        return received, self._vision_flops[key]

    @torch.no_grad()
    def embed_text(self, input_ids: Tensor) -> Embedded:
        """Embeddings of `(tokens,)` text ids."""
        return Embedded(self.hf.get_input_embeddings()(input_ids[None].to(self.device)))

    @torch.no_grad()
    def with_summary_tokens(self, embedded: Embedded, at: Tensor) -> Embedded:
        """The same span with summary tokens between its own, at indices `(n,)` of the longer span."""
        if self.family.summary is None:
            raise ValueError(
                f"a model of type {self.hf.config.model_type!r} has no summary tokens; use model=video_xl_7b"
            )
        raw, device = embedded.embeds[0], embedded.embeds.device
        is_summary = torch.zeros(len(raw) + len(at), dtype=torch.bool)
        is_summary[at] = True
        same = torch.zeros(
            len(at), dtype=torch.long, device=device
        )  # one embedding for all of them
        longer = raw.new_empty(len(is_summary), raw.shape[1])
        longer[(~is_summary).nonzero()[:, 0].to(device)] = raw
        longer[at.to(device)] = self.family.summary(self.hf)(same).to(raw)
        return replace(embedded, embeds=longer[None], is_summary=is_summary)

    def _placed(self, positions: Tensor) -> Tensor:
        """Positions `(A, T)` or `(A, B, T)` as the stock model takes them: `(3, B, T)` or `(B, T)`."""
        if self.fixed is not None and int(positions.max()) >= self.fixed:
            raise ValueError(
                f"position {int(positions.max())}: beyond the {self.fixed} that this model's dynamic RoPE is fixed "
                "for; keys in the cache would be wrong; use fewer frames"
            )
        at = positions.to(self.device)
        rows = at[:, None] if at.ndim == 2 else at
        return rows if self.axes == 3 else rows[0]

    @torch.no_grad()
    def prefill_span(
        self,
        embedded: Embedded,
        positions: Tensor,
        cache: BufferCache,
        capture: AttentionCapture | None = None,
    ) -> None:
        """Runs the decoder over a span; its rotated KVs are appended to the cache."""
        scopes = attending(capture=capture, bias=cache.bias), summarising(embedded.is_summary)
        with suppress(CapturedEnough), scopes[0], scopes[1]:
            self.decoder(
                inputs_embeds=embedded.embeds,
                position_ids=self._placed(positions),
                use_cache=True,
                **{CACHE: cache},
                **embedded.extras,
            )

    @torch.no_grad()
    def logits(
        self,
        embedded: Embedded,
        positions: Tensor,
        cache: BufferCache,
        capture: AttentionCapture | None = None,
    ) -> Tensor:
        """Like `prefill_span`, and returns the logits after the last token, `(B, vocabulary)`."""
        with attending(capture=capture, bias=cache.bias), last_token_only(self.hf):
            out = self.hf(
                inputs_embeds=embedded.embeds,
                position_ids=self._placed(positions),
                use_cache=True,
                **{CACHE: cache},
            )
        logits = torch.as_tensor(out.logits[:, -1])
        if not (finite := logits.isfinite()).all():
            dtype = str(self.dtype).removeprefix("torch.")
            other = "bfloat16" if self.dtype == torch.float16 else "float32"
            raise NotFiniteError(
                f"model.dtype={dtype}: {int((~finite).sum())} of {logits.numel()} logits are NaN or infinite, so there "
                f"is no answer to read; set model.dtype={other}, or fetch the checkpoint again if its weights are "
                "damaged"
            )
        return logits

    @torch.no_grad()
    def rotate(self, layer: LayerKV) -> Tensor:
        """Keys `(1, H, T, D)` with RoPE at the layer's positions."""
        return self.rotary.rotate(layer)

    @torch.no_grad()
    def apply_rope(self, vectors: Tensor, positions: Tensor) -> Tensor:
        """Vectors `(1, heads, T, D)` with RoPE at `(A, T)`."""
        return self.rotary.apply_rope(vectors, positions)

    @torch.no_grad()
    def unrotate(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Rotated keys `(1, H, T, D)` at `(A, T)` -> keys before RoPE."""
        return self.rotary.unrotate(keys, positions)


def _chunks(
    video: Expanded,
    starts: tuple[int, ...],
    positions: Tensor,
    frames: SampledFrames,
    chunk_frames: int,
    patch: int,
) -> tuple[Chunk, ...]:
    """Cuts the prompt at the first token of every `chunk_frames / patch`-th time step."""
    times = frames.seconds.tolist()
    count, ends = len(times), [*starts[1:], video.region[1]]
    last = (
        times[-1] + (times[-1] - times[0]) / (count - 1)
        if count > 1
        else max(times[-1] + 1.0 / frames.fps, frames.duration)
    )
    chunks = []
    for index, first in enumerate(range(0, count, chunk_frames)):
        after = min(first + chunk_frames, count)
        step, step_after = first // patch, -(-after // patch)
        start, stop = starts[step], ends[step_after - 1]
        visual = video.visual[start:stop]
        whole = bool(video.kept[step:step_after].all())
        grid = (step_after - step, *video.grid[1:]) if whole else (1, 1, int(visual.sum()))
        chunks.append(
            Chunk(
                index=index,
                start=start,
                stop=stop,
                frames=(first, after),
                seconds=(times[first], times[after] if after < count else last),
                frame_seconds=tuple(times[first:after]),
                is_visual=visual,
                grid=grid,
                steps=video.counts[step:step_after],
                positions=positions[:, start:stop],
            )
        )
    return tuple(chunks)
