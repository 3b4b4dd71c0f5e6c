"""Tiny random two-tower checkpoints with their real tokenizers and processors, made here; nothing is downloaded."""

import io
from pathlib import Path
from typing import Any

import x2l.models  # noqa: F401 - declares torchvision's operators before transformers is imported

# isort: split
import sentencepiece
import torch
import transformers
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPProcessor,
    CLIPTokenizer,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Processor,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipProcessor,
    SiglipTokenizer,
    VideoMAEImageProcessor,
    XCLIPConfig,
    XCLIPProcessor,
)

FAMILIES = ("clip", "siglip", "siglip2", "x_clip", "x_clip_pictures")
SIDE, PATCH, CLIP_FRAMES = 32, 8, 4
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LETTERS = [chr(code) for code in range(33, 127)]
SENTENCES = ("what is the colour of the star", "which shape comes first or last", "how often 1 2 3")


def save(family: str, folder: Path) -> str:
    """A checkpoint of the family under `folder`, as the Hub would leave it; its path."""
    makers = (_clip, _siglip, _siglip2, _x_clip, _x_clip_pictures)
    model, processor = dict(zip(FAMILIES, makers, strict=True))[family](folder)
    place = folder / family
    model.save_pretrained(place)
    processor.save_pretrained(place)
    return str(place)


def _built(config: Any) -> Any:
    torch.manual_seed(0)
    return transformers.AutoModel.from_config(config)


def _clip_tokenizer() -> CLIPTokenizer:
    words = [*LETTERS, *(letter + "</w>" for letter in LETTERS)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])


def _clip_text(tokenizer: CLIPTokenizer) -> dict[str, Any]:
    return {
        **TOWER,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _clip_images() -> CLIPImageProcessor:
    return CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )


def _clip(folder: Path) -> tuple[Any, Any]:
    words = _clip_tokenizer()
    vision = {**TOWER, "image_size": SIDE, "patch_size": PATCH}
    config = CLIPConfig(text_config=_clip_text(words), vision_config=vision, projection_dim=24)
    return _built(config), CLIPProcessor(_clip_images(), words)


def _x_clip_pictures(folder: Path) -> tuple[Any, Any]:
    """X-CLIP with a processor that leaves frames pictures, as transformers' own default for it does."""
    model, processor = _x_clip(folder)
    return model, XCLIPProcessor(_clip_images(), processor.tokenizer)


def _x_clip(folder: Path) -> tuple[Any, Any]:
    """X-CLIP with the processor that it is published with."""
    words = _clip_tokenizer()
    vision = {
        **TOWER,
        "image_size": SIDE,
        "patch_size": PATCH,
        "num_frames": CLIP_FRAMES,
        "mit_hidden_size": 24,
        "mit_intermediate_size": 32,
        "mit_num_hidden_layers": 1,
        "mit_num_attention_heads": 2,
    }
    config = XCLIPConfig(text_config=_clip_text(words), vision_config=vision, projection_dim=24)
    images = VideoMAEImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    return _built(config), XCLIPProcessor(images, words)


def _siglip(folder: Path) -> tuple[Any, Any]:
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=trained,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=-1,
        bos_id=-1,
        eos_id=1,
        unk_id=0,
        minloglevel=2,
    )
    file = folder / "spiece.model"
    file.write_bytes(trained.getvalue())
    words = SiglipTokenizer(str(file))
    text = {**TOWER, "vocab_size": len(words), "max_position_embeddings": 64}
    text |= {"bos_token_id": 0, "eos_token_id": 1}
    vision = {**TOWER, "image_size": SIDE, "patch_size": PATCH}
    model = _built(SiglipConfig(text_config=text, vision_config=vision))
    images = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    return model, SiglipProcessor(images, words)


def _siglip2(folder: Path) -> tuple[Any, Any]:
    vocabulary = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<mask>": 4}
    for letter in ["▁", *LETTERS]:
        vocabulary.setdefault(letter, len(vocabulary))
    words = Siglip2Tokenizer(vocab=vocabulary, merges=[])
    text = {**TOWER, "vocab_size": len(vocabulary), "max_position_embeddings": 64}
    text |= {"bos_token_id": 2, "eos_token_id": 1}
    vision = {**TOWER, "num_patches": (SIDE // PATCH) ** 2, "patch_size": PATCH}
    model = _built(Siglip2Config(text_config=text, vision_config=vision))
    images = Siglip2ImageProcessor(patch_size=PATCH, max_num_patches=(SIDE // PATCH) ** 2)
    return model, Siglip2Processor(images, words)
