"""Pre-fills kept on disk: the same KVs, counts and records; a limit; several writers; whatever goes wrong."""

import logging
import os
import resource
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.clips import Clips
from tests.engine.disk_cache.test_file_format import differing
from tests.engine.disk_cache.test_key import users  # noqa: F401 - a fixture
from tests.evaluation.test_settings import levels as level_specs
from tests.evaluation.test_settings import settings
from tests.tiny import frames, ours
from x2l.cli.ask import own_video
from x2l.cli.ask.reply import head_text
from x2l.cli.compose import engine
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.compressors.pruning_by_keys import KeyNorm
from x2l.compressors.pruning_controls import RandomPruning
from x2l.engine.disk_cache import cache as prefill_cache
from x2l.engine.disk_cache import file_format as store_files
from x2l.engine.disk_cache.cache import PrefillCache, open_cache
from x2l.engine.disk_cache.key import pixels_digest
from x2l.engine.meter import Meter
from x2l.engine.prefill import prefill
from x2l.engine.shown_chunks import chunk_pixels
from x2l.engine.stages import PREFILL_STAGES
from x2l.evaluation import runner, session
from x2l.evaluation.conditions import cells
from x2l.evaluation.settings import ConfigError
from x2l.models import loading
from x2l.models.fingerprint import UntoldWeights
from x2l.models.out_of_memory import MemoryAdvice
from x2l.runs.records import deterministic, load
from x2l.runs.run_info import describe, identity
from x2l.runs.trackers.base import NoTracker
from x2l.selectors.attention import AttentionSelector
from x2l.selectors.controls import RandomSelector, SelectAll
from x2l.selectors.embedding import EmbeddingSelector
from x2l.video import read_frames

LEVELS = {"low": Level(ToMe(), 2), "high": Level(KeyNorm(), 8)}
SHAPE = {"context": "full", "positions": "keep"}


@lru_cache
def prompt(number=0):
    return ours("qwen2_5_vl").prompt(frames(8, seed=number), 4)


@dataclass(frozen=True)
class Signed(KeyNorm):
    """A compressor with a function as its setting."""

    of: Any = None


class Prefills:
    """Pre-fills videos through a cache and counts what was really computed."""

    def __init__(self, folder, gigabytes=1.0, levels=LEVELS):
        self.cache, self.levels = PrefillCache(folder, gigabytes, levels), levels
        self.computed = Counter()

    def __call__(self, video=0, seed=0, context="full"):
        model, meter = ours("qwen2_5_vl"), Meter("cpu")

        def compute():
            self.computed[video] += 1
            return prefill(model, prompt(video), self.levels, context, "keep", meter, seed)

        shape = {"context": context, "positions": "keep"}
        store, loaded = self.cache.get(
            compute, model, prompt(video), self.levels, shape, seed, meter, hashed(video)
        )
        return store, loaded, meter


def hashed(video):
    """What hashes the pixels of one."""
    return lambda: pixels_digest(pixels for _, pixels in chunk_pixels(prompt(video)))


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@lru_cache
def size():
    """Bytes of one of these files."""
    facts = {"flops": {"vision": 1}}
    return store_files.plan(prefill(ours("qwen2_5_vl"), prompt(), LEVELS), facts).nbytes


def room_for(count):
    """GB that hold so many files, and not one more."""
    return (count + 0.5) * size() / 1e9


def test_what_is_loaded_is_what_was_computed(tmp_path):
    first = Prefills(tmp_path)
    store, loaded, meter = first()
    assert loaded is None and first.computed == {0: 1}
    again = Prefills(tmp_path)  # as another job
    got, told, counted = again()
    assert not again.computed and differing(store, got) is None
    assert counted.flops == meter.flops and counted.seconds == meter.seconds
    assert meter.flops["prefill"] > 0 < meter.seconds["vision"]
    assert told.seconds > 0 and counted.peaks == meter.peaks and meter.peaks["prefill"] > 0
    assert (
        "1 loaded, 0 computed" in again.cache.files.summary()
        and "holds 1 in" in again.cache.files.summary()
    )


def test_other_pixels_settings_levels_and_seeds_are_computed(tmp_path):
    run = Prefills(tmp_path)
    for video, context in ((0, "full"), (1, "full"), (0, "high")):
        run(video, context=context)
    assert run.computed == {0: 2, 1: 1} and len(files(tmp_path)) == 3
    run(0, seed=1)  # nothing draws
    assert run.computed == {0: 2, 1: 1}
    random = Prefills(tmp_path, levels={**LEVELS, "high": Level(RandomPruning(), 8)})
    for seed in (0, 1, 0, 1):
        random(0, seed)
    assert random.computed == {0: 2}


