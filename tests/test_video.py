import contextlib
import gc
import pickle
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import x2l.video
from x2l.frames import held
from x2l.video import VideoError, open_frames, read_frames, write_video


def picture(number, height=48, width=64):
    """A frame whose grey level tells its number."""
    return np.full((height, width, 3), 10 + 6 * number, np.uint8)


def numbers(frames):
    return [round((float(image.float().mean()) - 10) / 6) for image in frames.pixels]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """20 frames at 4 a second."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    write_video(path, (picture(number) for number in range(20)), 4)
    return path


def write(path, codec, stamps, **options):
    """A file of any codec with frames at given stamps (hundredths of a second)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 100)
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_reads_one_frame_a_second_with_the_files_timestamps(video):
    frames = read_frames(video, None, 1.0)
    assert frames.pixels.shape == (5, 48, 64, 3)
    assert numbers(frames) == [0, 4, 8, 12, 16]
    assert frames.seconds.tolist() == [0, 1, 2, 3, 4]
    assert (frames.fps, frames.duration, frames.reader) == (4.0, 5.0, "pyav")


def test_a_limit_spreads_frames_evenly_over_the_file(video):
    assert numbers(read_frames(video, 4, None)) == [0, 6, 12, 19]
    assert numbers(read_frames(video, 4, 1.0)) == [0, 6, 12, 19]
    assert numbers(read_frames(video, 5, 1.0)) == [0, 4, 8, 12, 16]


def test_a_short_file_gives_all_its_frames_and_no_more(video):
    assert len(read_frames(video, 100, None).pixels) == 20
    assert len(read_frames(video, 100, 60.0).pixels) == 20


def test_odd_rates_take_the_frame_on_screen(video):
    assert numbers(read_frames(video, None, 3.0))[:4] == [0, 1, 2, 4]


def test_variable_frame_rate_goes_by_time(tmp_path):
    path = tmp_path / "vfr.mp4"
    write(path, "libx264", [0, 10, 20, 100, 110, 200, 290, 300])
    frames = read_frames(path, None, 1.0)
    assert numbers(frames) == [0, 3, 5, 7]
    assert frames.seconds.tolist() == pytest.approx([0, 1, 2, 3], abs=1e-4)


def audio_only(path, video):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def truncated(path, video):
    content = video.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def truncated_behind_its_index(path, video):
    rng = np.random.default_rng(0)  # noise: every frame takes bytes, so half of them are whole
    whole = path.with_name("whole.mp4")
    write_video(whole, (rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(20)), 4)
    with (
        av.open(str(whole)) as source,
        av.open(str(path), "w", options={"movflags": "faststart"}) as container,
    ):
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.pts is not None:
                packet.stream = stream
                container.mux(packet)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


BAD = {
    "missing": (lambda path, video: None, "no such file"),
    "empty": (lambda path, video: path.write_bytes(b""), "empty"),
    "text": (lambda path, video: path.write_text("not a video\n" * 99), "not a readable video"),
    "noise": (
        lambda path, video: path.write_bytes(np.random.default_rng(0).bytes(9999)),
        "not a readable video",
    ),
    "folder": (lambda path, video: path.mkdir(), "no such file"),
    "truncated": (truncated, "not a readable video"),
    "truncated behind its index": (truncated_behind_its_index, r"cut short: \d+ of 20"),
    "audio only": (audio_only, "no video stream"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_clear_error(case, tmp_path, video):
    make, reason = BAD[case]
    path = tmp_path / "bad.mp4"
    make(path, video)
    with pytest.raises(VideoError, match=reason) as caught:
        read_frames(path, 8, 1.0)
    assert caught.value.path == str(path) and str(path) in str(caught.value)


def test_the_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "broken; replace it")))
    assert (error.path, error.reason, str(error)) == (
        "a.mp4", "broken; replace it", "a.mp4: broken; replace it",
    )  # fmt: skip


