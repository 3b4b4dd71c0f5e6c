"""Video file to frames, and frames to video file. The only module that imports decord or av.

decord reads first: it seeks, so a few frames of a long video are cheap. Where it cannot (AV1, a
damaged file) PyAV decides: it either reads the file or says what is wrong. Whatever is wrong with
a file ends in one `VideoError` that names the file. Nothing is known here of models or prompts.
"""

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np
import torch

# A container may announce a few frames more than it holds (edit lists, a cut last packet). Fewer
# than this share of the announced frames means that the file was cut short.
MIN_FRAME_SHARE = 0.98


class VideoError(Exception):
    """A video file cannot be read.

    Attributes:
        path: the file.
        reason: what is wrong with it and what to do.
    """

    def __init__(self, path: str, reason: str) -> None:
        """Keeps path and reason; the message names both."""
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["VideoError"], tuple[str, str]]:
        """Lets the error travel between processes (default pickling would pass the message)."""
        return type(self), (self.path, self.reason)


@dataclass(frozen=True)
class Frames:
    """Sampled frames of one video.

    Attributes:
        pixels: (frames, height, width, 3), uint8, RGB.
        seconds: (frames,), float64, the file's own timestamp of each sampled frame.
        fps: frames per second of the file (mean, where the rate varies).
        duration: seconds from the first frame's start to the last frame's end.
        path: the file.
        reader: `decord` or `pyav`.
    """

    pixels: torch.Tensor
    seconds: torch.Tensor
    fps: float
    duration: float
    path: str
    reader: str


def read_frames(path: str | os.PathLike[str], frames: int | None, fps: float | None) -> Frames:
    """Reads sampled frames of a video file.

    Args:
        path: the file.
        frames: at most that many frames. Where `fps` is None, or would give more, the frames are
            spread evenly over the file: `linspace(0, N - 1, frames)` as the official code does.
        fps: one frame every 1 / fps seconds, by the file's timestamps: the frame on screen then.

    Raises:
        ValueError: neither is given, or one is not positive.
        VideoError: the file is missing, empty, cut short, not a video, or has no video stream.
    """
    if frames is None and fps is None:
        raise ValueError("frames=None and fps=None: give at least one of them, e.g. fps=1")
    if frames is not None and frames < 1:
        raise ValueError(f"frames={frames}: must be at least 1, or None for no limit")
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"fps={fps}: must be above 0, or None to spread `frames` evenly")
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise VideoError(path, "no such file; check the path or make the videos first")
    if os.path.getsize(path) == 0:
        raise VideoError(path, "the file is empty; download or make it again")
    try:
        return _read_decord(path, frames, fps)
    except (RuntimeError, decord.DECORDError) as error:
        return _read_pyav(path, frames, fps, decord_said=str(error).strip().splitlines()[0])


def write_video(path: str | os.PathLike[str], pixels: Iterable[np.ndarray], fps: float) -> None:
    """Writes an H.264 mp4 file (yuv420p); the same pixels give the same bytes.

    The file appears under its name only when it is whole (temporary file, then rename).

    Args:
        path: the file to write; its folder is made.
        pixels: frames, each (height, width, 3), uint8, RGB; height and width even and equal in all.
        fps: frames per second.

    Raises:
        ValueError: no frame, a frame of another shape or type, an odd size, or fps not positive.
    """
    if not 0 < fps < float("inf"):
        raise ValueError(f"fps={fps}: must be above 0")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}.", suffix=".mp4")
    os.close(handle)
    try:
        _encode(part, pixels, fps)
        os.chmod(part, 0o644)  # mkstemp makes it private
        os.replace(part, target)
    except BaseException:
        os.unlink(part)
        raise