def test_changed_weights_are_computed(tmp_path, monkeypatch):
    Prefills(tmp_path)()
    model = ours("qwen2_5_vl")
    weight = model.decoder.layers[0].self_attn.k_proj.weight
    with torch.no_grad():
        before = weight[0, 0].item()
        weight[0, 0] += 0.5
    try:
        run = Prefills(tmp_path)
        run()
        assert run.computed == {0: 1}
    finally:
        with torch.no_grad():
            weight[0, 0] = before
    run = Prefills(tmp_path)
    run()
    assert not run.computed


def test_an_edited_compressor_is_never_served_old_kvs(tmp_path, users):  # noqa: F811
    """The user runs, edits the ten lines (or a file that they import), runs again: as without a cache."""
    kept = {}
    for name, change in {
        "as it was": {},
        "edited": {"sign": "-"},
        "helper": {"power": "POWER = -1"},
    }.items():
        levels = {"low": Level(ToMe(), 2), "high": Level(users(**change), 8)}
        run = Prefills(tmp_path / "cache", levels=levels)
        store, _, _ = run()
        assert run.computed == {0: 1}, name
        plain = prefill(ours("qwen2_5_vl"), prompt(), levels)
        assert differing(plain, store) is None
        kept[name] = store.levels["high"][0].layers[0].decoded_positions()
    assert not torch.equal(kept["as it was"], kept["edited"])
    run = Prefills(tmp_path / "cache", levels={**levels, "high": Level(users(), 8)})
    store, _, _ = run()  # edited back
    assert not run.computed
    assert torch.equal(store.levels["high"][0].layers[0].decoded_positions(), kept["as it was"])


def test_what_cannot_be_addressed_is_computed_and_said_once(tmp_path, caplog, monkeypatch):
    module = type(sys)("typed_in")
    monkeypatch.setitem(sys.modules, "typed_in", module)
    own = type("Own", (KeyNorm,), {"__module__": "typed_in"})
    run = Prefills(tmp_path, levels={"high": Level(own(), 4)})
    run(), run()
    assert run.computed == {0: 2} and not files(tmp_path)
    (said,) = caplog.messages
    assert "prefill.cache is not used: module 'typed_in' has no source file" in said


LATE = """
from dataclasses import dataclass
from x2l.compressors.pruning_base import ScoredPruning

@dataclass(frozen=True)
class Late(ScoredPruning):
    name: str = "late"

    def score(self, kv, obs):
        import {helper}
        return {helper}.norms(kv)

    def flops(self, sizes):
        return 0
"""


