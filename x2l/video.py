"""Video file to frames, and frames to video file. The only module that imports av or decord.

By default PyAV reads, everything: any container and codec of FFmpeg. Packet headers tell every frame's time and
where decoding can begin; frames are then decoded forwards, jumping to the key frame before a wanted
one, so a few frames of a long video are cheap. A frame is taken by its exact time, never by counting:
a decoder that starts at a key frame may leave out the pictures that lead it (open GOPs, the default
of x265), and counting then gives other frames than those asked for. decord 0.6 counts; it decodes if
asked to (as the official code and lmms-eval do), of files in which counting is right, else it is
refused. Whatever is wrong with a file ends in one `VideoError` that names the file. Nothing is known
here of models.
"""

from __future__ import annotations

import heapq
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np
import torch
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from x2l import UserError
from x2l.frames import Frames, SampledFrames, Spans

# A container may announce a little more than it holds (edit lists, a cut last packet). Less than
# this share of the announced frames, or of the announced seconds, means that the file was cut short.
MIN_SHARE = 0.98
READERS = ("pyav", "decord")
MP4, MATROSKA, AVI, FLV = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv"  # FFmpeg's names
# Containers with an index of their frames; in others (transport streams) decord counts from elsewhere.
COUNTED = (MP4, MATROSKA, AVI)
MOST_REORDERED = (
    16  # pictures that may stand before one in a file and are shown after it (H.264, H.265)
)
BROADCAST = ("mpegts", "mpeg")  # containers whose clock may jump
LONGEST_GAP = 10  # seconds between pictures of a broadcast; beyond it FFmpeg, too, takes it for two
REMADE = "re-encode it into an mp4 file (ffmpeg -i FILE new.mp4)"
# Formats in which FFmpeg draws the letters of a text file.
TEXT = ("tty", "bin", "xbin", "adf", "idf")


class VideoError(UserError):
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

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str]]:
        """Lets the error travel between processes (default pickling would pass the message)."""
        return type(self), (self.path, self.reason)


