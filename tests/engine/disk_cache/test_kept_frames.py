"""Sampled frames kept on disk: bit for bit what was decoded, span by span; a limit; many jobs; whatever goes wrong."""

import logging
import os
import resource
import shutil
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
import torch

from tests.clips import Clips
from tests.evaluation.test_settings import levels as level_specs
from tests.evaluation.test_settings import settings
from x2l import video
from x2l.compressors.base import Level
from x2l.compressors.merging import ToMe
from x2l.engine.disk_cache import kept_frames
from x2l.engine.disk_cache.kept_frames import FrameCache, open_frame_cache
from x2l.engine.disk_cache.key import _parts
from x2l.evaluation import runner
from x2l.evaluation.settings import ConfigError
from x2l.frames import held
from x2l.models import loading
from x2l.runs.records import deterministic, load
from x2l.runs.run_info import describe, identity
from x2l.runs.trackers.base import NoTracker
from x2l.selectors.controls import RandomSelector
from x2l.video import VideoError, open_frames, write_video

FRAMES, FPS, SIDE = 16, 2.0, 64
SPANS = [(0, 4), (2, 8), (8, 9), (9, 16)]  # the second overlaps the first


def noise(seed, frames=32, side=SIDE):
    return np.random.default_rng(seed).integers(0, 255, (frames, side, side, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number in range(4):
        write_video(folder / f"{number}.mp4", noise(number), fps=4)
    return folder


@pytest.fixture
def decodings(monkeypatch):
    """Paths of the videos that a decoder was made for, to read pictures."""
    made, real = [], video.FrameStream.blocks

    def blocks(self, spans):
        made.append(self.path)
        return real(self, spans)

    monkeypatch.setattr(video.FrameStream, "blocks", blocks)
    return made


def plain(path, spans=SPANS, frames=FRAMES, fps=FPS):
    return list(open_frames(path, frames, fps).blocks(spans))


def kept(folder, path, spans=SPANS, frames=FRAMES, fps=FPS, gigabytes=1.0):
    return list(FrameCache(folder, gigabytes).open(path, frames, fps, "pyav").blocks(spans))


def same(blocks, others):
    assert [b.shape for b in blocks] == [b.shape for b in others]
    return all(map(torch.equal, blocks, others))


def size_of(path, tmp_path):
    """Bytes of the file of one video."""
    kept(tmp_path / "size", path)
    (file,) = (tmp_path / "size").iterdir()
    return file.stat().st_size


def test_what_is_read_is_what_was_decoded(videos, tmp_path, decodings):
    path = str(videos / "0.mp4")
    stream = open_frames(path, FRAMES, FPS)
    cold = FrameCache(tmp_path, 1)
    first = cold.open(path, FRAMES, FPS, "pyav")
    assert same(list(first.blocks(SPANS)), plain(path)) and decodings == [path, path]
    warm = FrameCache(tmp_path, 1)  # as another job
    again = warm.open(path, FRAMES, FPS, "pyav")
    for frames in (first, again):
        assert same(list(frames.blocks(SPANS)), plain(path))
        assert frames.shape == stream.shape and torch.equal(frames.seconds, stream.seconds)
        assert (frames.fps, frames.duration) == (stream.fps, stream.duration)
        assert (frames.path, frames.reader) == (path, "pyav")
        # What an address of pre-fills is made of.
        assert list(_parts(frames)) == list(_parts(stream))
    assert decodings == [path] * 4  # only by `plain`
    assert (cold.files.loaded, cold.files.made) == (0, 1) and (
        warm.files.loaded,
        warm.files.made,
    ) == (1, 0)
    assert warm.files.summary().startswith("videos: 1 loaded, 0 decoded;")


def test_other_packages_read_the_files(videos, tmp_path):
    from safetensors import safe_open

    kept(tmp_path, videos / "0.mp4")
    (path,) = tmp_path.iterdir()
    with safe_open(path, "pt") as file:
        pixels = file.get_tensor("pixels")
    assert torch.equal(pixels, open_frames(videos / "0.mp4", FRAMES, FPS).loaded().pixels)


def test_every_frame_that_is_taken_and_every_way_to_hold_them(videos, tmp_path, decodings):
    path, at = videos / "0.mp4", torch.tensor([0, 3, 3, 9, 15])
    expected = open_frames(path, FRAMES, FPS).taken(at)
    cold = FrameCache(tmp_path, 1).open(path, FRAMES, FPS, "pyav").taken(at)
    assert torch.equal(cold.loaded().pixels, expected.loaded().pixels)
    assert not list(tmp_path.iterdir())  # they are not all: nothing is kept
    kept(tmp_path, path)
    decodings.clear()
    warm = FrameCache(tmp_path, 1).open(path, FRAMES, FPS, "pyav").taken(at)
    assert torch.equal(warm.seconds, expected.seconds) and warm.shape == expected.shape
    assert same(
        list(warm.blocks([(0, 2), (2, 5)])), [cold.loaded().pixels[:2], cold.loaded().pixels[2:]]
    )
    whole = held(FrameCache(tmp_path, 1).open(path, FRAMES, FPS, "pyav"), 10**9)
    assert torch.equal(whole.pixels[at], expected.loaded().pixels)


def test_other_samplings_readers_contents_and_versions_are_decoded(videos, tmp_path, monkeypatch):
    def files():
        return len(list(tmp_path.iterdir()))

    path = videos / "0.mp4"
    kept(tmp_path, path)
    kept(tmp_path, path, fps=2)  # 2 is 2.0
    shutil.copy(path, tmp_path.parent / "moved.mp4")
    kept(tmp_path, tmp_path.parent / "moved.mp4")
    assert files() == 1
    kept(tmp_path, path, [(0, 8)], frames=8)
    kept(tmp_path, path, fps=None)
    kept(tmp_path, videos / "1.mp4")
    list(FrameCache(tmp_path, 1).open(path, FRAMES, FPS, "decord").blocks(SPANS))
    assert files() == 5
    monkeypatch.setattr(kept_frames, "decoder_version", lambda reader: "another")
    kept(tmp_path, path)
    assert files() == 6


def test_neither_way_more_than_spans_are_in_memory(tmp_path, monkeypatch):
    """Of 39 MB of pixels two spans of 0.8 MB are held at most, the last one and the next, and no copy as bytes."""
    path, span = tmp_path / "long.mp4", 4 * 256 * 256 * 3
    small = noise(0, 1, 16)[0]
    write_video(path, (np.kron(small, np.ones((16, 16, 1), np.uint8)) for _ in range(200)), fps=1)
    spans = [(first, first + 4) for first in range(0, 200, 4)]
    real, alive = torch.empty, set()

    def empty(*shape, **kind):
        made = real(*shape, **kind)
        alive.add(number := object())
        weakref.finalize(made, alive.discard, number)
        assert made.nbytes <= span
        return made

    monkeypatch.setattr(torch, "empty", empty)
    for _ in ("decoded and written", "read"):
        frames = FrameCache(tmp_path / "cache", 1).open(path, None, 1, "pyav")
        tracemalloc.start()
        for block in frames.blocks(spans):
            assert block.nbytes == span and len(alive) <= 3
        assert tracemalloc.get_traced_memory()[1] < 4 * span
        tracemalloc.stop()
        del block


def test_frames_that_are_not_all_looked_at_are_not_kept(videos, tmp_path):
    path = videos / "0.mp4"
    stream = FrameCache(tmp_path, 1).open(path, FRAMES, FPS, "pyav")
    started = stream.blocks(SPANS)
    next(started)
    assert [entry.name[0] for entry in tmp_path.iterdir()] == ["."]  # not under its name yet
    started.close()
    assert not list(tmp_path.iterdir())
    assert same(list(stream.blocks([(0, 4), (6, 16)])), plain(path, [(0, 4), (6, 16)]))
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_decoder_is_that_without_a_cache(videos, tmp_path, monkeypatch):
    path = videos / "0.mp4"
    stream = FrameCache(tmp_path, 1).open(path, FRAMES, FPS, "pyav")
    real, calls = video._ByTime.image, []

    def image(self, number):
        calls.append(number)
        if len(calls) > 6:
            raise VideoError(self.path, "damaged")
        return real(self, number)

    monkeypatch.setattr(video._ByTime, "image", image)
    with pytest.raises(VideoError, match="damaged"):
        list(stream.blocks(SPANS))
    assert not list(tmp_path.iterdir())
    with pytest.raises(VideoError, match="no such file"):
        kept(tmp_path, tmp_path / "none.mp4")
    with pytest.raises(ValueError, match=r"video\.reader='other'"):
        FrameCache(tmp_path, 1).open(path, FRAMES, FPS, "other")


# --- the limit, several jobs ---------------------------------------------------------------------------------------


def test_what_was_used_longest_ago_goes_first(videos, tmp_path):
    size = size_of(videos / "0.mp4", tmp_path)
    folder, room = tmp_path / "cache", 2.5 * size / 1e9
    paths = [videos / f"{number}.mp4" for number in range(3)]
    for number, path in enumerate(paths[:2]):
        kept(folder, path, gigabytes=room)
        for file in folder.iterdir():
            os.utime(file, ns=(number, number)) if file.stat().st_mtime_ns > 10 else None
    kept(folder, paths[0], gigabytes=room)  # used again: 1 is now the oldest
    kept(folder, paths[2], gigabytes=room)
    cache = FrameCache(folder, room)
    for path in (paths[0], paths[2]):
        cache.open(path, FRAMES, FPS, "pyav")
    assert (cache.files.loaded, cache.files.made) == (2, 0)
    assert sum(file.stat().st_size for file in folder.iterdir()) <= cache.files.limit
    assert cache.open(paths[1], FRAMES, FPS, "pyav") and cache.files.made == 1


def test_a_video_above_the_limit_is_decoded_and_said_once(videos, tmp_path, caplog):
    path = videos / "0.mp4"
    cache = FrameCache(tmp_path, 1e-5)
    for _ in range(2):
        assert same(list(cache.open(path, FRAMES, FPS, "pyav").blocks(SPANS)), plain(path))
    assert not list(tmp_path.iterdir())
    (said,) = caplog.messages
    assert said.startswith("video.cache_gb=1e-05: a video of") and "is not kept; raise it" in said


def test_many_jobs_at_once(videos, tmp_path, caplog):
    """Threads with a cache each stand for processes: the folder is all they share. Room for two videos of three."""
    room = 2.5 * size_of(videos / "0.mp4", tmp_path) / 1e9
    paths = [videos / f"{number}.mp4" for number in range(3)]
    expected, wrong, counts = [plain(path) for path in paths], [], []

    def work(number):
        cache = FrameCache(tmp_path / "cache", room)
        for turn in range(9):
            which = (number + turn * (1 + number % 2)) % 3
            blocks = list(cache.open(paths[which], FRAMES, FPS, "pyav").blocks(SPANS))
            if not same(blocks, expected[which]):
                wrong.append(which)
        counts.append((cache.files.loaded, cache.files.made))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(counts) == 6 and sum(map(sum, counts)) == 54
    assert sum(loaded for loaded, _ in counts) > 0
    assert not caplog.messages and not list((tmp_path / "cache").glob(".*"))
    assert len(list((tmp_path / "cache").iterdir())) <= 2


# --- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", ["pixel", "header", "length", "cut", "empty", "text", "last"])
def test_a_damaged_file_is_dropped_with_a_warning_and_made_again(videos, tmp_path, caplog, spoil):
    path = videos / "0.mp4"
    kept(tmp_path, path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()

    def flipped(at):
        data = bytearray(whole)
        data[at] ^= 4
        return bytes(data)

    frame = SIDE * SIDE * 3
    spoilt = {
        "pixel": flipped(len(whole) - 5 * frame),  # in a span that is not the first
        "header": flipped(whole.index(b"duration") + 14),
        "length": flipped(6),
        "cut": whole[:-100],
        "empty": b"",
        "text": b"x" * 999,
        "last": flipped(len(whole) - 1),
    }[spoil]
    file.write_bytes(spoilt)
    cache = FrameCache(tmp_path, 1)
    assert same(list(cache.open(path, FRAMES, FPS, "pyav").blocks(SPANS)), plain(path))
    (said,) = caplog.messages
    assert file.name in said and "it is dropped, and the video decoded again" in said
    assert "1 damaged ones dropped" in cache.files.summary()
    assert file.read_bytes() == whole
    assert same(kept(tmp_path, path), plain(path)) and len(caplog.messages) == 1


def test_a_file_that_another_job_removes_is_decoded(videos, tmp_path, decodings):
    path = videos / "0.mp4"
    kept(tmp_path, path)
    decodings.clear()
    (file,) = tmp_path.iterdir()
    cache = FrameCache(tmp_path, 1)
    reading = cache.open(path, FRAMES, FPS, "pyav").blocks(SPANS)
    blocks = [next(reading)]
    file.unlink()  # while it is read: it is read to its end
    blocks += reading
    assert same(blocks, plain(path)) and decodings == [str(path)]
    kept(tmp_path, path)
    frames = FrameCache(tmp_path, 1).open(path, FRAMES, FPS, "pyav")
    file.unlink()  # between the two
    decodings.clear()
    assert same(list(frames.blocks(SPANS)), plain(path)) and decodings == [str(path)] * 2
    assert file.exists()


@pytest.fixture
def small_files():
    """No file of this process may be larger than 60 kB: writing on is an error, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_no_run(videos, tmp_path, caplog, small_files):
    path, cache = videos / "0.mp4", FrameCache(tmp_path, 1)
    for _ in range(2):
        assert same(list(cache.open(path, FRAMES, FPS, "pyav").blocks(SPANS)), plain(path))
    assert not list(tmp_path.iterdir())
    (said,) = caplog.messages
    assert said.startswith(f"video.cache={tmp_path}: a video could not be kept (")
    assert said.endswith("; the run goes on")


def test_a_folder_that_is_away_or_spoilt_ends_no_run(videos, tmp_path, caplog):
    path, folder = videos / "0.mp4", tmp_path / "a" / "b"
    kept(folder, path)
    (file,) = folder.iterdir()
    file.unlink()
    file.mkdir()
    assert same(kept(folder, path), plain(path))
    assert "cannot be read" in caplog.messages[0] and "could not be kept" in caplog.messages[1]
    shutil.rmtree(tmp_path / "a")
    assert same(kept(folder, path), plain(path)) and len(list(folder.iterdir())) == 1


def test_a_folder_that_cannot_be_is_refused_early(tmp_path):
    assert open_frame_cache(None, 1) is None
    for gigabytes in (0, -1, float("nan"), "many", None, True):
        with pytest.raises(ValueError, match=r"video\.cache_gb=.*: must be a number above 0"):
            settings(video_cache_gb=gigabytes)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"video\.cache=.*file is a file; name a folder"):
        settings(video_cache=str(tmp_path / "file" / "below"))
    with pytest.raises(ValueError, match=r"video\.cache=/proc/x2l.*null to keep no videos"):
        open_frame_cache("/proc/x2l", 1)


# --- through the runner --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    Clips(str(root)).prepare()
    return root


def go(folder, clips, **changes):
    values = settings(
        run_id="same", chunk_frames=4, levels=level_specs(2, 8), max_new_tokens=3, frames=16, top_k=(1,), pinned=(),
        **changes,
    )  # fmt: skip
    info = describe(values.run_id, {"what": "clips"}, "cpu", "a processor", 1)
    levels = {"low": Level(ToMe(), 2), "high": Level(ToMe(), 8)}
    selectors = {} if changes.get("control") else {"random": RandomSelector()}
    model = loading.load("x2l_tiny")
    return runner.run(
        values, Clips(str(clips)), lambda: model, levels, selectors, folder, info, NoTracker()
    )


@pytest.mark.parametrize("control", [None, "equal_kv_bytes"])
def test_records_with_a_cache_are_those_without(tmp_path, clips, caplog, decodings, control):
    caplog.set_level(logging.INFO)
    cache = {"video_cache": str(tmp_path / "cache"), "control": control}
    go(tmp_path / "plain", clips, control=control)
    go(tmp_path / "cold", clips, **cache)
    decodings.clear()
    go(tmp_path / "warm", clips, **cache)
    go(
        tmp_path / "both", clips, **cache, prefill_cache=str(tmp_path / "cache")
    )  # one folder for both
    assert not decodings
    records = [load(tmp_path / name) for name in ("plain", "cold", "warm", "both")]
    assert records[0] and all(r.seconds["read"] > 0 for r in records[2])
    same_records = [list(map(deterministic, those)) for those in records]
    assert all(those == same_records[0] for those in same_records[1:])
    said = [text for text in caplog.messages if text.startswith("videos:")]
    assert [text.partition(";")[0] for text in said] == [
        "videos: 0 loaded, 2 decoded",
        "videos: 2 loaded, 0 decoded",
        "videos: 2 loaded, 0 decoded",
    ]


def test_the_cache_is_no_part_of_what_a_run_is():
    config = {"video": {"frames": 8}, "seed": 0}
    assert identity(config) == identity(
        {**config, "video": {"frames": 8, "cache": "a", "cache_gb": 3}}
    )


def test_a_folder_that_cannot_be_made_is_one_line_before_the_model_is_loaded(tmp_path, clips):
    with pytest.raises(ConfigError, match=r"video\.cache=/proc/x2l"):
        go(tmp_path / "run", clips, video_cache="/proc/x2l")
