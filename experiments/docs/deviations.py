"""How far methods are from their authors' code where they are not it, measured on real chunks.

    python -m experiments.docs.deviations  # x2l_tiny, two needle videos -> experiments/results/deviations.json

The authors' rules are written anew here, from the files named with each; docs/methods.md shows the numbers.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor
from torch.nn.functional import normalize

from x2l.benchmarks.needle.benchmark import Needle
from x2l.compressors.base import Level
from x2l.compressors.composed import D2O, kept_by, nearest
from x2l.compressors.merging import matching
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.engine.prefill import prefill
from x2l.kv import LayerKV
from x2l.models import loading
from x2l.video import read_frames

OUT = Path(__file__).parents[1] / "results" / "deviations.json"


def chunks() -> Iterator[LayerKV]:
    """Uncompressed KVs of every layer and chunk of two videos."""
    model = loading.load("x2l_tiny")
    with tempfile.TemporaryDirectory() as folder:
        needle = Needle(folder, videos=2, seconds=32, needles=4)
        needle.prepare()
        for path in dict.fromkeys(sample.video for sample in needle.samples()):
            prompt = model.prompt(read_frames(path, 32, None), 8)
            store = prefill(model, prompt, {"all": Level(KeyNorm(), 1)})
            for kv in store.levels["all"]:
                yield from (layer.decode() for layer in kv.layers)


def tome_groups(keys: Tensor, remove: int) -> Tensor:
    """The group of each token by the authors' code (ToMe tome/merge.py, tome/patch/timm.py).

    Keys are averaged over heads, and tokens at even places point to those at odd places.
    """
    features = normalize(keys.float().mean(dim=0), dim=-1)
    strength, partner = (features[0::2] @ features[1::2].T).max(dim=-1)
    chosen = strength.argsort(descending=True, stable=True)[:remove]
    target = torch.arange(keys.shape[1])
    target[2 * chosen] = 2 * partner[chosen] + 1
    return target


def together(group: Tensor) -> Tensor:
    """Which pairs of tokens are in one group, `(T, T)`, without each token with itself."""
    return (group[:, None] == group[None]).triu(1)


def tome(kv: LayerKV) -> float:
    """Of the pairs that a round at 2x merges here, the share that the authors' code merges, too."""
    remove = kv.tokens // 2
    here, there = (together(rule(kv.keys[0], remove)) for rule in (matching, tome_groups))
    return float((here & there).sum() / here.sum())


def d2o(kv: LayerKV, keep: int) -> tuple[float, float]:
    """Of the dropped KVs: the share recalled by one of both rules only; and how far the merged keys are from theirs.

    The authors' code (D2O kv_token_merge/modify_llama_merge.py) recalls the n-th dropped KV of all heads together, if
    the heads' mean cosine is at least the mean of all; and takes the plain mean of the kept key and cosine times key.
    """
    pruner = KeyNorm()
    kept = kept_by(pruner, kv, None, keep)
    cosine, place = nearest(kv.keys[0], kept)
    dropped = torch.ones_like(place, dtype=torch.bool).scatter_(1, kept, False)
    heads = len(kept)
    of_dropped = cosine[dropped].view(heads, -1)
    ours = of_dropped >= of_dropped.mean(dim=-1, keepdim=True)
    theirs = (of_dropped.mean(dim=0) >= of_dropped.mean()).expand(heads, -1)
    keys = kv.keys[0]
    base = keys.gather(1, kept[..., None].expand(-1, -1, keys.shape[-1]))
    total, count = base.clone(), torch.ones(heads, keep)
    for head in range(heads):
        where = dropped[head].nonzero()[:, 0][theirs[head]]
        target = place[head, where]
        total[head].index_add_(0, target, cosine[head, where, None] * keys[head, where])
        count[head].index_add_(0, target, torch.ones(len(where)))
    official = total / count[..., None]
    merged = D2O(pruner).compress(kv, None, keep).keys[0]
    difference = (merged - official).norm(dim=-1) / official.norm(dim=-1)
    return float((ours != theirs).float().mean()), float(difference.mean())


def main() -> int:
    """Measures and writes."""
    layers = list(chunks())
    both = [d2o(kv, kv.tokens // 2) for kv in layers]
    measured = {
        "layers": len(layers),
        "tome": fmean(map(tome, layers)),
        "d2o_recalled": fmean(share for share, _ in both),
        "d2o_keys": fmean(difference for _, difference in both),
    }
    OUT.write_text(json.dumps(measured, indent=1) + "\n")
    print(measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
