"""NVIDIA's kvpress as an oracle: which KVs of a chunk its presses keep, where they need keys and values only.

0.5.2 is the newest that allows current transformers; it needs Python < 3.13. Only score functions are called: a press's
context manager compresses the first forward on an empty cache and fails there.
"""

import importlib
import warnings
from importlib.util import find_spec

import pytest
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

needs_kvpress = pytest.mark.skipif(
    find_spec("kvpress") is None, reason="the oracle is absent: pip install kvpress==0.5.2"
)


def press(name, ratio=0.5, **options):
    """A press, imported without the wrapper that kvpress puts around every attention function of transformers."""
    before = dict(ALL_ATTENTION_FUNCTIONS.items())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of fire, which it imports
        module = importlib.import_module("kvpress")
    for kind, function in before.items():
        if ALL_ATTENTION_FUNCTIONS[kind] is not function:
            del ALL_ATTENTION_FUNCTIONS[kind]  # what was laid over the registered one
    return getattr(module, name)(compression_ratio=ratio, **options)


def scores(kv, obs, keep, name, **options):
    """A press's score `(H, T)` of a chunk, as if its rotated keys and values were all of a cache."""
    # (k + 1/2) / n: int(n * (1 - ratio)), which presses compute in floats, is then k.
    removed = 1 - (keep + 0.5) / kv.tokens
    keys = obs.rope.apply_rope(kv.keys, obs.positions)
    return press(name, removed, **options).score(None, None, keys, kv.values, None, {})[0]


def kept(kv, obs, keep, name, **options):
    """Keys of what it keeps, in time order."""
    best = scores(kv, obs, keep, name, **options).argsort(dim=-1, descending=True, stable=True)
    return kv.take(best[:, :keep].sort(dim=-1).values).keys
