"""LLaVA-Video (arXiv 2410.02713) and LongVA (2406.16852) in their authors' layout, by LLaVA-OneVision's stock classes.

What differs from the stock classes: where newlines stand, another way to pool, and an answer's tokens, which are those
of the tokenizer only. Sources: LLaVA-NeXT df179663 and LongVA f4c8781d, `llava_arch.py`, `mm_utils.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionModel,
    LlavaOnevisionPreTrainedModel,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    SiglipVisionConfig,
)

from x2l.models.config_values import (
    check_counts,
    check_mapping,
    check_tower,
    check_values,
    unsupported,
)
from x2l.models.video_xl import (
    CHAT_TEMPLATE,
    CLIP_L_336,
    IMAGE,
    NEEDED,
    VIDEO,
    add_placeholders,
    text_config,
)
from x2l.models.video_xl import KEY_MAPPING as VIDEO_XL_MAPPING

NEWLINE = "<image_newline>"
# Sizes of google/siglip-so400m-patch14-384, which config.json only names; its last layer is deleted while loading.
SIGLIP_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
# What both may say of all that changes the arithmetic; the first value stands for a key that is absent.
_ONLY: dict[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": ("patch",),
    "mm_vision_select_layer": (-2,),
    "mm_resampler_type": (None,),
    "mm_use_im_start_end": (False,),
    "mm_use_im_patch_token": (False,),
    "use_mm_proj": (True,),
    "use_sliding_window": (False,),
    "tie_word_embeddings": (False,),
    "s2": (False, None),
    "hidden_act": ("silu",),
}
# By `mm_patch_merge_type`: LLaVA-Video's, whose official code ignores the stride that config.json names, and LongVA's.
_MORE: dict[str, dict[str, tuple[Any, ...]]] = {
    "spatial_unpad": {
        "mm_vision_tower": ("google/siglip-so400m-patch14-384",),
        "add_faster_video": (False, None),
        "add_time_instruction": (False, True, None),
    },
    "unires": {
        "mm_vision_tower": ("openai/clip-vit-large-patch14-336",),
        "mm_spatial_pool_stride": (2,),
        "add_time_instruction": (False, None),
    },
}
# Pool mode and newlines together, as the official code was shown to be equalled.
_SHOWN = {
    "spatial_unpad": (
        ("bilinear", "grid"),
        ("bilinear", "frame"),
        ("bilinear", "one_token"),
        ("bilinear", "no_token"),
        ("average", "grid"),
    ),
    "unires": (("average", "no_token"),),
}
KEY_MAPPING = {old: new for old, new in VIDEO_XL_MAPPING.items() if "beacon" not in old}
# What `model.original` may say in place of config.json, and where it stands in the configuration here. `newlines` is
# x2l's own: what becomes of those that end a row.
OPTIONS = {
    "newlines": "newlines",
    "mm_spatial_pool_mode": "pool_mode",
    "mm_newline_position": "newline_position",
    "add_time_instruction": "time_instruction",
}
_TOLD = (
    "\nThe video lasts for {duration:.2f} seconds, and {count} frames are uniformly sampled from it. These frames are "
    "located at {times}.Please answer the following questions related to this video."
)


class LlavaVideoConfig(LlavaOnevisionConfig):
    """That of LLaVA-OneVision, with what its stock classes do not have.

    Attributes:
        pool_mode: `bilinear` (rounds up) or `average` (rounds down).
        newlines: of the grid are `text`, never compressed, or the last column of their `row`, compressed with it.
        newline_position: `grid` (behind every row), `frame`, `one_token` (behind the video) or `no_token`.
        has_newline: whether the weights hold one.
        time_instruction: whether the prompt tells duration and the frames' times.
        newline_token_index: placeholder of a newline.
        answer_tokens: how many rows of the vocabulary may be an answer's; None = all. The official loader cuts off
            those that the tokenizer lacks.
    """

    model_type = "llava_video"
    pool_mode: str = "bilinear"
    newlines: str = "text"
    newline_position: str = "grid"
    has_newline: bool = True
    time_instruction: bool = False
    newline_token_index: int = 151648
    answer_tokens: int | None = None


class LlavaVideoModel(LlavaOnevisionModel):
    """The stock model with newlines wherever their placeholder stands."""

    config: LlavaVideoConfig

    def __init__(self, config: LlavaVideoConfig) -> None:
        """Of a configuration, with random weights."""
        super().__init__(config)
        if not config.has_newline:
            del self.image_newline
            nothing = torch.zeros(config.get_text_config().hidden_size)
            self.register_buffer("image_newline", nothing, persistent=False)
        self.post_init()

    def get_video_features(self, pixel_values_videos: Tensor, **kwargs: Any) -> Any:
        """The stock features, less the newline behind the last frame."""
        features = super().get_video_features(pixel_values_videos, **kwargs)
        features.pooler_output = features.pooler_output[:, :-1]
        return features

    def apply_pooling(self, image_features: Tensor) -> Tensor:
        """`(frames, side * side, hidden)` -> a quarter of the places, by the checkpoint's pool mode."""
        if self.config.pool_mode == "bilinear":
            return torch.as_tensor(super().apply_pooling(image_features))
        side = math.isqrt(image_features.shape[1])
        grid = image_features.transpose(1, 2).unflatten(2, (side, side))
        return nn.functional.avg_pool2d(grid, 2).flatten(2).transpose(1, 2)

    def forward(
        self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """The stock forward; in place of a newline's placeholder stands the learned vector."""
        if inputs_embeds is None and input_ids is not None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
            is_newline = input_ids == self.config.newline_token_index
            newline = self.image_newline.to(inputs_embeds)
            inputs_embeds = torch.where(is_newline[..., None], newline, inputs_embeds)
        return super().forward(inputs_embeds=inputs_embeds, **kwargs)


class AnswerHead(nn.Linear):
    """Logits of the first rows only: of tokens that the tokenizer has. Final."""

    def __init__(self, hidden: int, vocabulary: int, answer_tokens: int | None) -> None:
        """All rows have weights, as stored."""
        super().__init__(hidden, vocabulary, bias=False)
        self.answer_tokens = answer_tokens

    def forward(self, hidden: Tensor) -> Tensor:
        """`(..., hidden)` -> `(..., answer_tokens)`."""
        return super().forward(hidden)[..., : self.answer_tokens]


class LlavaVideoForConditionalGeneration(LlavaOnevisionForConditionalGeneration):
    """The stock class around `LlavaVideoModel`."""

    config_class = LlavaVideoConfig

    def __init__(self, config: LlavaVideoConfig) -> None:
        """Of a configuration, with random weights."""
        LlavaOnevisionPreTrainedModel.__init__(self, config)
        self.model = LlavaVideoModel(config)
        text = config.get_text_config()
        self.lm_head = AnswerHead(text.hidden_size, text.vocab_size, config.answer_tokens)
        self.post_init()


class LlavaVideoProcessor(LlavaOnevisionProcessor):
    """The stock processor, with the newlines and the sentence about times that `layout` asks for."""

    layout: LlavaVideoConfig

    @property
    def outro(self) -> str:
        """What the expanded video ends with and the question's line break is tokenized with."""
        return "." if self.layout.time_instruction else ""

    @property
    def row_end_token_id(self) -> int | None:
        """The token that ends a row and is compressed with it; None where it is text."""
        return self.layout.newline_token_index if self.layout.newlines == "row" else None

    def replace_video_token(self, video_inputs: Any, video_idx: int, **kwargs: Any) -> str:
        """Placeholders of frames and newlines in the official order: frame, row, column."""
        frames, places = len(video_inputs["pixel_values_videos"][video_idx]), self.num_image_tokens
        side = math.isqrt(places)
        side = side // 2 if self.layout.pool_mode == "average" else -(-side // 2)
        position = self.layout.newline_position
        row = self.video_token * side + NEWLINE * (position == "grid")
        frame = row * side + NEWLINE * (position == "frame")
        video = frame * frames + NEWLINE * (position == "one_token")
        if not self.layout.time_instruction:
            return video
        source = video_inputs if "video_metadata" in video_inputs else kwargs
        about = source["video_metadata"][video_idx]
        seconds = [index / about.fps for index in about.frames_indices]
        times = ",".join(f"{second:.2f}s" for second in seconds)
        return video + _TOLD.format(duration=about.duration, count=frames, times=times)


AutoConfig.register(LlavaVideoConfig.model_type, LlavaVideoConfig)
AutoModelForImageTextToText.register(LlavaVideoConfig, LlavaVideoForConditionalGeneration)


def is_llava_video(values: Mapping[str, Any]) -> bool:
    """Whether a config.json is of LLaVA-Video or LongVA: their type, without Video-XL's summary tokens."""
    return values.get("model_type") == "llava_qwen" and "beacon_param" not in values


def llava_video_config(values: Mapping[str, Any]) -> LlavaVideoConfig:
    """The stock configuration that a config.json of the official code stands for.

    A tower of other sizes than the one that is named is described by a mapping `vision_config`.

    Raises:
        ValueError: a value that changes the arithmetic and was not shown equal, or one that is missing.
    """
    merge = values.get("mm_patch_merge_type")
    if merge not in _MORE:
        kinds = "'spatial_unpad' (LLaVA-Video) or 'unires' (LongVA)"
        raise ValueError(unsupported("mm_patch_merge_type", merge, kinds))
    check_values(values, _ONLY | _MORE[merge], NEEDED)
    mode = values.get("mm_spatial_pool_mode")
    default = "no_token" if merge == "unires" else "one_token"
    position = values.get("mm_newline_position", default)
    if (mode, position) not in _SHOWN[merge]:
        shown = ", ".join(f"{pool} with {newlines}" for pool, newlines in _SHOWN[merge])
        said = f"{mode!r} with mm_newline_position={position!r}"
        raise ValueError(
            f"config.json: mm_spatial_pool_mode={said}: must be one of: {shown}, as no other was shown equal to the "
            "official code; correct model.original where it says so"
        )
    newlines = values.get("newlines", "text")
    if newlines not in (allowed := ("text", "row") if position == "grid" else ("text",)):
        said = f"with mm_newline_position={position!r}"
        raise ValueError(
            f"model.original.newlines={newlines!r}: must be {' or '.join(map(repr, allowed))} {said}; use 'text'"
        )
    clip = merge == "unires"
    sizes = values.get("vision_config", CLIP_L_336 if clip else SIGLIP_SO400M)
    check_mapping(sizes, "vision_config")
    vision: Any
    if clip:
        vision = CLIPVisionConfig(**sizes)
    else:
        used = {"num_hidden_layers": sizes["num_hidden_layers"] - 1, "vision_use_head": False}
        vision = SiglipVisionConfig(**{**sizes, **used})
    check_tower(vision.to_dict(), "vision_config")
    if values.get("mm_hidden_size", vision.hidden_size) != vision.hidden_size:
        width = f"{vision.hidden_size}, the width of its tower"
        raise ValueError(unsupported("mm_hidden_size", values["mm_hidden_size"], width))
    text, tokens = text_config(values)
    # The official code cuts a longer prompt off, question included.
    if values.get("tokenizer_model_max_length") is not None:
        check_counts(values, ("tokenizer_model_max_length",))
        longest = values["tokenizer_model_max_length"]
        text.max_position_embeddings = min(text.max_position_embeddings, longest)
    return LlavaVideoConfig(
        text_config=text,
        vision_config=vision,
        vision_feature_layer=-2 if clip else -1,
        vision_feature_select_strategy="default" if clip else "full",
        pool_mode=str(mode),
        newlines=newlines,
        newline_position=position,
        has_newline=not clip,
        time_instruction=bool(values.get("add_time_instruction")),
        **tokens,
    )


def llava_video_processor(tokenizer: Any, config: Any) -> LlavaVideoProcessor:
    """The processor that the repository lacks; sets the placeholders' ids and the tokens that an answer may have.

    LLaVA-Video squashes a frame to a square, LongVA brings its shorter side to the tower's and cuts the longer one.

    Raises:
        ValueError: see `add_placeholders`.
    """
    answer_tokens = len(tokenizer)
    rows = config.get_text_config().vocab_size
    ids = add_placeholders(tokenizer, [IMAGE, VIDEO, NEWLINE], rows)
    config.image_token_id, config.video_token_id, config.newline_token_index = ids
    config.answer_tokens = min([answer_tokens, *ids])
    side = config.vision_config.image_size
    square = {"height": side, "width": side}
    frames: dict[str, Any] = {"size": square, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    if config.vision_config.model_type == "clip_vision_model":
        frames = {"size": {"shortest_edge": side}, "crop_size": square, "do_center_crop": True}
    processor = LlavaVideoProcessor(
        image_processor=LlavaOnevisionImageProcessor(image_grid_pinpoints=[[side, side]]),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(**frames),
        num_image_tokens=(side // config.vision_config.patch_size) ** 2,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
        video_token=VIDEO,
    )
    processor.layout = config
    return processor
