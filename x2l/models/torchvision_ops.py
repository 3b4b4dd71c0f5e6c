"""Lets Hugging Face's video processors import where torchvision's compiled operators cannot load.

The processors use torchvision's Python code only (resize, normalise). On a CPU-only torch the wheel of
torchvision from PyPI is a CUDA build: its C++ library cannot load, and `import torchvision` dies with
"operator torchvision::nms does not exist" while it registers shapes for operators that were never
declared. transformers then reports every video processor as missing. Declaring the names is enough.
Nothing is declared where the operators exist; calling a declared operator still raises.
"""

import importlib.util
import sys
from pathlib import Path

import torch

# What torchvision 0.2x registers shapes and gradients for, in _meta_registrations.py and _autograd_registrations.py.
_OPERATORS = (
    "nms",
    "qnms",
    "roi_align",
    "qroi_align",
    "_roi_align_backward",
    "ps_roi_align",
    "_ps_roi_align_backward",
    "roi_pool",
    "_roi_pool_backward",
    "ps_roi_pool",
    "_ps_roi_pool_backward",
    "deform_conv2d",
    "_deform_conv2d_backward",
)
_declared: list[
    torch.library.Library
] = []  # a Library un-declares its operators when it is collected


def _compiled_operators_load(folder: Path) -> bool:
    """Loads torchvision's C++ library as torchvision itself would; False if that fails."""
    for library in sorted(folder.glob("_C*")):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            return False
    return hasattr(torch.ops.torchvision, "nms")


def ensure_torchvision_imports() -> None:
    """Declares torchvision's operators if, and only if, its C++ library cannot load.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    if "torchvision" in sys.modules or _declared:
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "torchvision is not installed: Hugging Face's video processors need it; "
            "run `pip install torchvision` in the version that pairs with your torch"
        )
    if _compiled_operators_load(Path(spec.origin).parent):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in _OPERATORS:
        library.define(f"{name}(...) -> ...")
    _declared.append(library)
