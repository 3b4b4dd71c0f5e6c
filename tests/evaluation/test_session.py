"""One path for runs, `x2l-ask` and the library: the same seeds, the same pre-fill, the same answer."""

import importlib
import inspect
import json
import math
import pkgutil
import threading
import weakref
from dataclasses import dataclass

import pytest
import torch

import x2l
from tests.clips import Clips, flat
from tests.engine.disk_cache.test_file_format import differing
from tests.evaluation.test_runner import go
from tests.tiny import frames, ours
from x2l import selectors
from x2l.cli.ask import command
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.compressors.pruning_controls import RandomPruning
from x2l.engine.disk_cache.cache import PrefillCache
from x2l.engine.meter import Meter
from x2l.evaluation.session import video_seed
from x2l.evaluation.settings import ConfigError
from x2l.models import loading
from x2l.selectors.attention import AttentionSelector
from x2l.selectors.base import ChunkSelector, FrameSelector, IndexingSelector, Query, Watch
from x2l.selectors.controls import LastSelector
from x2l.selectors.keys import KeysSelector
from x2l.selectors.oracle import OracleSelector
from x2l.video import write_video

TWO = {"low": Level(ToMe(), 2), "high": Level(ToMe(), 8)}


def test_one_question_asked_both_ways_with_a_method_that_draws(tmp_path, capsys):
    """Bytes, relevance and words are equal, and the second way finds the pre-fill of the first."""
    clips = Clips(str(tmp_path), videos=1, questions=1)
    clips.prepare()
    (sample,) = clips.samples()
    methods = {"low": Level(RandomPruning(), 2), "high": Level(RandomPruning(), 8)}
    summary = go(
        tmp_path / "run",
        tmp_path,
        lambda: loading.load("x2l_tiny"),
        {"attention": AttentionSelector()},
        clips,
        methods=methods,
        top_k=(2,),
        prefill_cache=str(tmp_path / "cache"),
    )
    (record,) = flat(summary.records)
    overrides = ["compressor=random", "levels.high.ratio=8", "prefill.chunk_frames=4", "top_k=2"]
    overrides += ["video.frames=16", f"prefill.cache={tmp_path}/cache", "selector=attention"]
    question = [sample.video, sample.question, "--max-new-tokens", "3"]
    command.main([*question, "--save", str(tmp_path / "asked"), "--", *overrides])
    assert "loaded from prefill.cache" in capsys.readouterr().out
    (path,) = (tmp_path / "asked").glob("*.json")
    reply = json.loads(path.read_text())
    assert reply["answer"] == record.prediction
    assert reply["kv_bytes_stored"] == record.kv_bytes_stored
    assert reply["kv_bytes_full"] == record.kv_bytes_full
    assert reply["flops"] == record.flops_selection + record.flops_reload + record.flops_decode
    rated = [float(f"{chunk['relevance']:.6g}") for chunk in reply["chunks"]]
    assert rated == list(record.relevance) and len(set(rated)) == 4
    assert tuple(chunk["level"] for chunk in reply["chunks"]) == record.assigned


def test_a_videos_draws_follow_from_the_seed_and_the_files_name():
    assert video_seed(0, "a/film.mp4") == video_seed(0, "/b/film.mp4")
    assert len({video_seed(0, "film.mp4"), video_seed(1, "film.mp4"), video_seed(0, "x.mp4")}) == 3


def every_selector():
    """All concrete selectors of the package."""
    modules = [
        importlib.import_module(f"x2l.selectors.{m.name}")
        for m in pkgutil.iter_modules(selectors.__path__)
    ]
    found = {kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass)}
    return sorted(
        (
            kind
            for kind in found
            if issubclass(kind, ChunkSelector) and not inspect.isabstract(kind)
        ),
        key=lambda kind: kind.__name__,
    )


@pytest.mark.parametrize("kind", every_selector())
def test_only_a_bound_is_shown_where_the_answer_lies(kind, monkeypatch):
    seen = []
    looks = lambda self, query, *_: seen.append(query.spans) or torch.zeros(2)  # noqa: E731
    monkeypatch.setattr(kind, "relevance", looks)
    if issubclass(kind, FrameSelector):
        monkeypatch.setattr(kind, "watch", lambda _, meter: Means(meter))
    monkeypatch.setattr(kind, "remember", lambda *_: None, raising=False)
    monkeypatch.setattr(kind, "check_shape", lambda *_: None)
    selector = object.__new__(kind)
    object.__setattr__(selector, "name", "it")
    session = x2l.prefill(ours("qwen2_5_vl"), frames(8), TWO, 4, selectors=[selector])
    spans = ((0.0, 1.0),)
    session.rate("it", selector, Query(session.question("What?", 1), "q", spans))
    assert seen == [spans if kind.role == "bound" else None]