def test_writing_is_deterministic_and_leaves_nothing_behind(tmp_path, video):
    path = tmp_path / "again.mp4"
    write_video(path, (picture(number) for number in range(20)), 4)
    assert path.read_bytes() == video.read_bytes()

    def broken():
        yield picture(0)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_video(path, broken(), 4)
    assert path.read_bytes() == video.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["again.mp4"]


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        ([], "no frame"),
        ([np.zeros((47, 64, 3), np.uint8)], "even"),
        ([np.zeros((48, 64), np.uint8)], "even"),
        ([np.zeros((48, 64, 3), np.float32)], "uint8"),
        ([picture(0), picture(0, 64, 64)], "first one's shape"),
    ],
)
def test_pixels_that_cannot_be_written_are_refused(tmp_path, pixels, reason):
    with pytest.raises(ValueError, match=reason):
        write_video(tmp_path / "bad.mp4", pixels, 4)


@pytest.mark.parametrize(
    ("frames", "fps", "field"), [(None, None, "frames"), (0, 1.0, "frames"), (4, 0.0, "fps")]
)
def test_wrong_sampling_values_are_named(video, frames, fps, field):
    with pytest.raises(ValueError, match=field):
        read_frames(video, frames, fps)


def test_files_are_closed(video, tmp_path):
    import os

    for _ in range(3):
        read_frames(video, 4, None)
        with pytest.raises(VideoError):
            truncated(tmp_path / "bad.mp4", video)
            read_frames(tmp_path / "bad.mp4", 4, None)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        read_frames(video, 4, None)
        with pytest.raises(VideoError):
            read_frames(tmp_path / "bad.mp4", 4, None)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


SPANS = [(0, 3), (3, 6), (5, 8), (8, 8), (8, 20)]


@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_a_stream_gives_the_same_frames_span_by_span(video, reader):
    whole = read_frames(
        video, None, 8.0, reader
    )  # more a second than the file has: some come twice
    stream = open_frames(video, None, 8.0, reader)
    assert stream.shape == tuple(whole.pixels.shape) and stream.nbytes == whole.pixels.numel()
    assert (stream.seconds, stream.fps, stream.duration) == (
        pytest.approx(whole.seconds),
        whole.fps,
        whole.duration,
    )
    for _ in range(2):  # it may be walked again
        blocks = list(stream.blocks(SPANS))
        assert [len(block) for block in blocks] == [after - first for first, after in SPANS]
        for block, (first, after) in zip(blocks, SPANS, strict=True):
            assert torch.equal(block, whole.pixels[first:after])
    at = torch.tensor([0, 7, 8, 19])
    few = stream.taken(at)
    assert torch.equal(few.loaded().pixels, whole.pixels[at])
    assert torch.equal(few.seconds, whole.seconds[at])


def test_a_stream_decodes_no_further_than_it_is_asked(video, monkeypatch):
    decoded = []
    real = x2l.video._ByTime.image
    monkeypatch.setattr(
        x2l.video._ByTime,
        "image",
        lambda self, number: decoded.append(number) or real(self, number),
    )
    stream = open_frames(video, 10, None)
    assert decoded == [0]
    blocks = stream.blocks([(0, 2), (2, 4), (4, 10)])
    assert len(next(blocks)) == 2 and len(decoded) == 3
    blocks.close()
    assert len(decoded) == 3


def test_frames_are_held_in_memory_up_to_a_limit(video):
    stream = open_frames(video, 4, None)
    assert held(stream, stream.nbytes - 1) is stream
    kept = held(stream, stream.nbytes)
    assert torch.equal(kept.pixels, read_frames(video, 4, None).pixels)
    assert held(kept, 0) is kept or kept.loaded() is kept


def threads():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Threads"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts threads as Linux tells")
def test_a_stream_that_is_left_early_leaves_no_decoder_thread(video):
    stream = open_frames(video, 20, None)
    gc.collect()
    gc.disable()
    try:
        before = threads()
        for _ in range(20):
            with contextlib.closing(stream.blocks([(0, 4), (4, 8)])) as blocks:
                next(blocks)
        assert threads() <= before + 2
    finally:
        gc.enable()
