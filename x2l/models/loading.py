"""From a checkpoint's name to a model: Hugging Face's Auto classes, and one clear line when that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from x2l.models.hf import HFVideoModel

PACKAGED = {"x2l_tiny": Path(__file__).parents[1] / "assets" / "x2l_tiny"}
DTYPES = ("float32", "float64", "bfloat16", "float16")


def load(
    name_or_path: str = "x2l_tiny",
    device: str = "cpu",
    dtype: str = "float32",
    positions: str = "reference",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> HFVideoModel:
    """Loads a checkpoint with Hugging Face's Auto classes.

    Args:
        name_or_path: `x2l_tiny` (in the package), a folder, or a repository id of the Hub.
        device: `cpu`, `cuda`, `cuda:1`, ...
        dtype: one of float32, float64, bfloat16, float16.
        positions: `reference` or `hf`, see `models/positions.py`.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: passed on; stock models need none.

    Raises:
        ValueError: a value that cannot work, named with its rule and remedy.
        OSError: the checkpoint is not there.
    """
    if dtype not in DTYPES:
        raise ValueError(f"model.dtype={dtype!r}: must be one of {DTYPES}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"model.device={device!r}: torch sees no CUDA device; use model.device=cpu"
        )
    source = str(PACKAGED.get(name_or_path, name_or_path))
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        hf: Any = AutoModelForImageTextToText.from_pretrained(
            source, dtype=getattr(torch, dtype), attn_implementation="sdpa", **options
        )
        processor = AutoProcessor.from_pretrained(source, **options)
    except OSError as error:
        raise OSError(
            f"model.name_or_path={name_or_path!r}: no such checkpoint here and the Hub did not give it "
            f"({str(error).splitlines()[0]}); fetch it with `hf download {name_or_path}` or name a local folder"
        ) from error
    return HFVideoModel(hf.to(device), processor, positions)
