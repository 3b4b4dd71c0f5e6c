"""Selectors: relevance of each chunk to a question. May import engine, compressors, models, video and kv."""

from typing import TYPE_CHECKING

from x2l import lazy

if TYPE_CHECKING:
    from x2l.selectors.base import ChunkSelector, FrameSelector, Query

__all__ = ["ChunkSelector", "FrameSelector", "Query"]
__getattr__ = lazy(__name__, dict.fromkeys(__all__, "x2l.selectors.base"))