def _encode(path: str, pixels: Iterable[np.ndarray], fps: float) -> None:
    shape: tuple[int, ...] | None = None
    # bitexact: no encoder version and no time stamp in the header
    with av.open(path, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = None
        for image in pixels:
            if shape is None:
                shape = image.shape
                if len(shape) != 3 or shape[2] != 3 or shape[0] % 2 or shape[1] % 2:
                    raise ValueError(
                        f"pixels: a frame of shape {shape}: must be (height, width, 3) with even "
                        "height and width, because yuv420p halves the colour planes"
                    )
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
                stream.height, stream.width = shape[0], shape[1]
                stream.pix_fmt = "yuv420p"
                stream.thread_count = 1  # bytes must not depend on the machine's cores
                stream.options = {
                    "crf": "18",
                    "preset": "veryfast",
                    "flags": "+bitexact",
                    "x264-params": "bframes=0",
                }
            if image.shape != shape or image.dtype != np.uint8:
                raise ValueError(
                    f"pixels: a frame of shape {image.shape} and type {image.dtype}: every frame "
                    f"must be uint8 of the first one's shape {shape}"
                )
            assert stream is not None
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            # Converted here, into planes of our own, and without B-frames: when the encoder
            # converts by itself the same pixels gave 17 different files in 100 (measured).
            planes = rgb.reformat(format="yuv420p").to_ndarray()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        if stream is None:
            raise ValueError("pixels: no frame; a video needs at least one")
        container.mux(stream.encode())


def _sample(seconds: np.ndarray, frames: int | None, fps: float | None) -> np.ndarray:
    """Indices of the frames to read, rising.

    Args:
        seconds: (file frames,), timestamps, rising.
        frames: as in `read_frames`.
        fps: as in `read_frames`.
    """
    total = len(seconds)
    if fps is not None:
        # 1e-3: time stamps are rounded to the container's time base
        span = float(seconds[-1] - seconds[0])
        times = seconds[0] + np.arange(int(np.floor(span * fps + 1e-3)) + 1) / fps
        indices = np.searchsorted(seconds, times + 1e-3, side="right") - 1
        if frames is None or len(indices) <= frames:
            return indices
    assert frames is not None
    return np.linspace(0, total - 1, min(frames, total), dtype=int)


def _read_decord(path: str, frames: int | None, fps: float | None) -> Frames:
    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    stamps = reader.get_frame_timestamp(range(len(reader)))  # (file frames, 2): start, end
    starts = stamps[:, 0].astype(np.float64)
    indices = _sample(starts, frames, fps)
    pixels = reader.get_batch(indices.tolist()).asnumpy()
    return Frames(
        pixels=torch.from_numpy(pixels),
        seconds=torch.from_numpy(starts[indices]),
        fps=float(reader.get_avg_fps()),
        duration=float(stamps[-1, 1] - starts[0]),
        path=path,
        reader="decord",
    )


def _read_pyav(path: str, frames: int | None, fps: float | None, decord_said: str) -> Frames:
    try:
        starts, last, announced, rate = _scan(path)
        if len(starts) < MIN_FRAME_SHARE * announced:
            raise VideoError(
                path,
                f"cut short: {len(starts)} of {announced} frames are there; download or make it "
                "again",
            )
        indices = _sample(starts, frames, fps)
        pixels = _decode(path, starts, indices)
    except (av.FFmpegError, IndexError) as error:
        raise VideoError(
            path, f"not a readable video (decord: {decord_said}; PyAV: {error}); replace the file"
        ) from error
    return Frames(
        pixels=torch.from_numpy(pixels),
        seconds=torch.from_numpy(starts[indices]),
        fps=rate,
        duration=float(starts[-1] + last - starts[0]),
        path=path,
        reader="pyav",
    )


def _scan(path: str) -> tuple[np.ndarray, float, int, float]:
    """Packet headers only: starts in seconds (rising), last duration, announced frames, fps."""
    with av.open(path) as container:
        if not container.streams.video:
            raise VideoError(path, "no video stream (audio only?); give a file with pictures")
        stream = container.streams.video[0]
        base = stream.time_base
        assert base is not None
        packets = [
            (packet.pts, packet.duration or 0)
            for packet in container.demux(stream)
            if packet.pts is not None and not packet.is_corrupt
        ]
        announced, rate = stream.frames, stream.average_rate
    if not packets:
        raise VideoError(path, "cut short: no whole frame is there; download or make it again")
    packets.sort()
    starts = np.array([float(pts * base) for pts, _ in packets])
    last = float(packets[-1][1] * base)
    if rate is None:
        span = starts[-1] - starts[0] + last
        return starts, last, announced, len(starts) / span if span > 0 else 0.0
    return starts, last, announced, float(rate)


def _decode(path: str, starts: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Decodes in order and keeps the wanted frames: (len(indices), height, width, 3)."""
    wanted = sorted({round(float(starts[index]), 6) for index in indices})
    images: dict[float, np.ndarray] = {}
    with av.open(path) as container:
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            if frame.pts is None:
                continue
            time = round(float(frame.time), 6)
            if time in wanted[len(images) :][:1]:
                images[time] = _upright(frame)
                if len(images) == len(wanted):
                    break
    missing = [time for time in wanted if time not in images]
    if missing:
        raise VideoError(
            path, f"the frame at {missing[0]} s cannot be decoded; download or make it again"
        )
    return np.stack([images[round(float(starts[index]), 6)] for index in indices])


def _upright(frame: Any) -> np.ndarray:
    """(height, width, 3) with the rotation in the file's metadata applied, as decord does."""
    image = frame.to_ndarray(format="rgb24")
    turns: Sequence[int] = range((frame.rotation // 90) % 4)
    return np.ascontiguousarray(np.rot90(image, k=len(turns)))
