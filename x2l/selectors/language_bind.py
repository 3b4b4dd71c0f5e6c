"""LanguageBind for video (arXiv 2310.01852), the retriever of Video-X2L's authors: CLIP with attention along time.

Source: PKU-YuanGroup/LanguageBind at 7070c53, `languagebind/video/modeling_video.py` and `processing_video.py`. Its own
package is not needed: CLIP's classes hold all but what stands here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import x2l.models  # noqa: F401 - before transformers: it lets the processors import

# isort: split
import torch
from safetensors.torch import load_file
from tokenizers.normalizers import Replace, Sequence
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import (
    CLIPAttention,
    CLIPEncoderLayer,
    CLIPVisionEmbeddings,
)

from x2l.models.checkpoint import Source, explained, first_sentence, naming
from x2l.models.config_values import (
    check_counts,
    check_mapping,
    check_number,
    check_text_tower,
    check_tower,
    wrong,
)
from x2l.models.tokenizer_files import check_words

MODEL_TYPE = "LanguageBindVideo"
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_CURLY = (("\u2018", "'"), ("\u2019", "'"), ("\u201c", '"'), ("\u201d", '"'))


class LanguageBindConfig(CLIPConfig):
    """That of CLIP, under the published name; `vision_config` keeps what it has beyond CLIP's."""

    model_type = MODEL_TYPE


class FrameEmbeddings(CLIPVisionEmbeddings):
    """CLIP's, with a class embedding a frame `(T, d)` where there is one (V1.5), else one for all `(1, d)`."""

    def __init__(self, config: Any) -> None:
        """Of a vision configuration, with random weights."""
        super().__init__(config)
        rows = config.num_frames if getattr(config, "clip_type", None) == "vl_new" else 1
        self.class_embedding = nn.Parameter(torch.randn(rows, self.embed_dim))

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Frames of whole clips `(B*T, 3, H, W)` -> `(B*T, places, d)`."""
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        classes = self.class_embedding.repeat(len(patches) // len(self.class_embedding), 1)
        embedded: Tensor = torch.cat([classes[:, None], patches], dim=1)
        return embedded + self.position_embedding(self.position_ids)


class TimeLayer(CLIPEncoderLayer):
    """CLIP's layer, behind attention along time in which every place, that of the class too, sees only itself."""

    def __init__(self, config: Any) -> None:
        """Of a vision configuration, with random weights."""
        super().__init__(config)
        self.num_frames = int(config.num_frames)
        self.temporal_embedding = nn.Parameter(
            torch.zeros(1, config.num_frames, config.hidden_size)
        )
        self.temporal_attn = CLIPAttention(config)
        self.temporal_layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: Tensor, attention_mask: Any, **kwargs: Any) -> Tensor:
        """`(B*T, places, d)` -> the same."""
        places = hidden_states.shape[1]
        frames = hidden_states.unflatten(0, (-1, self.num_frames))
        # The embedding of time stays in the residual stream, in every layer.
        along = frames.transpose(1, 2).flatten(0, 1) + self.temporal_embedding
        along = along + self.temporal_attn(self.temporal_layer_norm1(along), **kwargs)[0]
        back = along.unflatten(0, (-1, places)).transpose(1, 2).flatten(0, 1)
        return super().forward(back, attention_mask, **kwargs)


class LanguageBindVideo(nn.Module):
    """Both towers. Final; has the methods of X-CLIP that `TwoTowers` uses."""

    def __init__(self, config: LanguageBindConfig) -> None:
        """Of a configuration, with random weights."""
        super().__init__()
        self.config = config
        self.clip = CLIPModel(config)
        vision = self.clip.vision_model
        vision.embeddings = FrameEmbeddings(vision.config)
        layers = range(vision.config.num_hidden_layers)
        vision.encoder.layers = nn.ModuleList([TimeLayer(vision.config) for _ in layers])

    def get_text_features(self, **inputs: Tensor) -> BaseModelOutputWithPooling:
        """Token ids `(B, length)` -> `pooler_output` `(B, dim)`."""
        return self.clip.get_text_features(**inputs)

    def get_video_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """Clips of `num_frames` frames `(B, T, 3, H, W)` -> `pooler_output` `(B, dim)`: norm, mean, projection."""
        of_frames = self.clip.vision_model(pixel_values.flatten(0, 1)).pooler_output
        pooled = of_frames.unflatten(0, pixel_values.shape[:2]).mean(dim=1)
        return BaseModelOutputWithPooling(pooler_output=self.clip.visual_projection(pooled))


