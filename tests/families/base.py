"""What the tiny random models of all families share: the sizes of their language model, and a tokenizer."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import PreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

TINY = Path(__file__).parents[2] / "x2l" / "models" / "x2l_tiny"
END = "<|im_end|>"
PAD = "<|endoftext|>"


def tokenizer(
    *special: str,
    bos: str | None = None,
    splitting: PreTokenizer | None = None,
    merged: tuple[str, str] | None = None,
    **named: str,
) -> PreTrainedTokenizerFast:
    """The packaged byte-level tokenizer with a family's special tokens behind its own.

    Args:
        special: tokens to add; those it has already keep their ids.
        bos: a token put before every text, as the tokenizers of Llama do.
        splitting: how text is cut into words, where that differs from Qwen2.
        merged: two tokens that make one, in the place of the least frequent such pair.
        named: special tokens that the family's processor reads as attributes, such as `video_token="<video>"`.
    """
    content = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))
    if merged is not None:
        replaced = "".join(content["model"]["merges"].pop())
        content["model"]["merges"].append(list(merged))
        content["model"]["vocab"]["".join(merged)] = content["model"]["vocab"].pop(replaced)
    backend = Tokenizer.from_str(json.dumps(content))
    if splitting is not None:
        backend.pre_tokenizer = splitting
    start = () if bos is None else (bos,)
    backend.add_special_tokens([*start, *special, *named.values()])
    if bos is not None:
        backend.post_processor = TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A $B",
            special_tokens=[(bos, backend.token_to_id(bos))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=END, pad_token=PAD, **named
    )


def language(words: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    """Sizes of a language model: 4 layers, 8 query heads over 2 KV heads, weights that make attention matter."""
    return {
        "vocab_size": len(words),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "max_position_embeddings": 4096,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "pad_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
        "bos_token_id": words.bos_token_id,
    } | more


# A mixture of 8 experts of which 2 are active: so few that a wrong one would show.
EXPERTS = {"moe_intermediate_size": 48, "num_experts_per_tok": 2, "num_local_experts": 8}
