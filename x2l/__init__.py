"""x2l: how much accuracy a video language model keeps for a given compute when its KV cache is compressed.

The names below are the library's public ones; each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from x2l.analysis import plot
    from x2l.analysis.frames import points, records
    from x2l.compressors.base import Level
    from x2l.evaluation.library import Reply, answer, answers, prefill
    from x2l.models.loading import load
    from x2l.video import open_frames, read_frames

__version__ = "0.1.0"
__all__ = [
    "Level",
    "Reply",
    "UserError",
    "answer",
    "answers",
    "load",
    "open_frames",
    "plot",
    "points",
    "prefill",
    "read_frames",
    "records",
]


class UserError(Exception):
    """What the user can correct; the message says how, in one line."""


def lazy(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562) that imports its public names when they are first used.

    Args:
        package: its name.
        homes: public name -> module that defines it, or that it is.
    """

    def getattr_of_package(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(homes[name])
        return module if homes[name].endswith(f".{name}") else getattr(module, name)

    return getattr_of_package


__getattr__ = lazy(
    __name__,
    {
        "Level": "x2l.compressors.base",
        "Reply": "x2l.evaluation.library",
        "answer": "x2l.evaluation.library",
        "answers": "x2l.evaluation.library",
        "load": "x2l.models.loading",
        "open_frames": "x2l.video",
        "plot": "x2l.analysis.plot",
        "points": "x2l.analysis.frames",
        "prefill": "x2l.evaluation.library",
        "read_frames": "x2l.video",
        "records": "x2l.analysis.frames",
    },
)


def __dir__() -> list[str]:
    return __all__