@dataclass(frozen=True)
class ClipPixels:
    """Frames as the tower takes them: bilinear without antialias, unlike CLIP's own. The random flip is left out.

    Attributes:
        side: of the tower's pictures.
    """

    side: int

    def __call__(self, frames: list[Tensor], **kwargs: Any) -> dict[str, Tensor]:
        """Frames `(3, H, W)` uint8 -> `pixel_values` `(T, 3, side, side)`."""
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (_MEAN, _STD))
        pixels = (torch.stack(frames) / 255.0 - mean) / std
        height, width = pixels.shape[-2:]
        size = (self.side, int(width / height * self.side))
        if width < height:
            size = (int(height / width * self.side), self.side)
        pixels = nn.functional.interpolate(pixels, size, mode="bilinear", align_corners=False)
        top, left = (round((length - self.side) / 2) for length in size)
        return {"pixel_values": pixels[..., top : top + self.side, left : left + self.side]}


@dataclass(frozen=True)
class Processor:
    """What `TwoTowers` uses of a processor."""

    tokenizer: CLIPTokenizer
    image_processor: ClipPixels


def sampled(count: int, frames: int) -> Tensor:
    """Which of `count` frames make a clip of `frames`, `(frames,)`: spread to both ends and rounded down."""
    return torch.arange(frames) * (count - 1) // max(1, frames - 1)


def merged(state: Mapping[str, Tensor], vision: Mapping[str, Any]) -> dict[str, Tensor]:
    """Published weights under CLIP's names, adapters (LoRA) added into the matrices that they belong to.

    Args:
        state: of `LanguageBind_Video` (adapters apart), `_FT` (none) or `_V1.5` (patches as a Conv3d over one frame).
        vision: `vision_config` of its config.json.

    Raises:
        ValueError: adapters without what scales them, of another rank or of no matrix, or none where the configuration
            says that there are.
    """
    plain: dict[str, Tensor] = {}
    adapters: dict[str, dict[str, Tensor]] = {}
    for published, tensor in state.items():
        name = published.replace("encoder.base_model.model.", "encoder.")
        name = name.replace(".base_layer.", ".")
        if adapter := re.fullmatch(r"(.*)\.lora_([AB])(?:\.default)?\.weight", name):
            adapters.setdefault(adapter[1] + ".weight", {})[adapter[2]] = tensor
        elif not name.endswith("position_ids"):
            plain[name] = tensor
    rank = vision.get("lora_r") or 0
    if bool(rank) != bool(adapters):
        raise ValueError(
            f"config.json: vision_config.lora_r={vision.get('lora_r')!r} with {len(adapters)} adapters among the "
            "weights: must be their rank where there are any, else 0; fetch the checkpoint again"
        )
    if adapters:
        check_number(vision, "lora_alpha", "vision_config.")
    for name, pair in adapters.items():
        matrix = plain.get(name)
        down, up = (pair.get(half, torch.empty(0, 0)) for half in "AB")
        sizes = None if matrix is None else [[rank, matrix.shape[1]], [matrix.shape[0], rank]]
        if sizes != [list(down.shape), list(up.shape)]:
            raise ValueError(
                f"the adapter of {name} has matrices of sizes {list(down.shape)} and {list(up.shape)}: must be "
                f"{' and '.join(map(str, sizes)) if sizes else 'of a weight that there is'}, with "
                f"vision_config.lora_r={rank} of config.json; fetch the checkpoint again"
            )
        plain[name] = matrix + vision["lora_alpha"] / rank * (up @ down)
    patches, classes = (
        f"vision_model.embeddings.{name}" for name in ("patch_embedding.weight", "class_embedding")
    )
    if patches in plain and plain[patches].ndim == 5:
        plain[patches] = plain[patches][:, :, 0]
    if classes in plain and plain[classes].ndim == 1:
        plain[classes] = plain[classes][None]
    return plain


