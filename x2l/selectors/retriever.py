"""A picture-text retriever as a selector: the question against the frames, in a two-tower model's space."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.models.interface import VideoModel
from x2l.models.prompt import Chunk
from x2l.selectors.base import FrameRater, FrameSelector, Query, Watch
from x2l.selectors.dual_encoder import TwoTowers

POOLS = ("max", "mean")


@dataclass(frozen=True)
class RetrieverSelector(FrameSelector, FrameRater):
    """Cosine of the question and each frame, pooled over the chunk; for X-CLIP, LanguageBind of a clip a chunk. Final.

    The paper's relevance oracle was LanguageBind, run beforehand (selector `file` takes such results). X-CLIP's
    prompts, which mix text and video, are left out: its towers are used apart, as all others'.

    Attributes:
        name_or_path: repository or folder.
        revision: branch, tag or commit on the Hub.
        weights: the towers' fingerprint.
        dtype: of the towers.
        options: whether the question is searched for together with its options.
        pool: `max` or `mean` over a chunk's frames.
        towers: the loaded model.
    """

    name_or_path: str
    revision: str | None
    weights: str
    dtype: str
    options: bool
    pool: str
    towers: TwoTowers = field(repr=False, compare=False)
    name: str = "retriever"

    @staticmethod
    def load(
        name_or_path: str = "x2l_tiny_clip",
        options: bool = True,
        pool: str = "max",
        device: str | None = "cpu",
        dtype: str = "float32",
        revision: str | None = None,
        batch: int = 32,
    ) -> RetrieverSelector:
        """Loads the model; see the class for the arguments.

        Args:
            name_or_path: x2l_tiny_clip, any CLIP, SigLIP, SigLIP 2 or X-CLIP (`AutoModel`, `AutoProcessor`), or
                LanguageBind for video as published.
            options: add the options to the question, if it has any. Texts are cut to the model's length (64, 77).
            pool: `max` or `mean`.
            device: where the towers run; None (a model spread over several) = the first GPU, if there is one.
            dtype: float32, bfloat16 or float16.
            revision: on the Hub.
            batch: frames embedded at once.

        Raises:
            ValueError: a value that cannot work.
            OSError: the checkpoint is not there.
        """
        if pool not in POOLS:
            raise ValueError(f"selector.retriever.pool={pool!r}: must be one of {POOLS}")
        if not isinstance(batch, int) or batch < 1:
            raise ValueError(f"selector.retriever.batch={batch!r}: must be a whole number above 0")
        try:
            torch.device(device or "cpu")
        except RuntimeError:
            raise ValueError(
                f"selector.retriever.device={device!r}: must be cpu, cuda, cuda:1, ..., or null for the first GPU"
            ) from None
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        towers = TwoTowers.load(name_or_path, place, dtype, revision, batch)
        return RetrieverSelector(
            name_or_path, revision, towers.fingerprint, dtype, bool(options), pool, towers
        )

    def watch(self, meter: Meter) -> Watch:
        """Remembers embeddings of all frames `(frames, dim)`; where the model takes clips, `(chunks, dim)`."""
        return (_Pictures if self.towers.clip_frames is None else _Clips)(self.towers, meter)

    def relevance(self, query: Query, store: KVStore, model: VideoModel, meter: Meter) -> Tensor:
        """Cosine of the question and each frame (or clip), the chunk's maximum or mean.

        Raises:
            ValueError: the query does not carry what `prepare` made of the video.
        """
        scores = self._scores(query)
        meter.add("selection", self.towers.flops_text + 2 * query.prepared.numel())
        if self.towers.clip_frames is not None:
            return scores
        pooled = torch.amax if self.pool == "max" else torch.mean
        return torch.stack([pooled(of_chunk, dim=0) for of_chunk in _by_chunk(scores, store)])

    def frame_relevance(
        self, query: Query, store: KVStore, model: VideoModel
    ) -> tuple[Tensor, ...]:
        """Cosine of the question and each frame; the clip's for all frames of a chunk.

        Raises:
            ValueError: see `relevance`.
        """
        scores = self._scores(query)
        if self.towers.clip_frames is not None:
            frames = (chunk.frames for chunk in store.prompt.chunks)
            scores = scores.repeat_interleave(torch.tensor([b - a for a, b in frames]))
        return _by_chunk(scores, store)

    def _scores(self, query: Query) -> Tensor:
        """Cosine of the question and everything that was remembered."""
        if query.prepared is None:
            raise ValueError(
                f"selector={self.name}: question {query.key!r} came without the frames' embeddings; "
                "put what `prepare` returned for the video into Query.prepared"
            )
        words = " ".join([query.text, *query.choices]) if self.options else query.text
        return query.prepared @ self.towers.text(words)


def _by_chunk(scores: Tensor, store: KVStore) -> tuple[Tensor, ...]:
    """Scores of frames, a tensor a chunk."""
    return tuple(scores[slice(*chunk.frames)] for chunk in store.prompt.chunks)


class _Pictures(Watch):
    """Embeds frames in batches that do not depend on chunks."""

    def __init__(self, towers: TwoTowers, meter: Meter) -> None:
        self.towers, self.meter = towers, meter
        self.waiting: list[Tensor] = []
        self.embedded: list[Tensor] = []

    def show(self, chunk: Chunk, pixels: Tensor) -> None:
        self.waiting = [torch.cat([*self.waiting, pixels])]
        while len(self.waiting[0]) >= self.towers.batch:
            self._embed(self.waiting[0][: self.towers.batch])
            self.waiting = [self.waiting[0][self.towers.batch :]]

    def remembered(self) -> Tensor:
        for rest in self.waiting:
            if len(rest):
                self._embed(rest)
        return torch.cat(self.embedded)

    def _embed(self, pixels: Tensor) -> None:
        self.meter.add("retrieval", self.towers.flops_view * len(pixels))
        self.embedded.append(self.towers.pictures(pixels))


class _Clips(Watch):
    """Embeds one clip a chunk."""

    def __init__(self, towers: TwoTowers, meter: Meter) -> None:
        self.towers, self.meter = towers, meter
        self.embedded: list[Tensor] = []

    def show(self, chunk: Chunk, pixels: Tensor) -> None:
        self.meter.add("retrieval", self.towers.flops_view)
        self.embedded.append(self.towers.clip(pixels[self.towers.sampled(len(pixels))]))

    def remembered(self) -> Tensor:
        return torch.cat(self.embedded)
