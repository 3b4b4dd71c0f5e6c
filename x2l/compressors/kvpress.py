"""Scores of NVIDIA's kvpress (optional extra `x2l[kvpress]`), where they are right on every architecture.

Only the score functions are used: a press's context manager compresses the first forward on an empty cache and fails
on current transformers. The engine shows keys, values and queries, not modules, so presses that read hidden states
through an attention layer's own projections are refused by name; x2l has the same methods, computed from real queries.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from x2l.compressors.base import Observation, Sizes
from x2l.compressors.pruning_by_keys import RankedPruning
from x2l.compressors.scorers import exact, generator
from x2l.kv import LayerKV

VERSION = "0.5.2"  # the newest that allows current transformers; its scores are what the tests compare with

# What needs keys and values only: right whatever the architecture, since the engine makes both.
SUPPORTED = (
    "KnormPress",
    "KeyDiffPress",
    "CURPress",
    "LagKVPress",
    "StreamingLLMPress",
    "RandomPress",
)

_PROJECTS = (
    "makes queries or keys again from hidden states with the layer's projections, which the engine does not "
    "show, and without the norms that Qwen3-VL and others put behind them"
)
_TRAINED = "reads files trained for single text models"
_PASSES = "runs the model over the context again, with a prompt of its own"
_WRAPS = "wraps another press or schedules when it runs, which is the engine's part here"
_MASKS = "marks KVs for a patched attention to skip and drops none, so nothing gets smaller"

REFUSED = {
    "SnapKVPress": f"{_PROJECTS}; use compressor=snapkv",
    "TOVAPress": f"{_PROJECTS}; use compressor=tova",
    "PyramidKVPress": f"{_PROJECTS}; use compressor=snapkv",
    "NonCausalAttnPress": f"{_PROJECTS}; use compressor=compactor",
    "LeverageScorePress": f"{_PROJECTS}; use compressor=compactor",
    "CompactorPress": f"{_PROJECTS}; use compressor=compactor",
    "ExpectedAttentionPress": f"{_PROJECTS}, at positions that start again with every chunk; "
    "use compressor=expected_attention",
    "ObservedAttentionPress": "needs the whole attention matrix; use compressor=attention_received",
    "ExpectedAttentionStatsPress": _TRAINED,
    "QFilterPress": _TRAINED,
    "KVzapPress": _TRAINED,
    "FastKVzipPress": _TRAINED,
    "DuoAttentionPress": _TRAINED,
    "KVzipPress": _PASSES,
    "FinchPress": "needs the question in the context; use compressor=task_aware",
    "ThinKPress": "drops channels, not KVs",
    "SimLayerKVPress": "chooses layers, not KVs",
    "AdaKVPress": _MASKS,
    "CriticalKVPress": _MASKS,
    "CriticalAdaKVPress": _MASKS,
    "DMSPress": _MASKS,
    "BlockPress": _WRAPS,
    "ChunkPress": _WRAPS,
    "ChunkKVPress": _WRAPS,
    "ComposedPress": _WRAPS,
    "DecodingPress": _WRAPS,
    "KeyRerotationPress": _WRAPS,
    "PerLayerCompressionPress": _WRAPS,
    "PrefillDecodingPress": _WRAPS,
}


def _always_kept(press: Any, tokens: int) -> tuple[str, int]:
    """What a press keeps whatever its score: the option that says so, and how many of a chunk's tokens."""
    kind = type(press).__name__
    if kind == "StreamingLLMPress":
        return "n_sink", press.n_sink
    if kind == "CURPress":
        return "num_sinks", press.num_sinks
    if kind == "LagKVPress":  # two partitions at least, or it only keeps the newest
        whole = tokens - press.n_sink
        tail = press.lag_size + whole % press.lag_size if whole >= 2 * press.lag_size else whole
        return "lag_size", press.n_sink + tail
    return "", 0