def test_a_module_that_is_imported_only_while_compressing_is_never_served_old_kvs(
    tmp_path, monkeypatch, caplog
):
    """Its source is not known when the address is made: computed each time, and said once."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "late_method.py").write_text(LATE.format(helper="late_helper"))
    (tmp_path / "late_helper.py").write_text("def norms(kv):\n    return kv.keys[0].norm(dim=-1)\n")
    import late_method

    try:
        run = Prefills(tmp_path / "cache", levels={"high": Level(late_method.Late(), 8)})
        run(), run()
        assert run.computed == {0: 2} and not files(tmp_path / "cache")
        assert caplog.messages == [
            "prefill.cache is not used: late_helper is imported only while compressing"
        ]
    finally:
        for name in ("late_method", "late_helper"):
            sys.modules.pop(name, None)


def test_weights_that_cannot_be_told_apart_are_computed_and_said_once(
    tmp_path, caplog, monkeypatch
):
    def untold(_):
        raise UntoldWeights("weights on meta")

    monkeypatch.setattr(type(ours("qwen2_5_vl")), "fingerprint", property(untold))
    run = Prefills(tmp_path)
    run(), run()
    assert run.computed == {0: 2} and not files(tmp_path)
    assert caplog.messages == ["prefill.cache is not used: weights on meta"]


def test_a_partial_in_a_compressor_is_never_served_anothers_kvs(tmp_path):
    """What `_partial_: true` builds: equal but for what it was given."""
    for sign in (1, -1):
        run = Prefills(tmp_path, levels={"high": Level(Signed(partial(sum, start=sign)), 8)})
        run()
        assert run.computed == {0: 1}


# --- the limit -----------------------------------------------------------------------------------------------------


def test_what_was_used_longest_ago_goes_first(tmp_path):
    run = Prefills(tmp_path, room_for(3))
    for video in (0, 1, 2):
        run(video)
    run(0)  # used again: 1 is now the oldest
    run(3)
    run.computed.clear()
    for video in (0, 2, 3):
        run(video)
    assert not run.computed and len(files(tmp_path)) == 3
    run(1)
    assert run.computed == {1: 1}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= run.cache.files.limit


def test_only_its_own_files_are_ever_removed(tmp_path):
    others = [
        "model.safetensors",
        "0" * 32 + ".safetensors",
        ".hidden.part",
        "notes.prefill.safetensors",
    ]
    for name in others:
        (tmp_path / name).write_bytes(bytes(3 * size()))
        os.utime(tmp_path / name, (0, 0))
    folder = tmp_path / ("f" * 32 + ".x")
    folder.mkdir()
    run = Prefills(tmp_path, room_for(1))
    run(0), run(1)
    assert len(files(tmp_path)) == len(others) + 2 and set(others) < set(files(tmp_path))


def test_what_a_dead_writer_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path):
    dead, live = (tmp_path / f".{'0' * 32}.{pid}.abcd.part" for pid in (1, 2))
    for path in (dead, live):
        path.write_bytes(b"half")
    os.utime(dead, (time.time() - 7200,) * 2)
    Prefills(tmp_path)()
    assert not dead.exists() and live.exists()
    Prefills(tmp_path, room_for(1))(1)  # what is being written takes room, too
    assert live.exists()


def test_a_prefill_above_the_limit_is_not_kept_and_said_once(tmp_path, caplog):
    run = Prefills(tmp_path, room_for(0))
    run(0), run(1), run(0)
    assert run.computed == {0: 2, 1: 1} and not files(tmp_path)
    (said,) = caplog.messages
    assert "is larger and is not kept; raise it" in said and said.startswith("prefill.cache_gb=")


# --- several processes ---------------------------------------------------------------------------------------------


def test_many_writers_and_readers_at_once(tmp_path, caplog):
    """Threads with a cache each stand for processes: the folder is all they share. Room for two files of three."""
    plain = {video: prefill(ours("qwen2_5_vl"), prompt(video), LEVELS) for video in range(3)}
    wrong, loaded, computed = [], [], []

    def work(number):
        run = Prefills(tmp_path, room_for(2))
        # Not the model, which one process uses from one thread: its KVs.
        for turn in range(6):
            video = (number + turn * (1 + number % 2)) % 3
            store, told = run.cache.get(
                lambda video=video: plain[video],
                ours("qwen2_5_vl"), prompt(video), LEVELS, SHAPE, 0, Meter("cpu"), hashed(video),
            )  # fmt: skip
            (computed if told is None else loaded).append(video)
            if differing(plain[video], store) is not None:
                wrong.append(video)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(loaded) + len(computed) == 36 and loaded
    assert not caplog.messages  # nothing half-written was ever seen
    assert len(files(tmp_path)) <= 2 and not list(tmp_path.glob(".*"))


def test_a_file_that_vanishes_while_it_is_read_is_read_to_its_end(tmp_path, monkeypatch):
    store, _, _ = Prefills(tmp_path)()
    real = store_files.os.fstat

    def vanishing(number):
        for path in tmp_path.iterdir():
            path.unlink()
        return real(number)

    monkeypatch.setattr(store_files.os, "fstat", vanishing)
    run = Prefills(tmp_path)
    got, loaded, _ = run()
    assert loaded is not None and not run.computed and differing(store, got) is None
    assert not files(tmp_path)


def test_a_writer_that_is_killed_leaves_nothing_that_is_read(tmp_path, monkeypatch):
    real = store_files.write

    def half(planned, file):
        file.write(planned.header)
        assert [path.name[0] for path in tmp_path.iterdir()] == ["."]  # not under its name yet
        raise KeyboardInterrupt

    monkeypatch.setattr(prefill_cache, "write", half)
    with pytest.raises(KeyboardInterrupt):
        Prefills(tmp_path)()
    assert not files(tmp_path)
    monkeypatch.setattr(prefill_cache, "write", real)
    run = Prefills(tmp_path)
    run(), run()
    assert run.computed == {0: 1}


# --- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", ["flip", "cut", "empty", "text"])
def test_a_damaged_file_is_dropped_with_a_warning_and_computed_again(tmp_path, caplog, spoil):
    store, _, _ = Prefills(tmp_path)()
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes({"flip": data, "cut": data[:-100], "empty": b"", "text": b"x" * 999}[spoil])
    run = Prefills(tmp_path)
    got, loaded, _ = run()
    assert loaded is None and run.computed == {0: 1} and differing(store, got) is None
    (said,) = caplog.messages
    assert path.name in said and "it is dropped, and the video pre-filled again" in said
    assert "0 loaded, 1 computed, 1 damaged ones dropped" in run.cache.files.summary()
    run(), run()
    assert run.computed == {0: 1}


@pytest.fixture
def small_files():
    """No file of this process may be larger than 20 kB: writing on is an error, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_no_run(tmp_path, caplog, small_files):
    assert size() > 20_000
    run = Prefills(tmp_path)
    stores = [run(video)[0] for video in (0, 1)]
    assert run.computed == {0: 1, 1: 1} and all(stores) and not files(tmp_path)
    (said,) = caplog.messages
    assert "a pre-fill could not be kept" in said and "the run goes on" in said


