"""Video-XL (arXiv 2409.14485), the model of Video-X2L: LLaVA-OneVision's classes, a CLIP tower and summary tokens.

What differs from the stock classes: no newline behind the video, and three projections a layer that summary tokens
have to themselves. How the authors' own checkpoint becomes such a model is written in `CONFIG`, `KEY_MAPPING` and
`video_xl_processor`; the source is `llava_qwen.py`, `modeling_beacon.py` and `llava_arch.py` of Video-X2L 3134dc5b.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionModel,
    LlavaOnevisionPreTrainedModel,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2Config,
)

from x2l.models.config_values import (
    check_counts,
    check_heads,
    check_mapping,
    check_number,
    check_tower,
    check_values,
    unsupported,
    wrong,
)
from x2l.models.summary_tokens import SummaryLinear

# Sizes of openai/clip-vit-large-patch14-336, which config.json only names.
CLIP_L_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
# What config.json may say of all that changes the arithmetic; a key that it lacks is the official class's default,
# which is the first value.
_ONLY: dict[str, tuple[Any, ...]] = {
    "beacon_attn": ("full-coverage",),
    "beacon_attend_prev": (True,),
    "beacon_sink_size": (0,),
    "beacon_pos": ("interleave",),
    "beacon_accum": (True,),
    "beacon_parallel_window": (1,),
    "enable_beacon": (True,),
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": ("patch",),
    "mm_patch_merge_type": ("unires",),
    "mm_spatial_pool_stride": (2,),
    "mm_spatial_pool_mode": ("average",),
    "mm_resampler_type": ("spatial_pool", None),
    "mm_use_im_start_end": (False,),
    "mm_use_im_patch_token": (False,),
    "use_mm_proj": (True,),
    "use_sliding_window": (False,),
    "hidden_act": ("silu",),
}
NEEDED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
    "rope_theta",
    "rms_norm_eps",
)
# Of the language model; `rope_scaling` is not read, as the official class sets it to None.
_TEXT = (*NEEDED[:-2], "rms_norm_eps", "hidden_act", "initializer_range")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Names of weights there -> here. Order matters: the last line takes what is left of the decoder.
KEY_MAPPING = {
    r"^model\.vision_tower\.vision_tower\.vision_model\.": "model.vision_tower.",
    r"^model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
    r"^model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
    r"^model\.beacon_embed_tokens\.": "model.summary_embedding.",
    r"^model\.(layers\.\d+\.self_attn)\.beacon_q_proj\.": r"model.language_model.\1.q_proj.summary.",
    r"^model\.(layers\.\d+\.self_attn)\.beacon_k_proj\.": r"model.language_model.\1.k_proj.summary.",
    r"^model\.(layers\.\d+\.self_attn)\.beacon_v_proj\.": r"model.language_model.\1.v_proj.summary.",
    r"^model\.(embed_tokens|layers|norm)\.": r"model.language_model.\1.",
}
IMAGE, VIDEO = "<image>", "<video>"
_MARKS = ("<|im_start|>", "<|im_end|>")
# The evaluation's prompt; that of the official demo has one more line break behind the question.
CHAT_TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'video' %}<video>{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}"
    "{{ '\n' + part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class VideoXLConfig(LlavaOnevisionConfig):
    """That of LLaVA-OneVision, under a name of its own."""

    model_type = "video_xl"


class VideoXLModel(LlavaOnevisionModel):
    """The stock model without its newline; q, k and v of summary tokens, and their embedding, beside the others."""

    config: VideoXLConfig

    def __init__(self, config: VideoXLConfig) -> None:
        """Of a configuration, with random weights."""
        super().__init__(config)
        text = config.get_text_config()
        del self.image_newline
        self.register_buffer("image_newline", torch.zeros(text.hidden_size), persistent=False)
        self.summary_embedding = nn.Embedding(1, text.hidden_size)
        for layer in self.language_model.layers:
            attention = layer.self_attn
            for name in ("q_proj", "k_proj", "v_proj"):
                stock = getattr(attention, name)
                setattr(attention, name, SummaryLinear(stock.in_features, stock.out_features))
        self.post_init()

    def get_video_features(self, pixel_values_videos: torch.Tensor, **kwargs: Any) -> Any:
        """The stock features, less the newline behind the last frame.

        `generate` finds the argument by its name and takes it away.
        """
        features = super().get_video_features(pixel_values_videos, **kwargs)
        features.pooler_output = features.pooler_output[:, :-1]
        return features


class VideoXLForConditionalGeneration(LlavaOnevisionForConditionalGeneration):
    """The stock class around `VideoXLModel`."""

    config_class = VideoXLConfig

    def __init__(self, config: VideoXLConfig) -> None:
        """Of a configuration, with random weights."""
        LlavaOnevisionPreTrainedModel.__init__(self, config)
        self.model = VideoXLModel(config)
        text = config.get_text_config()
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()


class VideoXLProcessor(LlavaOnevisionProcessor):
    """The stock processor, for a video without a newline."""

    def replace_video_token(self, video_inputs: Any, video_idx: int, **kwargs: Any) -> str:
        """As many placeholders as visual tokens."""
        stock = str(super().replace_video_token(video_inputs, video_idx, **kwargs))
        return stock.removesuffix(self.video_token)


AutoConfig.register(VideoXLConfig.model_type, VideoXLConfig)
AutoModelForImageTextToText.register(VideoXLConfig, VideoXLForConditionalGeneration)
AutoProcessor.register(VideoXLConfig, VideoXLProcessor)


def is_video_xl(values: Mapping[str, Any]) -> bool:
    """Whether a config.json is Video-XL's: others of its model type (LLaVA-NeXT, LongVA) have no summary tokens."""
    return values.get("model_type") == "llava_qwen" and "beacon_param" in values