@dataclass(frozen=True)
class KVPress(RankedPruning):
    """Keeps what the score of a press of kvpress says. Final.

    It is given the chunk's rotated keys and its values, as if these were all of a cache.

    Attributes:
        press: name of its class, one of `SUPPORTED`.
        options: its own arguments, e.g. `{n_sink: 0}`; None = its defaults. Never `compression_ratio`, which follows
            from the level's ratio. RandomPress draws by video, chunk and layer unless it is given a `seed`.
    """

    press: str
    options: Mapping[str, Any] | None = None
    name: str = "kvpress"
    draws = True  # RandomPress does

    def __post_init__(self) -> None:
        """Checks the press and its options.

        Raises:
            ValueError: an unknown or unusable press, an unknown option, or kvpress is not there.
        """
        if self.press not in SUPPORTED:
            why = REFUSED.get(self.press, "is not known")
            raise ValueError(
                f"{self.name}: press={self.press!r}: {why}; the presses that need keys and values only are {SUPPORTED}"
            )
        if "compression_ratio" in (self.options or {}):
            raise ValueError(
                f"{self.name}: options.compression_ratio: follows from the level; set levels.<level>.ratio"
            )
        try:
            self._built(0.5, {})
        except TypeError as error:
            raise ValueError(f"{self.name}: options={self.options}: {error}") from error

    def check(self, tokens: int, keep: int) -> None:
        """Whether the press keeps anything by its score.

        Raises:
            ValueError: it would keep its sinks or its last tokens and nothing else.
        """
        option, kept = _always_kept(self._built(0.5, {}), tokens)
        if kept >= keep:
            raise ValueError(
                f"{self.name}: {self.press} always keeps {kept} tokens of a chunk, here {keep} of {tokens} may be "
                f"kept, so it would choose nothing; set options.{option} lower, lower the ratio, or pre-fill larger "
                f"chunks (prefill.chunk_frames)"
            )

    def importance(self, kv: LayerKV, obs: Observation, keep: int) -> Tensor:
        """The press's score."""
        self.check(kv.tokens, keep)
        drawn = self.press == "RandomPress"
        # (k + 1/2) / n: int(n * (1 - ratio)), which presses compute in floats, is then k.
        removed = 1 - (keep + 0.5) / kv.tokens
        press = self._built(removed, {"seed": generator(obs).initial_seed()} if drawn else {})
        keys = obs.rope.apply_rope(kv.keys, obs.positions)
        if drawn:
            keys = keys.cpu()  # where its random numbers come from
        scores = press.score(None, None, keys, kv.values, None, {})
        return exact(scores[0]).to(kv.keys.device)

    def _built(self, removed: float, defaults: Mapping[str, Any]) -> Any:
        return _press(self.press)(
            **{**defaults, **(self.options or {}), "compression_ratio": removed}
        )

    def flops(self, sizes: Sizes) -> int:
        """Nothing but norms and the like: one multiply-add for each entry of keys and values."""
        return 4 * sizes.heads * sizes.tokens * sizes.head_dim


@cache
def _press(name: str) -> Callable[..., Any]:
    """A class of kvpress, imported without its side effect.

    Importing kvpress puts a wrapper around every attention function of transformers, for the whole process. Pruning
    needs none of them, so they are taken off again.

    Raises:
        ValueError: not installed, or another version.
    """
    try:
        found = version("kvpress")
    except PackageNotFoundError:
        found = None
    if found != VERSION:
        raise ValueError(
            f"kvpress: version {VERSION} must be installed, found {found}; pip install 'x2l[kvpress]' (Python < 3.13)"
        )
    before = dict(ALL_ATTENTION_FUNCTIONS.items())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of fire, which it imports
        module = importlib.import_module("kvpress")
    for kind, function in before.items():
        if ALL_ATTENTION_FUNCTIONS[kind] is not function:
            del ALL_ATTENTION_FUNCTIONS[kind]  # what was laid over the registered one
    return getattr(module, name)