def test_every_selector_was_walked():
    names = {kind.__name__ for kind in every_selector()}
    assert {"OracleSelector", "HitRateSelector", "RandomSelector", "FileSelector"} <= names
    assert {kind.__name__ for kind in every_selector() if kind.role == "bound"} == {
        "OracleSelector",
        "HitRateSelector",
    }


class Means(Watch):
    def __init__(self, meter):
        self.means = []
        meter.add("retrieval", 7)

    def show(self, chunk, pixels):
        self.means.append(pixels.float().mean(dim=(1, 2, 3)))

    def remembered(self):
        return torch.cat(self.means)


class Bright(FrameSelector):
    name = "bright"

    def watch(self, meter):
        return Means(meter)

    def relevance(self, query, store, model, meter):
        return query.prepared[[chunk.frames[0] for chunk in store.prompt.chunks]]


def test_a_selector_that_looks_at_frames_is_named_at_the_prefill():
    model = ours("qwen2_5_vl")
    shown = x2l.prefill(model, frames(16), TWO, 4, selectors=[Bright()])
    assert shown.prepared["bright"].meter.flops["retrieval"] == 7
    reply = x2l.answer(shown, "What?", Bright(), top_k=1, max_new_tokens=1)
    assert reply.reloaded == (max(range(4), key=lambda i: reply.relevance[i]),)
    with pytest.raises(ValueError, match=r"selector bright: looks at the video's frames"):
        x2l.answer(x2l.prefill(model, frames(16), TWO, 4), "What?", Bright())


class Shown(Watch):
    """Remembers which chunks it was shown, and how many pixels of earlier ones were still there."""

    def __init__(self):
        self.chunks, self.pixels, self.left = [], [], []

    def show(self, chunk, pixels):
        self.left.append(sum(one() is not None for one in self.pixels[:-1]))
        self.chunks.append((chunk.index, len(pixels)))
        self.pixels.append(weakref.ref(pixels))

    def remembered(self):
        return torch.tensor(self.chunks)


class Looking(Bright):
    name = "looking"

    def watch(self, meter):
        self.shown = Shown()
        return self.shown


@pytest.mark.parametrize(
    "family", ["qwen2_5_vl", "video_llama_3"]
)  # the second looks back, and drops tokens
def test_a_stream_is_prefilled_like_frames_in_memory_and_shown_once(tmp_path, family):
    """Same KVs, same address, whichever comes first; and of earlier chunks only the last one is left."""
    path, model = tmp_path / "clip.mp4", ours(family)
    write_video(path, frames(23, size=(64, 96)).pixels.numpy(), 1)
    stream, looking = x2l.open_frames(path, 22, None), Looking()
    plain = x2l.prefill(model, stream, TWO, 4, selectors=[looking])
    assert looking.shown.chunks == [*((i, 4) for i in range(5)), (5, 2)]
    assert not any(looking.shown.left) and plain.seconds_read > 0
    cache = PrefillCache(tmp_path / "cache", 1, TWO)
    for count, shown in enumerate([stream, stream.loaded(), stream]):
        kept = x2l.prefill(model, shown, TWO, 4, selectors=[looking], cache=cache)
        assert (cache.files.made, cache.files.loaded) == (1, count)
        assert differing(kept.store, plain.store) is None
        assert torch.equal(kept.prepared["looking"].features, plain.prepared["looking"].features)


class Failing(Shown):
    def show(self, chunk, pixels):
        super().show(chunk, pixels)
        if chunk.index == 2:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("worker")])
def test_a_prefill_that_is_interrupted_or_cannot_be_decoded_leaves_no_thread(
    tmp_path, error, monkeypatch
):
    path, model, selector = tmp_path / "clip.mp4", ours("qwen2_5_vl"), Looking()
    write_video(path, frames(64).pixels.numpy(), 1)
    stream = x2l.open_frames(path, 64, None)
    if error is KeyboardInterrupt:
        Failing.error = error
        monkeypatch.setattr(selector, "watch", lambda meter: Failing())
    else:
        real = model.visual_inputs

        def visual_inputs(prompt, chunk, pixels):
            if chunk.index == 5:
                raise error
            return real(prompt, chunk, pixels)

        monkeypatch.setattr(model, "visual_inputs", visual_inputs, raising=False)
    for _ in range(10):
        with pytest.raises(type(error) if isinstance(error, OSError) else error):
            x2l.prefill(model, stream, TWO, 4, "high", selectors=[selector])
        assert not [one for one in threading.enumerate() if one.name == "x2l-ahead"]