@dataclass(frozen=True)
class FrameStream(SampledFrames):
    """Sampled frames of a file that are decoded when they are asked for. `open_frames` makes one. Final.

    Attributes:
        seconds: as in `SampledFrames`, like the four that follow.
        height: of an upright picture.
        width: of an upright picture.
        index: what the packets of the file say.
        sampled: (frames,), numbers of the file's frames, which never fall.
        stored_size: (width, height) that all pictures are brought to before they are turned; a file may change its own.
    """

    seconds: torch.Tensor
    fps: float
    duration: float
    path: str
    reader: str
    height: int
    width: int
    index: _Index = field(repr=False)
    sampled: np.ndarray = field(repr=False)
    stored_size: tuple[int, int] | None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(frames, height, width, 3)."""
        return len(self.sampled), self.height, self.width, 3

    def blocks(self, spans: Spans) -> Iterator[torch.Tensor]:
        """Decodes forwards; holds one span's pictures at a time.

        Raises:
            VideoError: a picture cannot be decoded.
        """
        last, before = torch.empty((0, *self.shape[1:]), dtype=torch.uint8), 0
        decoder = _DECODERS[self.reader](self.path, self.index, self.stored_size)
        with _file_errors(self.path), closing(decoder):
            for first, after in spans:
                block = torch.empty((after - first, *self.shape[1:]), dtype=torch.uint8)
                shared = max(0, before - first)
                block[:shared] = last[len(last) - shared :]
                decoder.fill(block[shared:].numpy(), self.sampled[first + shared : after])
                yield block
                last, before = block, after

    def taken(self, at: torch.Tensor) -> FrameStream:
        """Decodes only those."""
        return replace(self, seconds=self.seconds[at], sampled=self.sampled[at.numpy()])


def read_frames(
    path: str | os.PathLike[str], frames: int | None, fps: float | None, reader: str = "pyav"
) -> Frames:
    """Reads sampled frames of a video file, all at once; arguments and errors are those of `open_frames`."""
    return open_frames(path, frames, fps, reader).loaded()


def open_frames(
    path: str | os.PathLike[str], frames: int | None, fps: float | None, reader: str = "pyav"
) -> FrameStream:
    """Samples frames of a video file, to be decoded span by span; only the first one is decoded now.

    Args:
        path: the file.
        frames: at most that many frames. Where `fps` is None, or would give more, the frames are
            spread evenly over the file: `linspace(0, N - 1, frames)` as the official code does.
        fps: one frame every 1 / fps seconds, by the file's timestamps: the frame on screen then.
        reader: what decodes, one of `READERS`; both give the same frames.

    Raises:
        ValueError: neither is given, one is not positive, or the reader is unknown.
        VideoError: the file is missing, empty, cut short, not a video, or has no video stream; or decord
            cannot read it or would give other frames.
    """
    _check_reader(reader)
    if frames is None and fps is None:
        raise ValueError("frames=None and fps=None: give at least one of them, e.g. fps=1")
    if frames is not None and frames < 1:
        raise ValueError(f"frames={frames}: must be at least 1, or None for no limit")
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"fps={fps}: must be above 0, or None to spread `frames` evenly")
    path = os.fspath(path)
    check_file(path)
    with _file_errors(path):
        try:
            index = _scan(path)
        except MemoryError as error:  # a damaged header asks for any size
            raise VideoError(
                path, "not a readable video (its header is damaged); replace the file"
            ) from error
        sampled = _sample(index.seconds, frames, fps)
        with closing(_DECODERS[reader](path, index, None)) as decoder:
            height, width, _ = decoder.image(int(sampled[0])).shape
    return FrameStream(
        seconds=torch.from_numpy(index.seconds[sampled]),
        fps=index.rate,
        duration=index.duration,
        path=path,
        reader=reader,
        height=height,
        width=width,
        index=index,
        sampled=sampled,
        stored_size=decoder.size,
    )


def decoder_version(reader: str) -> str:
    """What of the installed packages the pixels of a reader may depend on.

    Raises:
        ValueError: the reader is unknown.
    """
    _check_reader(reader)
    if reader == "decord":
        return f"decord {decord.__version__}"
    libraries = (f"{name} {version}" for name, version in sorted(av.library_versions.items()))
    return f"pyav {av.__version__} {' '.join(libraries)}"


def _check_reader(reader: str) -> None:
    if reader not in READERS:
        raise ValueError(f"video.reader={reader!r}: must be one of {READERS}; use 'pyav'")


@contextmanager
def _file_errors(path: str) -> Iterator[None]:
    """Inside, what FFmpeg says is a `VideoError`."""
    try:
        yield
    except (av.FFmpegError, IndexError) as error:  # IndexError: PyAV, where streams come and go
        said = getattr(error, "strerror", None) or error
        raise VideoError(path, f"not a readable video ({said}); replace the file") from error


def check_file(path: str) -> None:
    """Checks what can be known of a video without reading it.

    Raises:
        VideoError: no such file, an empty one, or one that may not be read.
    """
    if not os.path.isfile(path):
        raise VideoError(path, "no such file; check the path or make the videos first")
    if not os.access(path, os.R_OK):
        raise VideoError(path, "may not be read; change its permissions")
    if os.path.getsize(path) == 0:
        raise VideoError(path, "the file is empty; download or make it again")


def _place(path: str) -> str:
    """What FFmpeg takes for a file whatever its name; `12:30.mp4` alone would be the protocol `12`."""
    return f"file:{os.path.abspath(path)}"


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
    with av.open(_place(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
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
        count = int(np.floor(span * fps + 1e-3)) + 1
        if frames is None or count <= frames:
            times = seconds[0] + np.arange(count) / fps
            return np.searchsorted(seconds, times + 1e-3, side="right") - 1
    assert frames is not None
    return np.linspace(0, total - 1, min(frames, total), dtype=int)


@dataclass(frozen=True)
class _Index:
    """What the packets of a file say.

    Attributes:
        pts: (file frames,), int64, rising: time of each frame, in units of `base` seconds.
        keys: (key frames,), int64, rising: those that decoding can begin at.
        base: seconds of a unit.
        rate: mean frames per second.
        duration: seconds from the first frame's start to the last one's end.
        countable: whether the container has an index, and no frame stands before the key frame that it follows
            in the file (closed GOPs), so that a decoder which starts at a key frame may count.
    """

    pts: np.ndarray
    keys: np.ndarray
    base: Fraction
    rate: float
    duration: float
    countable: bool

    @property
    def seconds(self) -> np.ndarray:
        """(file frames,), float64, from 0."""
        return (self.pts - self.pts[0]) * float(self.base)


def _scan(path: str) -> _Index:
    """Reads packet headers; decodes nothing."""
    with av.open(_place(path), metadata_errors="replace") as container:
        name = container.format.name
        if name in TEXT:
            raise VideoError(path, "not a video but a text; give a file with pictures")
        stream = _pictures(container)
        if stream is None:
            raise VideoError(path, "no video stream (audio only?); give a file with pictures")
        base, rate = stream.time_base, stream.average_rate
        assert base is not None
        # An edit list (a clip trimmed on the phone) leaves fewer frames than the header counts. Elsewhere the
        # entries are places to jump to.
        announced = len(stream.index_entries) if name in (MP4, AVI) else 0
        announced = announced if announced > 1 else stream.frames
        packets, keys, held, after = [], [], 0, 0  # after: where in the file the last packet ends
        start, end = np.inf, -np.inf  # of all streams, seconds
        countable = name in COUNTED
        for packet in container.demux():
            held += packet.stream is stream and packet.size > 0
            after = max(after, (packet.pos or 0) + packet.size)
            if packet.pts is None or packet.is_corrupt:
                continue
            start = min(start, float(packet.pts * packet.time_base))
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream is stream and packet.is_keyframe:
                keys.append(packet.pts)
            if packet.stream is stream:
                countable &= bool(keys) and packet.pts >= keys[-1] and not packet.is_discard
            if packet.stream is stream and not packet.is_discard:
                packets.append((packet.pts, packet.duration or 0))
        told = (container.duration or 0) / av.time_base
    if held and not packets:
        raise VideoError(path, f"has no time stamps (a raw stream?); {REMADE}")
    if (again := _starts_again([time for time, _ in packets], set(keys))) is not None:
        after_first = float((again - packets[0][0]) * base)
        raise VideoError(
            path,
            f"its time stamps start again after {after_first:.1f} s (files joined?); {REMADE}",
        )
    if _has_second(path, name, after):
        raise VideoError(
            path,
            "a second video begins behind its first, and players show only that (files joined?); join the originals "
            "with FFmpeg (-f concat), or keep the first (ffmpeg -i FILE new.mp4)",
        )
    # A recording cut at its start: nothing before a key frame can be decoded.
    begin = min(keys, default=None)
    packets = sorted(packet for packet in packets if begin is None or packet[0] >= begin)
    missing = None
    if not packets:
        missing = "no whole frame is"
    elif held < MIN_SHARE * announced:
        missing = f"{held} of {announced} frames are"
    elif not announced:  # a container that counts no frames
        missing = _missing_seconds(name, start, float(packets[0][0] * base), end, told)
    if missing is not None:
        raise VideoError(path, f"cut short: {missing} there; download or make it again")
    if name in BROADCAST and (gap := _gap(packets, base)) is not None:
        raise VideoError(
            path, f"{gap:.0f} s pass between two of its pictures (files joined?); {REMADE}"
        )
    pts = np.array([time for time, _ in packets])
    duration = float((packets[-1][0] + packets[-1][1] - packets[0][0]) * base)
    mean = len(pts) / duration if duration > 0 else 0.0
    return _Index(
        pts,
        np.array(sorted(keys), np.int64),
        base,
        mean if rate is None else float(rate),
        duration,
        countable,
    )


def _starts_again(times: Sequence[int], keys: Collection[int]) -> int | None:
    """The latest time before time stamps start again; None where they go on through the file.

    Pictures may stand in a file before others that are shown first, but only so many, and never before a key frame.

    Args:
        times: of all pictures, in the order of the file.
        keys: of those that decoding can begin at; where all are (or an index is missing) they say nothing.
    """
    latest: list[int] = []  # a heap of the last ones shown, the first of them on top
    some = len(keys) < len(times)
    for time in times:
        late = len(latest) > MOST_REORDERED and time < latest[0]
        if latest and (late or (some and time in keys and time <= max(latest))):
            return max(latest)
        heapq.heappush(latest, time)
        if len(latest) > MOST_REORDERED + 1:
            heapq.heappop(latest)
    return None


def _has_second(path: str, container: str, after: int) -> bool:
    """Whether a whole file was appended of which players, and FFmpeg, show nothing.

    Args:
        path: the file.
        container: FFmpeg's name.
        after: where its last packet ends, bytes from the start.
    """
    with open(path, "rb") as file:
        if container == FLV:
            file.seek(after)
            return b"FLV\x01" in file.read(1 << 16)
        if container != MP4:
            return False
        place, size, films = 0, os.path.getsize(path), 0
        while place + 8 <= size:  # boxes: size, kind, content
            file.seek(place)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4]), head[4:8]
            length = int.from_bytes(head[8:]) if length == 1 else length or size - place
            films += kind == b"moov"
            place += max(length, 8)
    return films > 1


def _missing_seconds(
    container: str, start: float, first: float, end: float, told: float
) -> str | None:
    """What is missing by the duration that a container tells; None where all is there.

    Args:
        container: FFmpeg's name.
        start: of the first packet of all streams, seconds.
        first: of the first picture.
        end: of the last packet of all streams.
        told: seconds.
    """
    # Matroska's writers tell the time of the end, or (mkvmerge) the length; elsewhere it is the length.
    told_end = told if container == MATROSKA and told >= end else start + told
    if end - first >= MIN_SHARE * (told_end - first) - 0.5:
        return None
    return f"{end - first:.1f} of {told_end - first:.1f} seconds are"


def _gap(packets: Sequence[tuple[int, int]], base: Fraction) -> float | None:
    """Seconds without a picture where they are too many; None where they are not.

    Args:
        packets: (time, duration) of each picture, rising.
        base: seconds of a unit.
    """
    gaps = (float((b - a - duration) * base) for (a, duration), (b, _) in pairwise(packets))
    longest = max(gaps, default=0.0)
    return longest if longest > LONGEST_GAP else None


def _pictures(container: Any) -> Any:
    """The first video stream that is not a cover picture; None without one."""
    cover = Disposition.attached_pic
    return next((s for s in container.streams.video if not s.disposition & cover), None)


class _ByTime:
    """Decodes by exact time, see `_Walk`."""

    def __init__(self, path: str, index: _Index, size: tuple[int, int] | None) -> None:
        self.path, self.index, self.size = path, index, size
        self.turn, self.walk = VideoReformatter(), _Walk(path, index.keys)

    def close(self) -> None:
        self.walk.close()

    def fill(self, block: np.ndarray, numbers: np.ndarray) -> None:
        for row, number in enumerate(numbers.tolist()):
            block[row] = self.image(number)

    def image(self, number: int) -> np.ndarray:
        """(height, width, 3), uint8, of a frame that is not before the one asked for last."""
        frame = self.walk.frame(int(self.index.pts[number]))
        if frame is None:
            raise VideoError(
                self.path,
                f"damaged: the frame at {self.index.seconds[number]:.2f} s cannot be decoded; "
                "download or make it again",
            )
        self.size = self.size or (frame.width, frame.height)
        width, height = self.size
        return _upright(self.turn.reformat(frame, format="rgb24", width=width, height=height))


class _ByCount:
    """The same by decord, which turns frames upright itself."""

    def __init__(self, path: str, index: _Index, size: tuple[int, int] | None) -> None:
        self.path, self.size = path, size
        with self._errors():
            self.video = decord.VideoReader(os.path.abspath(path), num_threads=1)
            count = len(self.video)
        if not index.countable or count != len(index.pts):
            raise VideoError(
                path,
                f"decord counts {count} frames of {len(index.pts)}, or may give others than those asked for (open "
                "GOPs, an edit list); use video.reader=pyav",
            )

    def close(self) -> None:
        del self.video

    def fill(self, block: np.ndarray, numbers: np.ndarray) -> None:
        if len(numbers):
            with self._errors():
                block[:] = self.video.get_batch(numbers.tolist()).asnumpy()

    def image(self, number: int) -> np.ndarray:
        with self._errors():
            pixels: np.ndarray = self.video.get_batch([number]).asnumpy()
        return pixels[0]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, decord.DECORDError) as error:
            said = str(error).strip().splitlines()[-1]
            raise VideoError(
                self.path, f"decord cannot read it ({said}); use video.reader=pyav"
            ) from error


_DECODERS: Mapping[str, type[_ByTime] | type[_ByCount]] = {"pyav": _ByTime, "decord": _ByCount}


class _Walk:
    """Decodes a file forwards, jumping to a key frame where that saves work."""

    def __init__(self, path: str, keys: np.ndarray) -> None:
        self.path, self.keys = path, keys
        self.jumps = True
        self.container: Any
        self.stream: Any
        self.frames: Any
        self.at: Any  # the frame decoded last
        self._start()

    def close(self) -> None:
        """Ends the decoder's threads now: the generator is in a circle with this object."""
        self.frames.close()
        self.container.close()
        self.at, self.frames, self.stream, self.container = None, iter(()), None, None

    def frame(self, pts: int) -> Any:
        """The frame of that time, which is not before the one asked for last; None if damaged."""
        for _ in self._places(pts):
            while self.at is None or self.at.pts < pts:
                self.at = next(self.frames, None)
                if self.at is None:
                    break
            else:
                if self.at.pts == pts:
                    return self.at
        return None

    def _places(self, pts: int) -> Iterator[None]:
        """Goes to one place after another from where the frame may be found, the cheapest first."""
        if not self.jumps:
            yield
            return
        before = int(np.searchsorted(self.keys, pts, side="right")) - 1
        if before <= 0 or (self.at is not None and self.keys[before] <= self.at.pts):
            yield
        else:
            # A container may land behind the key frame that it was told.
            for key in self.keys[[before, before - 1]].tolist():
                self.container.seek(key, stream=self.stream)
                self.frames, self.at = self._frames(), None
                yield
        # Key frames that are none (intra refresh), wrong flags: all of it, from the start.
        self.jumps = False
        self.close()
        self._start()
        yield

    def _start(self) -> None:
        self.container = av.open(_place(self.path), metadata_errors="replace")
        self.stream = _pictures(self.container)
        self.stream.thread_type = "AUTO"
        self.frames, self.at = self._frames(), None

    def _frames(self) -> Iterator[Any]:
        """Whole frames from here on, by rising time."""
        first: int | None = None
        # Behind a packet that is damaged a decoder makes pictures up, until a key frame that is whole.
        made_up, sound = False, None
        for packet in self.container.demux(self.stream):
            if first is None and packet.size and len(self.keys):
                if not packet.is_keyframe:
                    continue
                first = packet.pts
            if packet.is_corrupt:
                made_up, sound = True, None
            elif packet.is_keyframe and sound is None:
                sound = packet.pts
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                made_up, sound = True, None
                continue  # its frame is missing then, and `frame` says so if it is wanted
            for frame in frames:
                if frame.is_corrupt:
                    made_up = True
                    sound = (
                        None if sound is None or frame.pts is None or frame.pts >= sound else sound
                    )
                elif made_up and sound is not None and frame.pts is not None:
                    made_up = frame.pts < sound
                # Before the first key frame: pictures that lead it and refer to what was not read.
                whole = frame.pts is not None and not frame.is_corrupt
                if whole and not made_up and (first is None or frame.pts >= first):
                    yield frame


def _upright(frame: Any) -> np.ndarray:
    """(height, width, 3) of an RGB frame, turned and mirrored as the file's display matrix says.

    The matrix [a b u; c d v; x y w] takes a pixel at (column, row) to (a column + c row, b column +
    d row); quarter turns and mirrors are told by the signs of a, b, c, d. Other angles are left.
    """
    image: np.ndarray = frame.to_ndarray()
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    a, b, _, c, d = np.sign(np.frombuffer(matrix, np.int32)[:5]).tolist()
    if a == d == 0:
        image, across, down = image.swapaxes(0, 1), c, b
    else:
        across, down = a, d
    return image[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