def test_a_file_that_cannot_be_read_ends_no_run(tmp_path, caplog):
    run = Prefills(tmp_path)
    run()
    (path,) = tmp_path.iterdir()
    path.unlink()
    path.mkdir()
    store, loaded, _ = run()
    assert loaded is None and store is not None
    assert "cannot be read" in caplog.messages[0] and "could not be kept" in caplog.messages[1]


def test_a_folder_that_is_removed_is_made_again(tmp_path):
    run = Prefills(tmp_path / "a" / "b")
    run()
    for path in (tmp_path / "a" / "b").iterdir():
        path.unlink()
    (tmp_path / "a" / "b").rmdir()
    assert "cannot be listed" in run.cache.files.summary()
    run(), run()
    assert run.computed == {0: 2}


def test_a_limit_that_cannot_be_is_refused():
    rule = r"prefill\.cache_gb=.*: must be a number above 0.*leave prefill\.cache=null"
    for gigabytes in (0, -1, float("nan"), float("inf"), "many", None, True):
        with pytest.raises(ValueError, match=rule):
            settings(prefill_cache_gb=gigabytes)


def test_a_folder_that_cannot_be_is_refused_early(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "below"):
        with pytest.raises(ValueError, match=r"prefill\.cache=.*file is a file; name a folder"):
            settings(prefill_cache=str(path))
        with pytest.raises(ValueError, match=r"prefill\.cache=.*name another, or null"):
            PrefillCache(path, 1, LEVELS)
    with pytest.raises(ValueError, match=r"prefill\.cache=/proc/x2l.*name another"):
        PrefillCache(Path("/proc/x2l"), 1, LEVELS)
    assert settings(prefill_cache=str(tmp_path / "new" / "er")).prefill_cache_gb == 20


# --- through the runner --------------------------------------------------------------------------------------------

SELECTORS = {
    "attention": AttentionSelector(),
    "embedding": EmbeddingSelector(),
    "random": RandomSelector(),
    "all": SelectAll(),
}


@pytest.fixture(scope="module")
def model():
    return loading.load("x2l_tiny")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    Clips(str(root)).prepare()
    return root


def go(folder, clips, model, selectors=SELECTORS, **changes):
    values = settings(
        run_id="same", chunk_frames=4, levels=level_specs(2, 8), max_new_tokens=3, frames=16, top_k=(0, 2), pinned=(),
        **changes,
    )  # fmt: skip
    info = describe(values.run_id, {"what": "clips"}, "cpu", "a processor", 1)
    levels = {"low": Level(ToMe(), 2), "high": Level(RandomPruning(), 8)}
    return runner.run(
        values, Clips(str(clips)), lambda: model, levels, selectors, folder, info, NoTracker()
    )


