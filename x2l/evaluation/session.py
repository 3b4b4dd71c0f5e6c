"""A pre-filled video that rates its chunks and answers questions: the one path of runs, `x2l-ask` and the library."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from x2l.compressors.base import Level
from x2l.compressors.draws import seed_of
from x2l.engine.ahead import ahead
from x2l.engine.assignment import assigned
from x2l.engine.batching import Batching
from x2l.engine.context_length import check_question
from x2l.engine.decode import Answer, Request, answers
from x2l.engine.disk_cache.cache import PrefillCache
from x2l.engine.disk_cache.key import pixels_digest
from x2l.engine.flops import kv_bytes
from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.engine.prefill import check_budgets, check_prefill, prefill
from x2l.engine.shown_chunks import ShownChunk, Waited, chunk_pixels, shown_chunks
from x2l.engine.taking import TakingRule
from x2l.evaluation.progress import Progress
from x2l.evaluation.settings import ConfigError, config_errors
from x2l.frames import SampledFrames
from x2l.models.interface import VideoModel
from x2l.models.kv_cache import Buffers
from x2l.models.out_of_memory import available_bytes
from x2l.models.prompt import Chunk, Prompt, Question
from x2l.selectors.base import (
    ChunkSelector,
    FrameRater,
    FrameSelector,
    IndexingSelector,
    Query,
    Remembered,
    Watch,
)
from x2l.selectors.from_file import FileSelector


@dataclass(frozen=True)
class Preparation:
    """What a selector remembers of the video, and what that took (stage `retrieval`)."""

    features: Remembered
    meter: Meter


@dataclass(frozen=True)
class Rating:
    """Relevance of each chunk, `(chunks,)`, and what that took (stage `selection`)."""

    relevance: Tensor
    meter: Meter


@dataclass(frozen=True)
class Decoding:
    """An answer, and what it took: stages `reload` and `decode`."""

    answer: Answer
    meter: Meter


@dataclass(frozen=True)
class Session:
    """A pre-filled video. Serves any number of questions; nothing here is ever changed. Final.

    Attributes:
        model: that pre-filled it.
        store: its KVs at every level.
        path: the video file.
        kv_bytes_full: what the KVs of its whole prompt would take, uncompressed.
        meter: of the pre-fill; where that was loaded, of when it was computed.
        seconds_load: that loading took; None if it was computed now.
        seconds_read: that was waited for frames to be decoded and prepared, for the pre-fill and for its address.
        prepared: by name, what selectors remember that look at frames, or keep something of the KVs on the device.
    """

    model: VideoModel
    store: KVStore
    path: str
    kv_bytes_full: int
    meter: Meter
    seconds_load: float | None
    seconds_read: float
    prepared: Mapping[str, Preparation]

    def question(self, text: str, max_new_tokens: int) -> Question:
        """The tokens of a question that fits the model's context even over the cache that takes least.

        A selector may run it over that one before anything is assigned.

        Raises:
            ConfigError: it cannot be asked, e.g. as it holds the model's video placeholder.
            ContextError: question and answer do not fit.
        """
        with config_errors():
            question = self.model.question(text)
        coarsest = (kv.tokens for kv in self.store.levels[self.store.coarsest])
        cached = max(map(sum, zip(self.store.prefix.tokens, *coarsest, strict=True)))
        limit, tokens = self.model.shape.context_length, len(question.input_ids)
        check_question(limit, cached, 0, tokens, max_new_tokens)
        return question

    def rate(self, name: str, selector: ChunkSelector, query: Query) -> Rating:
        """Relevance of each chunk to a question; where the answer lies is shown to no selector but a bound.

        Args:
            name: that the selector was prepared under, if it remembers anything.
            selector: rates.
            query: the question; `prepared` is filled in here.

        Raises:
            ConfigError: a file of chosen chunks does not fit the video, or the relevance is not a number.
            ValueError: the selector looks at frames and was not shown them.
        """
        query, meter = self._query_of(name, selector, query), Meter(self.model.device)
        # A file that does not fit the sampling is the user's to correct; any other ValueError is a fault.
        expected = config_errors() if isinstance(selector, FileSelector) else nullcontext()
        with expected, meter.stage("selection"):
            relevance = selector.relevance(query, self.store, self.model, meter)
        if relevance.isnan().any():
            raise ConfigError(
                f"selector={name}: its relevance to question {query.key!r} holds NaN, {relevance.tolist()}; where the "
                "model overflows, another model.dtype helps (bfloat16 for float16)"
            )
        return Rating(relevance, meter)

    def rate_frames(
        self, name: str, selector: ChunkSelector, query: Query
    ) -> tuple[Tensor, ...] | None:
        """Relevance of each chunk's frames, see `FrameRater`; None where the selector cannot say.

        Args:
            name: see `rate`.
            selector: rates.
            query: see `rate`.

        Raises:
            ValueError: see `rate`.
        """
        if not isinstance(selector, FrameRater):
            return None
        return selector.frame_relevance(
            self._query_of(name, selector, query), self.store, self.model
        )

    def _query_of(self, name: str, selector: ChunkSelector, query: Query) -> Query:
        """The query as this selector may see it."""
        if isinstance(selector, FrameSelector) and name not in self.prepared:
            raise ValueError(
                f"selector {name}: looks at the video's frames, which are gone by now; name it at the pre-fill, "
                "selectors=[...]"
            )
        features = self.prepared[name].features if name in self.prepared else None
        spans = query.spans if selector.role == "bound" else None
        return replace(query, prepared=features, spans=spans)

    def assign(
        self,
        relevance: Tensor,
        top_k: int | str,
        pinned: Sequence[str] = (),
        gt: Sequence[int] | None = None,
        taking: TakingRule | None = None,
        key: str = "",
    ) -> tuple[str, ...]:
        """A level for every chunk, see `assignment.assigned`; of a short video no more chunks than there are."""
        return assigned(relevance, top_k, self.store, self.kv_bytes_full, pinned, gt, taking, key)

    def decode(
        self, question: Question, assignment: Sequence[str], max_new_tokens: int
    ) -> Decoding:
        """Answers from the mixed cache.

        Raises:
            ContextError: question and answer do not fit the model's context.
        """
        request = Request(question, tuple(assignment))
        (decoding,) = self._decoded([request], max_new_tokens)
        return decoding

    def decode_together(
        self, requests: Sequence[Request], max_new_tokens: int, batching: Batching
    ) -> dict[int, Decoding]:
        """Answers several requests in batches, by index; those that fail alone are left out, see `Batching.run`.

        A batch takes at most half of the memory that is left: attention makes copies of its own.
        """
        model, store = self.model, self.store
        layers, free = model.shape.layers, available_bytes(model.device)
        lengths = [
            store.mixed_tokens(request.assignment) // layers
            + len(request.question.input_ids)
            + max_new_tokens
            for request in requests
        ]
        most_tokens = None if free is None else free // 2 // kv_bytes(model.shape, 1)
        return batching.run(
            lambda indices: self._decoded(
                [requests[i] for i in indices], max_new_tokens, batching.buffers
            ),
            lengths,
            most_tokens,
        )

    def _decoded(
        self, requests: Sequence[Request], max_new_tokens: int, buffers: Buffers | None = None
    ) -> list[Decoding]:
        meters = [Meter(self.model.device) for _ in requests]
        said = answers(self.model, self.store, requests, max_new_tokens, meters, buffers)
        return [Decoding(*one) for one in zip(said, meters, strict=True)]


def video_seed(seed: int, path: str) -> int:
    """Of the draws about one video: the run's seed and the file's name, wherever it lies and whoever asks."""
    return seed_of(seed, Path(path).name)


def open_session(
    model: VideoModel,
    frames: SampledFrames,
    prompt: Prompt,
    levels: Mapping[str, Level],
    context: str,
    positions: str,
    seed: int,
    selectors: Mapping[str, ChunkSelector],
    cache: PrefillCache | None = None,
    watch: Callable[[Chunk, Tensor], None] | None = None,
) -> Session:
    """Pre-fills the video, with a progress bar; lets selectors see the frames, and keep what they need of the KVs.

    Args:
        model: the model.
        frames: of the video.
        prompt: of these frames.
        levels: by name, finest first.
        context: what later chunks attend to, see `engine.prefill.prefill`.
        positions: `keep` or `compact`.
        seed: with the file's name it fixes what methods draw at random.
        selectors: by name; those that remember nothing are passed over.
        cache: where pre-fills are kept, if they are.
        watch: is shown every chunk's pixels once, too.

    Raises:
        ConfigError: settings that cannot work, a method's window, sink or group does not fit a chunk, or the model
            lacks heads or layers that a selector reads.
        ContextError: the video is longer than the model's context.
        VideoError: a picture cannot be decoded.
    """
    indexing = {n: s for n, s in selectors.items() if isinstance(s, IndexingSelector)}
    asked_for = (selector.written(model.shape) for selector in indexing.values())
    indexes = sorted({index for index in asked_for if index is not None})
    with config_errors():  # the user's to correct, and found before anything runs
        check_prefill(levels, context, positions, indexes)
        check_budgets(levels, prompt, model)
        for selector in selectors.values():
            selector.check_shape(model.shape)
    watching = _Watching(model, selectors, watch)
    meter, draws = Meter(model.device), video_seed(seed, frames.path)
    seconds_read = 0.0

    def compute() -> KVStore:
        nonlocal seconds_read
        label = f"pre-fill of {Path(frames.path).stem}, chunks"
        with (
            Progress(len(prompt.chunks), label, unit="chunk", leave=False) as progress,
            ahead(shown_chunks(model, prompt)) as made,
        ):
            shown = Waited(made)
            rules = (context, positions, meter, draws, progress.at, indexes)
            store = prefill(model, prompt, levels, *rules, watching.passed_on(shown))
            seconds_read += shown.seconds
            return store

    def pixels() -> str:
        nonlocal seconds_read
        with ahead(chunk_pixels(prompt)) as made:
            shown = Waited(made)
            digest = pixels_digest(watching.pixels(shown))
            seconds_read += shown.seconds
            return digest

    full, loaded = kv_bytes(model.shape, prompt.tokens), None
    if cache is None:
        store = compute()
    else:
        shape = {"context": context, "positions": positions, "indexes": indexes}
        store, loaded = cache.get(compute, model, prompt, levels, shape, draws, meter, pixels)
    prepared = watching.prepared()
    for name, indexer in indexing.items():
        if (kept := _remembered(model, indexer, store)) is not None:
            prepared[name] = kept
    seconds_load = None if loaded is None else loaded.seconds
    return Session(model, store, frames.path, full, meter, seconds_load, seconds_read, prepared)


class _Watching:
    """Shows every chunk's pixels once, however often the video is decoded, to all that look at them."""

    def __init__(
        self,
        model: VideoModel,
        selectors: Mapping[str, ChunkSelector],
        watch: Callable[[Chunk, Tensor], None] | None,
    ) -> None:
        self._watch, self._shown = watch, 0
        self._watches: dict[str, tuple[Watch, Meter]] = {}
        for name, selector in selectors.items():
            if isinstance(selector, FrameSelector):
                meter = Meter(model.device)
                self._watches[name] = selector.watch(meter), meter

    def look(self, chunk: Chunk, pixels: Tensor) -> None:
        """At a chunk, if it is a new one."""
        if chunk.index < self._shown:
            return
        self._shown += 1
        for watch, meter in self._watches.values():
            with meter.stage("retrieval"):
                watch.show(chunk, pixels)
        if self._watch is not None:
            self._watch(chunk, pixels)

    def passed_on(self, shown: Iterator[ShownChunk]) -> Iterator[ShownChunk]:
        """The same chunks, looked at."""
        for one in shown:
            self.look(one.chunk, one.pixels)
            yield one

    def pixels(self, chunks: Iterator[tuple[Chunk, Tensor]]) -> Iterator[Tensor]:
        """Those of the chunks, looked at."""
        for chunk, pixels in chunks:
            self.look(chunk, pixels)
            yield pixels

    def prepared(self) -> dict[str, Preparation]:
        """By name, what selectors remember."""
        prepared = {}
        for name, (watch, meter) in self._watches.items():
            with meter.stage("retrieval"):
                prepared[name] = Preparation(watch.remembered(), meter)
        return prepared


def _remembered(
    model: VideoModel, selector: IndexingSelector, store: KVStore
) -> Preparation | None:
    meter = Meter(model.device)
    with meter.stage("retrieval"):
        index = selector.remember(store, model, meter)
    return None if index is None else Preparation(index, meter)
