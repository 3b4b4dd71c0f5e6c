"""Whether a tokenizer has read its words: where their files are not there transformers makes one that knows none."""

from __future__ import annotations

from typing import Any


def check_words(tokenizer: Any) -> None:
    """Checks a loaded tokenizer. Half of its files transformers refuses itself.

    Raises:
        ValueError: it knows no words, so that all texts would be alike.
    """
    ids = tokenizer("What is it?", add_special_tokens=False)["input_ids"]
    if set(ids) <= {tokenizer.unk_token_id}:
        files = dict(tokenizer.vocab_files_names)
        whole = files.pop("tokenizer_file", None)
        names = " or ".join(filter(None, [whole, " and ".join(files.values())]))
        raise ValueError(
            f"its tokenizer knows no words, all texts would be alike; {names} is missing from the checkpoint "
            "or empty: fetch it"
        )