def _check(values: Mapping[str, Any]) -> None:
    """What changes the arithmetic; sizes are checked when what is absent has its default."""
    vision = values.get("vision_config")
    check_mapping(vision, "vision_config")
    check_mapping(values.get("text_config"), "text_config")
    assert isinstance(vision, Mapping)
    rules = {
        "vision_config.add_time_attn": (vision.get("add_time_attn"), (True,)),
        "vision_config.tube_size": (vision.get("tube_size", 1), (1,)),
        "vision_config.clip_type": (vision.get("clip_type", "vl"), ("vl", "vl_new")),
    }
    for name, (value, allowed) in rules.items():
        if value not in allowed:
            raise ValueError(
                f"config.json: {name}={value!r}: must be {' or '.join(map(repr, allowed))}, as no other arithmetic "
                "is supported; use LanguageBind/LanguageBind_Video_FT"
            )
    check_counts(vision, ("num_frames", "image_size", "hidden_size"), "vision_config.")
    rank = vision.get("lora_r", 0)
    if type(rank) is not int or rank < 0:
        raise ValueError(wrong("vision_config.lora_r", rank, "a whole number, 0 without adapters"))


def load(source: Source, values: Mapping[str, Any]) -> tuple[LanguageBindVideo, Processor]:
    """A checkpoint as published: config.json, weights in one file, CLIP's vocabulary.

    Args:
        source: folder or repository.
        values: of its config.json.

    Raises:
        ValueError: a value that is not supported, or files or weights that are not those of the configuration.
        OSError: a file is not there or is broken.
    """
    with naming(source):
        _check(values)
    with explained(source, "its config.json"):
        config = LanguageBindConfig(**{k: v for k, v in values.items() if k != "model_type"})
    vision: Any = config.vision_config
    text: Any = config.text_config
    with naming(source):
        check_tower(vision.to_dict(), "vision_config")
        check_text_tower(text.to_dict(), "text_config")
        check_counts(config.to_dict(), ("projection_dim",))
    with explained(source, "its tokenizer"):
        tokenizer = CLIPTokenizer.from_pretrained(
            source.path, revision=source.options["revision"] or "main"
        )
    with naming(source):
        check_words(tokenizer)
        rows = text.vocab_size
        if len(tokenizer) > rows:
            raise ValueError(
                f"its tokenizer knows {len(tokenizer)} tokens: must be at most text_config.vocab_size={rows} of "
                "config.json; fetch the tokenizer that belongs to it"
            )
    # The official tokenizer straightens quotes first, by ftfy.
    backend = tokenizer.backend_tokenizer
    straight = [Replace(curly, plain) for curly, plain in _CURLY]
    backend.normalizer = Sequence([*straight, backend.normalizer])
    text.eos_token_id = tokenizer.eos_token_id
    stored = _weights(source)
    with naming(source):
        weights = merged(stored, values["vision_config"])
        with torch.device("meta"):  # sizes may be such that there is no memory for them
            expected = LanguageBindVideo(config).clip.state_dict()
        _check_sizes(weights, expected)
    model = LanguageBindVideo(config)
    model.clip.load_state_dict(weights)
    return model, Processor(tokenizer, ClipPixels(vision.image_size))


def _check_sizes(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    ours, theirs = (
        {name: tensor.shape for name, tensor in state.items()} for state in (expected, weights)
    )
    if wrong_ones := sorted(name for name, _ in ours.items() ^ theirs.items()):
        sizes = [
            list(shapes[wrong_ones[0]]) for shapes in (theirs, ours) if wrong_ones[0] in shapes
        ]
        raise ValueError(
            f"{len(set(wrong_ones))} of its weights are missing, of no part of the model or of other sizes than its "
            f"config.json says, {wrong_ones[0]} for one ({' and '.join(map(str, sizes))}); fetch the checkpoint again"
        )


def _weights(source: Source) -> dict[str, Tensor]:
    for file in _WEIGHTS:
        path = source.fetched(file)
        if path is None:
            continue
        try:
            if file.endswith(".safetensors"):
                return load_file(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (
            Exception
        ) as error:  # a broken file, or one that is no checkpoint, fails in every way there is
            raise OSError(
                source.error(f"its {file} cannot be read: {first_sentence(error)}; fetch it again")
            ) from error
        if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
            raise OSError(
                source.error(
                    f"its {file} must hold weights by name and nothing else; fetch it again"
                )
            )
        return state
    raise OSError(source.error(f"it holds neither {' nor '.join(_WEIGHTS)}; fetch it again"))