def test_levels_are_sorted_and_the_coarsest_is_what_is_not_reloaded():
    model = ours("qwen2_5_vl")
    levels = {"bare": Level(ToMe(), 8), "fine": Level(ToMe(), 2), "mid": Level(ToMe(), 4)}
    session = x2l.prefill(model, frames(16), levels, 4)
    reply = x2l.answer(session, "What?", top_k="1+1", max_new_tokens=2)
    assert sorted(reply.assigned) == ["bare", "bare", "fine", "mid"]
    assert [reply.assigned[i] for i in reply.reloaded] != ["bare"] * 2 and len(reply.reloaded) == 2
    store = session.store
    sizes = {level: store.stored_bytes(level) for level in levels}
    spent = sum(sizes[level][i] for i, level in enumerate(reply.assigned) if level != "bare")
    assert reply.kv_bytes_reloaded == spent
    assert reply.flops["decode"] < reply.flops_full < sum(reply.flops.values())
    everything = x2l.answer(session, "What?", top_k=99, max_new_tokens=1)
    assert everything.assigned == ("fine",) * 4  # of a short video no more than there are


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": "1+2+3"}, r"top_k=1\+2\+3: must have a number for each level but the coarsest"),
        ({"top_k": "most"}, "invalid literal|top_k"),
        ({"pinned": ("middle",)}, r"selection\.pinned=\['middle'\]"),
        ({"selector": OracleSelector()}, "selector=oracle: .* no ground-truth"),
    ],
)
def test_what_cannot_be_asked_is_one_line(arguments, message):
    session = x2l.prefill(ours("qwen2_5_vl"), frames(8), TWO, 4)
    with pytest.raises(ValueError, match=message):
        x2l.answer(session, "What?", **arguments)


def test_the_selection_is_timed_for_itself():
    session = x2l.prefill(ours("qwen2_5_vl"), frames(8), TWO, 4)
    rating = session.rate("a", AttentionSelector(), Query(session.question("What?", 1), "q"))
    assert isinstance(rating.meter, Meter) and rating.meter.flops["selection"] > 0
    assert rating.meter.flops["decode"] == 0


@dataclass(frozen=True)
class Indexing(IndexingSelector):
    """Keeps eight bytes and reads twelve."""

    value: float = 1.0
    name: str = "indexing"

    def remember(self, store, model, meter):
        meter.add("retrieval", 5)
        return torch.ones(2)

    def relevance(self, query, store, model, meter):
        meter.streamed_bytes += 12
        return query.prepared * self.value


def test_what_a_selector_keeps_and_reads_is_told():
    session = x2l.prefill(ours("qwen2_5_vl"), frames(8), TWO, 4, selectors=[Indexing()])
    assert session.prepared["indexing"].features.nbytes == 8
    assert session.prepared["indexing"].meter.flops["retrieval"] == 5
    rating = session.rate("indexing", Indexing(), Query(session.question("What?", 1), "q"))
    assert rating.meter.streamed_bytes == 12 and rating.relevance.tolist() == [1, 1]


def test_a_relevance_that_is_no_number_is_said_in_one_line():
    session = x2l.prefill(ours("qwen2_5_vl"), frames(8), TWO, 4, selectors=[Indexing()])
    with pytest.raises(
        ConfigError,
        match=r"selector=indexing: its relevance to question 'q' holds NaN, \[nan, nan\]",
    ):
        session.rate("indexing", Indexing(math.nan), Query(session.question("What?", 1), "q"))


def test_heads_that_the_model_lacks_are_said_before_the_pre_fill():
    with pytest.raises(ConfigError, match=r"selector\.keys\.heads: \[9, 0\] is beyond this model"):
        x2l.prefill(ours("qwen2_5_vl"), frames(8), TWO, 4, selectors=[KeysSelector(((9, 0),))])


def test_a_taking_rule_is_asked_for_by_its_name():
    session = x2l.prefill(ours("qwen2_5_vl"), frames(16), TWO, 4)
    taken = [
        x2l.answer(session, "What?", LastSelector(), 2, max_new_tokens=1, taking=rule).reloaded
        for rule in ("top", "aks", "gap")
    ]
    assert taken == [(2, 3), (1, 3), (3,)]
