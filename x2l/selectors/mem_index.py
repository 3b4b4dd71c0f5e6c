"""FlexMem's MemIndex: a few keys of every chunk, chosen while it is pre-filled, stand for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from x2l.engine.attended_keys import AttendedKeys, ChunkKeys
from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.interface import ModelShape, VideoModel
from x2l.models.positions import Placement
from x2l.selectors.base import IndexingSelector, Query
from x2l.selectors.head_keys import pooled
from x2l.selectors.question_pass import TOKENS, rated_tokens, run_question


@dataclass(frozen=True)
class MemIndexSelector(IndexingSelector):
    """Attention of the question's last token to the keys of a chunk that the chunk itself attended to most. Final.

    FlexMem's MemIndex (arXiv 2603.29252; `FlexMem-fast/flexmem`, Apache-2.0, written anew): 5 visual tokens of each
    chunk and layer, those that get most attention from the chunk's own tokens as it is pre-filled. Attention to them is
    within the text before the video and them alone, all chunks standing right behind that text; mean over heads,
    summed over layers. The question is run over the coarsest level for its queries, and stands right behind the keys
    (the code turns its last token to every position from 0 on, and sums).

    Attributes:
        layers: counted from 0. None = all from `first_layer` on: the paper takes the three of largest weight in a
            regression of what layers say on what encoding with the question says (selector `flexmem`); its code has
            14, 22 and 26 for LLaVA-Video-7B, of 28.
        first_layer: where no layers are named.
        keys: visual tokens kept of a chunk.
        tokens: the last of `all`, the template included, or of the `question`'s own words, speaks for it.
    """

    layers: tuple[int, ...] | None = None
    first_layer: int = 3
    keys: int = 5
    tokens: str = "all"
    name: str = "mem_index"

    @staticmethod
    def load(layers: Any = None, **settings: Any) -> MemIndexSelector:
        """From plain values; see the class.

        Raises:
            ValueError: a value that cannot work.
        """
        if layers is None:
            return MemIndexSelector(**settings)
        listed = isinstance(layers, Sequence) and not isinstance(layers, str) and len(layers) > 0
        if not listed or not all(type(layer) is int and layer >= 0 for layer in layers):
            raise ValueError(
                f"selector.mem_index.layers={layers}: must be null (all from first_layer on) or a list of layers "
                "counted from 0, such as [14,22,26]"
            )
        return MemIndexSelector(tuple(sorted(set(layers))), **settings)

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ValueError: an unknown word, or a number that cannot be.
        """
        self.check_words({"tokens": TOKENS})
        self.check_counts("first_layer", least=0)
        self.check_counts("keys")

    def check_shape(self, shape: ModelShape) -> None:
        """The model must have the layers.

        Raises:
            ValueError: it has not.
        """
        last = self.first_layer if self.layers is None else self.layers[-1]
        if last >= shape.layers:
            field = "first_layer" if self.layers is None else "layers"
            raise ValueError(
                f"selector.mem_index.{field}: {last} is beyond this model, which has {shape.layers} layers, counted "
                "from 0; use smaller ones"
            )

    @override
    def written(self, shape: ModelShape) -> AttendedKeys:
        return AttendedKeys(self.layers or tuple(range(self.first_layer, shape.layers)), self.keys)

    def remember(self, store: KVStore, model: VideoModel, meter: Meter) -> ChunkKeys:
        """The keys that the pre-fill wrote; what that took is counted here.

        Raises:
            ValueError: it wrote none.
        """
        index = self.written(model.shape)
        if index not in store.indexes:
            raise ValueError(
                f"selector {self.name}: the pre-fill wrote no index for it; name it at the pre-fill, selectors=[...]"
            )
        kept = store.indexes[index]
        meter.add("retrieval", kept.flops)
        meter.seconds["retrieval"] += kept.seconds
        return kept

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """Summed attention to the keys of each chunk.

        Raises:
            ValueError: the query does not carry what `remember` gave.
        """
        index = query.prepared
        if not isinstance(index, ChunkKeys):
            raise ValueError(
                f"selector {self.name}: keeps an index of the video, which was not made; name it at the pre-fill, "
                "selectors=[...]"
            )
        run = run_question(query.question, store, model, meter, index.layers[-1])
        token = rated_tokens(query, self.tokens)[-1:]
        start = store.prompt.prefix
        offsets = torch.cat([torch.arange(count) for count in index.counts])
        positions = (start + offsets).expand(model.axes, -1)
        place = Placement(start + max(index.counts), start)
        total = torch.zeros(len(index.counts), dtype=torch.float64)
        for layer, keys in zip(index.layers, index.keys, strict=True):
            before = model.rotate(store.prefix.layers[layer])[0]
            there = torch.cat([before, model.apply_rope(keys[None], positions)[0]], dim=1)
            queries = run.queries(layer, token, place)[:, 0].unflatten(0, (len(keys), -1))
            logits = queries @ there.to(queries.dtype).mT * model.scaling  # (H, heads sharing, T)
            meter.add("selection", 2 * queries.numel() * there.shape[1])
            prefix, chunks = logits.split([start, len(offsets)], dim=-1)
            # A chunk's part of a softmax over the prefix and itself.
            share = pooled(chunks, index.counts, "lse") - prefix.logsumexp(dim=-1, keepdim=True)
            total += share.sigmoid().mean(dim=(0, 1)).cpu()
        return total
