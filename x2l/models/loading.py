"""From a checkpoint's name to a model: Hugging Face's Auto classes, and one clear line when that fails."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText

from x2l.models.checkpoint import (
    PACKAGED,
    Source,
    explained,
    first_sentence,
    locate,
    read_config,
    read_processor,
)
from x2l.models.huggingface import POSITION_RULES, HFVideoModel
from x2l.models.interface import ModelShape
from x2l.models.out_of_memory import available_bytes, is_out_of_memory
from x2l.models.shape import model_shape
from x2l.models.weight_files import check_read, check_weights, report_withheld

__all__ = ["ATTENTION", "DEVICE_MAPS", "DTYPES", "PACKAGED", "load", "outline", "weight_bytes"]
DTYPES = ("float32", "float64", "bfloat16", "float16")
ATTENTION = ("sdpa", "flash_attention_2", "eager")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


def load(
    name_or_path: str = "x2l_tiny",
    device: str | None = "cpu",
    dtype: str = "float32",
    device_map: str | Mapping[str, int | str] | None = None,
    attn_implementation: str = "sdpa",
    positions: str = "reference",
    revision: str | None = None,
    trust_remote_code: bool = False,
    video_processor: Mapping[str, Any] | None = None,
    original: Mapping[str, Any] | None = None,
    check_shape: Callable[[ModelShape], None] | None = None,
) -> HFVideoModel:
    """Loads a checkpoint with Hugging Face's Auto classes.

    Args:
        name_or_path: `x2l_tiny` (in the package), a folder, or a repository id of the Hub.
        device: `cpu`, `cuda`, `cuda:1`, ...; None with a `device_map`.
        dtype: one of float32, float64, bfloat16, float16.
        device_map: spreads the layers over several devices: `auto`, `balanced`, `balanced_low_0`, `sequential`, or
            module name -> device as accelerate takes it. KVs of a layer stay where the layer is.
        attn_implementation: of vision tower and language model: `sdpa`, `flash_attention_2` (where flash-attn is
            installed; calls that need a mask or a bias are sdpa's all the same) or `eager`.
        positions: `reference` or `hf`, see `models/positions.py`.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: passed on; stock models need none.
        video_processor: settings that replace the checkpoint's own, e.g. `{"size": {"longest_edge": 200704}}`.
        original: of a checkpoint in its authors' own layout, values that replace those of its config.json, e.g.
            `{"mm_spatial_pool_mode": "average"}` for LLaVA-Video (docs/models.md).
        check_shape: shown the model's sizes before any weight is read; raises a ValueError where they do not fit.

    Raises:
        ValueError: a value or a checkpoint that cannot work, named with its rule and remedy.
        OSError: the checkpoint is not there, or incomplete.
    """
    if dtype not in DTYPES:
        raise ValueError(f"model.dtype={dtype!r}: must be one of {DTYPES}")
    if positions not in POSITION_RULES:
        raise ValueError(
            f"model.positions={positions!r}: must be one of {POSITION_RULES}; use 'reference'"
        )
    _check_attention(attn_implementation, dtype, device)
    placed = _placement(device, device_map)
    source = locate(name_or_path, revision, trust_remote_code)
    described = read_config(source, original)
    needed = None  # what quantised weights need depends on the method
    if not _quantised_by(described.config):
        with explained(source, "its config.json"):
            needed = weight_bytes(described.config, getattr(torch, dtype))
    if check_shape is not None:
        text = described.config.get_text_config()
        check_shape(model_shape(text, getattr(torch, dtype).itemsize))
    processor = read_processor(source, described, video_processor)
    if device is not None and needed is not None:
        _check_fits(source, needed, dtype, device)
    check_weights(source)
    layout = described.layout
    where = device or f"device_map {device_map}"
    with report_withheld(), _explained(source, described.config, dtype, where):
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            source.path,
            config=described.config,
            key_mapping=None if layout is None else dict(layout.key_mapping),
            dtype=getattr(torch, dtype),
            attn_implementation=attn_implementation,
            device_map=placed,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
            **source.options,
        )
    hf, info = loaded
    check_read(source, info)
    return HFVideoModel(hf, processor, positions)


def outline(
    name_or_path: str = "x2l_tiny",
    dtype: str = "float32",
    positions: str = "reference",
    revision: str | None = None,
    trust_remote_code: bool = False,
    video_processor: Mapping[str, Any] | None = None,
    original: Mapping[str, Any] | None = None,
) -> HFVideoModel:
    """The model without weights, from configuration and processor alone: sizes and prompts, for planning.

    Args:
        name_or_path: as in `load`, like all that follow.
        dtype: of weights and KVs.
        positions: the rule.
        revision: on the Hub.
        trust_remote_code: passed on.
        video_processor: settings that replace the checkpoint's own.
        original: values that replace those of its config.json.

    Raises:
        ValueError: a value or a checkpoint that cannot work.
        OSError: the checkpoint is not there, or incomplete.
    """
    source = locate(name_or_path, revision, trust_remote_code)
    described = read_config(source, original)
    processor = read_processor(source, described, video_processor)
    with explained(source, "its config.json"):
        hollow = _hollow(described.config, getattr(torch, dtype))
    return HFVideoModel(hollow, processor, positions)


def weight_bytes(config: Any, dtype: torch.dtype) -> int:
    """Bytes of a model's weights, from its configuration alone."""
    return sum(parameter.nbytes for parameter in _hollow(config, dtype).parameters())


def _hollow(config: Any, dtype: torch.dtype) -> Any:
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(copy.deepcopy(config), dtype=dtype)


def _check_attention(attn_implementation: str, dtype: str, device: str | None) -> None:
    field = f"model.attn_implementation={attn_implementation!r}"
    if attn_implementation not in ATTENTION:
        raise ValueError(f"{field}: must be one of {ATTENTION}; use 'sdpa'")
    half = dtype in ("bfloat16", "float16")
    if attn_implementation == "flash_attention_2" and (not half or device == "cpu"):
        raise ValueError(
            f"{field}: computes in bfloat16 or float16 on a GPU only, not in {dtype} on {device}; use 'sdpa'"
        )


def _placement(
    device: str | None, device_map: str | Mapping[str, int | str] | None
) -> str | dict[str, int | str] | None:
    """What transformers is given as `device_map`: weights go straight to where they belong.

    Raises:
        ValueError: both, neither, an unknown map, or no CUDA device.
    """
    if device_map is None:
        if device is None:
            raise ValueError(
                "model.device=null: model.device_map is null too; give one of them, e.g. device=cuda"
            )
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(
                f"model.device={device!r}: torch sees no CUDA device; use model.device=cpu"
            )
        return None if device == "cpu" else {"": device}
    if device is not None:
        raise ValueError(
            f"model.device_map={device_map!r}: model.device={device!r} is given too; say model.device=null"
        )
    if isinstance(device_map, str):
        if device_map not in DEVICE_MAPS:
            raise ValueError(
                f"model.device_map={device_map!r}: must be one of {DEVICE_MAPS}, or module name: device"
            )
        return device_map
    return dict(device_map)


def _check_fits(source: Source, needed: int, dtype: str, device: str) -> None:
    """Before loading: a process that takes too much memory on the CPU is killed without a word."""
    free = available_bytes(torch.device(device))
    if free is not None and needed > free:
        raise ValueError(source.error(_too_large(dtype, device, f"{needed / 1e9:.1f} GB", free)))


def _too_large(dtype: str, where: str, needed: str, free: int | None) -> str:
    room = "" if free is None else f" ({free / 1e9:.1f} GB free)"
    smaller = "" if dtype in ("bfloat16", "float16") else "model.dtype=bfloat16, "
    return (
        f"out of memory: its weights in {dtype} ({needed}) do not fit on {where}{room}; use {smaller}"
        "a smaller checkpoint, or model.device=null model.device_map=auto to spread it over all GPUs and the host"
    )


def _quantised_by(config: Any) -> str | None:
    said = getattr(config, "quantization_config", None)
    return str(said["quant_method"]) if isinstance(said, Mapping) else None


def _missing_package(source: Source, config: Any, error: ImportError) -> str:
    reason, method = first_sentence(error), _quantised_by(config)
    if "flash" in reason.lower():
        return f"model.attn_implementation: {reason} Install it, or use 'sdpa'"
    if method is None:
        return source.error(f"a package that it needs is missing: {reason}")
    return source.error(
        f"its weights are quantised by {method!r}, which needs a package that is missing: {reason}; or use a "
        "checkpoint that is not quantised"
    )


@contextmanager
def _explained(source: Source, config: Any, dtype: str, where: str) -> Iterator[None]:
    """Turns what goes wrong while weights are read into one line.

    Raises:
        ValueError: out of memory, a package that is missing, or an attention, a device map or quantised weights that
            cannot be used here.
        OSError: weights are missing or broken.
    """
    try:
        yield
    except ImportError as error:
        raise ValueError(_missing_package(source, config, error)) from error
    except (OSError, SafetensorError) as error:
        raise OSError(
            source.error(f"its weights cannot be read: {first_sentence(error)}")
        ) from error
    except (RuntimeError, MemoryError, ValueError) as error:
        if is_out_of_memory(error):
            what = source.error(_too_large(dtype, where, "and what is needed to load them", None))
            raise ValueError(what) from error
        if method := _quantised_by(config):
            raise ValueError(
                source.error(
                    f"its weights are quantised by {method!r} and cannot be used here: {first_sentence(error)}; use a "
                    "checkpoint that is not quantised"
                )
            ) from error
        raise
