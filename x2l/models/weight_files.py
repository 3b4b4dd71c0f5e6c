"""The files that a checkpoint's weights lie in, looked at before any is read, and what was read of them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from x2l.models.checkpoint import Source

_GENERATION = "generation_config.json"
# Weights of published checkpoints that no class here computes with: tables that are made anew (transformers leaves out
# those that it knows), and what a picture tower ends in where only its patches are used.
_UNUSED = re.compile(
    r"(^|\.)(inv_freq|position_ids|num_batches_tracked)$|(^|\.)vision_(tower|model)\.(.*\.)?head\."
)
_ADAPTER = re.compile(r"lora_|\.adapter|modules_to_save|base_layer")


def check_weights(source: Source) -> None:
    """Checks that a folder or repository holds whole weights as safetensors.

    Raises:
        ValueError: they are a pickle.
        OSError: there are none, or their index is broken or names a file that is not there.
    """
    source.read_object(
        _GENERATION
    )  # a broken one would be passed over, and with it what ends an answer
    if source.has(SAFE_WEIGHTS_NAME):
        return
    index = source.read_object(SAFE_WEIGHTS_INDEX_NAME)
    if index is not None:
        return _check_index(source, index)
    for file in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME):
        if source.has(file):
            raise ValueError(
                source.error(
                    f"its weights are a pickle ({file}), which can run any code while it is read; where you trust it, "
                    "convert it: `AutoModelForImageTextToText.from_pretrained(it).save_pretrained(folder)`"
                )
            )
    raise OSError(
        source.error(
            f"it holds no weights, neither {SAFE_WEIGHTS_NAME} nor {SAFE_WEIGHTS_INDEX_NAME}; fetch it again"
        )
    )


def _check_index(source: Source, index: dict[str, object]) -> None:
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(map(_plain, shards.values())):
        raise OSError(
            source.error(
                f"its {SAFE_WEIGHTS_INDEX_NAME} must have a weight_map from names of weights to files beside it; "
                "fetch it again"
            )
        )
    for file in sorted(set(shards.values())):
        if not source.has(file):
            raise OSError(
                source.error(
                    f"{file} is missing, which its {SAFE_WEIGHTS_INDEX_NAME} names; fetch it again"
                )
            )


def _plain(file: object) -> bool:
    return isinstance(file, str) and file.endswith(".safetensors") and not {"/", "\\"} & set(file)


@contextmanager
def report_withheld() -> Iterator[None]:
    """Inside, transformers' table of weights that do not fit is kept back: `check_read` says it in one line.

    Where loading fails for another reason, which may point to the table, it is shown.
    """
    logger, withheld = logging.getLogger("transformers.modeling_utils"), list[logging.LogRecord]()

    def withhold(record: logging.LogRecord) -> bool:
        is_report = "LOAD REPORT" in str(record.msg)
        withheld.extend([record] * is_report)
        return not is_report

    logger.addFilter(withhold)
    try:
        yield
    except BaseException:
        logger.removeFilter(withhold)
        for record in withheld:
            logger.handle(record)
        raise
    finally:
        logger.removeFilter(withhold)


def check_read(source: Source, info: Mapping[str, Any]) -> None:
    """Checks what `from_pretrained` says of the weights that it read.

    Args:
        source: for errors.
        info: names of weights: missing, unexpected, and with two sizes mismatched.

    Raises:
        OSError: some would be random, or left out though a model of them would compute something else.
    """
    if mismatched := sorted(info["mismatched_keys"], key=str):
        name, stored, wanted = mismatched[0]
        raise OSError(
            source.error(
                f"{len(mismatched)} of its weights have other sizes than its config.json says, {name} for one: "
                f"{list(stored)}, not {list(wanted)}; fetch the checkpoint again"
            )
        )
    if missing := sorted(info["missing_keys"]):
        raise OSError(
            source.error(
                f"{len(missing)} weights are missing from it, {missing[0]} for one: they would be random; "
                "fetch the checkpoint again"
            )
        )
    if unexpected := sorted(name for name in info["unexpected_keys"] if not _UNUSED.search(name)):
        remedy = "it is another model than its config.json says; fetch the checkpoint again"
        if any(map(_ADAPTER.search, unexpected)):
            remedy = "an adapter that was not merged: `merge_and_unload()`, then `save_pretrained`"
        raise OSError(
            source.error(
                f"{len(unexpected)} of its weights belong to no part of the model, {unexpected[0]} for one, and would "
                f"be left out; {remedy}"
            )
        )
