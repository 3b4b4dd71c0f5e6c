"""The files that a checkpoint's weights lie in, looked at before any of them is read."""

from __future__ import annotations

from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from x2l.models.checkpoint import Source

_GENERATION = "generation_config.json"


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