def video_xl_config(values: Mapping[str, Any]) -> VideoXLConfig:
    """The stock configuration that a config.json of the official code stands for.

    A tower of other sizes than CLIP-L/336 is described by a mapping `vision_config`.

    Raises:
        ValueError: a value that changes the arithmetic and is not supported, or one that is missing.
    """
    check_values(values, _ONLY, (*NEEDED, "mm_vision_select_layer"))
    if sorted(values["beacon_param"]) != ["k", "q", "v"]:
        raise ValueError(unsupported("beacon_param", values["beacon_param"], "['q', 'k', 'v']"))
    if values.get("beacon_window") != values.get("beacon_stride"):
        window = f"as large as beacon_stride={values.get('beacon_stride')}"
        raise ValueError(unsupported("beacon_window", values.get("beacon_window"), window))
    sizes = values.get("vision_config", CLIP_L_336)
    check_mapping(sizes, "vision_config")
    vision = CLIPVisionConfig(**sizes)
    check_tower(vision.to_dict(), "vision_config")
    layer, layers = values["mm_vision_select_layer"], vision.num_hidden_layers
    if type(layer) is not int or not -layers - 1 <= layer <= layers:
        rule = f"a whole number from {-layers - 1} to {layers}, one of its tower's layers"
        raise ValueError(wrong("mm_vision_select_layer", layer, rule))
    if values.get("mm_hidden_size", vision.hidden_size) != vision.hidden_size:
        width = f"{vision.hidden_size}, the width of its tower (CLIP-L/336, or vision_config)"
        raise ValueError(unsupported("mm_hidden_size", values["mm_hidden_size"], width))
    text, tokens = text_config(values)
    return VideoXLConfig(
        text_config=text,
        vision_config=vision,
        vision_feature_layer=layer,
        vision_feature_select_strategy="default",
        **tokens,
    )


def text_config(values: Mapping[str, Any]) -> tuple[Qwen2Config, dict[str, Any]]:
    """The language model that a config.json of the official layout describes, and its special tokens' ids.

    Raises:
        ValueError: a size that no model has, or a token that is none of its vocabulary.
    """
    check_counts(values, NEEDED[:-2])
    check_heads(values)
    for name in ("rope_theta", "rms_norm_eps"):
        check_number(values, name)
    heads, shared = values["num_attention_heads"], values["num_key_value_heads"]
    if heads % shared:
        rule = f"a divisor of {heads}, num_attention_heads"
        raise ValueError(wrong("num_key_value_heads", shared, rule))
    if values["hidden_size"] // heads % 2:
        rule = f"an even multiple of {heads}, num_attention_heads, for RoPE"
        raise ValueError(wrong("hidden_size", values["hidden_size"], rule))
    for name in _TOKENS:
        ids = values.get(name)
        for token in ids if isinstance(ids, list) else [] if ids is None else [ids]:
            if type(token) is not int or not 0 <= token < values["vocab_size"]:
                rule = f"one of {values['vocab_size']} tokens, vocab_size, from 0"
                raise ValueError(wrong(name, ids, rule))
    tokens = {name: values[name] for name in _TOKENS if values.get(name) is not None}
    text = Qwen2Config(
        **{name: values[name] for name in _TEXT if name in values},
        **tokens,
        rope_parameters={"rope_type": "default", "rope_theta": values["rope_theta"]},
        tie_word_embeddings=values.get("tie_word_embeddings", False),
    )
    return text, tokens


def add_placeholders(tokenizer: Any, placeholders: list[str], rows: int) -> list[int]:
    """Adds what stands for frames to a tokenizer.

    Args:
        tokenizer: is changed.
        placeholders: words to add.
        rows: of the embedding, where stock classes look them up before frames take their place.

    Returns:
        Their ids.

    Raises:
        ValueError: they have no row, or a mark of the template is no token.
    """
    for mark in _MARKS:
        if len(tokenizer(mark, add_special_tokens=False)["input_ids"]) != 1:
            raise ValueError(
                f"its tokenizer takes {mark} apart: must be one token, as in training; fetch tokenizer_config.json "
                "and added_tokens.json, which belong to it"
            )
    tokenizer.add_special_tokens({"additional_special_tokens": placeholders})
    ids: list[int] = tokenizer.convert_tokens_to_ids(placeholders)
    if max(ids) >= rows:
        raise ValueError(
            f"its tokenizer knows {len(tokenizer)} tokens with {' and '.join(placeholders)}: must be at most "
            f"vocab_size={rows} of config.json; fetch the tokenizer that belongs to it"
        )
    return ids


def video_xl_processor(tokenizer: Any, config: Any) -> VideoXLProcessor:
    """The processor that the repository lacks, from its tokenizer and CLIP's six constants; sets the placeholders' ids.

    A frame is brought to the tower's size by its shorter side (bicubic) and loses what sticks out on the longer one.

    Raises:
        ValueError: see `add_placeholders`.
    """
    ids = add_placeholders(tokenizer, [IMAGE, VIDEO], config.get_text_config().vocab_size)
    config.image_token_id, config.video_token_id = ids
    side = config.vision_config.image_size
    return VideoXLProcessor(
        image_processor=LlavaOnevisionImageProcessor(image_grid_pinpoints=[[side, side]]),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            do_center_crop=True,
        ),
        num_image_tokens=(side // config.vision_config.patch_size) ** 2 + 1,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
        video_token=VIDEO,
    )