@pytest.mark.parametrize("fewer_frames", [False, True])
def test_records_with_a_cache_are_those_without(
    tmp_path, clips, model, monkeypatch, caplog, fewer_frames
):
    caplog.set_level(logging.INFO)
    cached = {
        "prefill_cache": str(tmp_path / "cache"),
        "control": "equal_kv_bytes" if fewer_frames else None,
    }
    selectors = {} if fewer_frames else SELECTORS
    go(tmp_path / "plain", clips, model, selectors, control=cached["control"])
    go(tmp_path / "cold", clips, model, selectors, **cached)
    monkeypatch.setattr(session, "prefill", None)  # may not be called any more
    go(tmp_path / "warm", clips, model, selectors, **cached)
    plain, cold, warm = (load(tmp_path / name) for name in ("plain", "cold", "warm"))
    assert len(plain) == 6 * (2 if fewer_frames else 7)
    same = [list(map(deterministic, records)) for records in (plain, cold, warm)]
    assert same[0] == same[1] == same[2]
    for one, other in zip(cold, warm, strict=True):
        assert one.video.seconds_prefill_load is None and other.video.seconds_prefill_load > 0
        for stage in PREFILL_STAGES:
            assert one.seconds[stage] == other.seconds[stage] > 0
        assert one.video.peak_memory == other.video.peak_memory
    assert "seconds_prefill_load" not in same[2][0]
    said = [text for text in caplog.messages if text.startswith("pre-fills:")]
    count = len({r.video.kv_bytes_budget for r in plain}) * 2
    assert f"0 loaded, {count} computed" in said[0] and f"{count} loaded, 0 computed" in said[1]


def test_a_video_of_ones_own_is_prefilled_once_for_all_calls(tmp_path, clips, monkeypatch):
    made = engine([f"prefill.cache={tmp_path / 'cache'}", "levels.high.ratio=8", "top_k=1"])
    settings, levels, model = made.settings, made.levels, ours("qwen2_5_vl")
    (cell,) = cells(made.selectors, settings)
    advice = MemoryAdvice.of(model, settings.chunk_frames, "low")
    video = read_frames(clips / "clip0.mp4", 16, 1)

    def opened():
        cache = open_cache(settings.prefill_cache, settings.prefill_cache_gb, levels)
        return own_video.open_video(
            model, video, model.prompt(video, 4), levels, cell, settings, advice, cache
        )

    first = opened()
    monkeypatch.setattr(session, "prefill", None)
    again = opened()
    assert differing(first.session.store, again.session.store) is None
    assert first.session.seconds_load is None and again.session.seconds_load > 0
    assert again.flops == first.flops > 0
    assert 0 < again.seconds <= 1.5 * first.seconds
    assert head_text(first).endswith(" s") and "loaded from prefill.cache in" in head_text(again)
    one, other = first.ask("What is it?"), again.ask("What is it?")
    assert (one.text, one.relevance, one.flops) == (other.text, other.relevance, other.flops)


def test_a_run_goes_on_with_or_without_a_cache(tmp_path, clips, model):
    """The cache is no part of what a run is."""
    config = {"prefill": {"context": "full"}, "seed": 0}
    with_cache = {**config, "prefill": {"context": "full", "cache": "a", "cache_gb": 3}}
    assert identity(config) == identity(with_cache) != identity({**config, "seed": 1})
    one = {"embedding": EmbeddingSelector()}
    assert go(tmp_path / "run", clips, model, one).added == 12
    cache = str(tmp_path / "cache")
    assert go(tmp_path / "run", clips, model, SELECTORS, prefill_cache=cache).added == 30
    assert go(tmp_path / "run", clips, model).added == 0


def test_a_folder_that_cannot_be_made_is_one_line_before_the_model_is_loaded(tmp_path, clips):
    def never():
        raise AssertionError("too late")

    values = settings(
        run_id="same", chunk_frames=4, frames=16, top_k=(0,), pinned=(), prefill_cache="/proc/x2l"
    )
    info = describe("same", {}, "cpu", "a processor", 1)
    with pytest.raises(ConfigError, match=r"prefill\.cache=/proc/x2l"):
        runner.run(
            values, Clips(str(clips)), never, LEVELS, SELECTORS, tmp_path / "r", info, NoTracker()
        )


def test_frames_that_are_decoded_for_an_address_are_read_seconds(tmp_path, monkeypatch):
    """Also where the pre-fill is then loaded, and nothing else of the video is decoded."""

    def slow(asked):
        for one in chunk_pixels(asked):
            time.sleep(0.03)
            yield one

    monkeypatch.setattr(session, "chunk_pixels", slow)
    opened = [
        session.open_session(
            ours("qwen2_5_vl"), prompt().visual["frames"], prompt(), LEVELS, **SHAPE, seed=0,
            selectors={}, cache=PrefillCache(tmp_path, 1.0, LEVELS),
        )
        for _ in range(2)
    ]  # fmt: skip
    assert [one.seconds_load is None for one in opened] == [True, False]
    assert min(one.seconds_read for one in opened) >= 0.03
