"""Sampled frames kept on disk, for other jobs and later runs: `video.cache=DIR video.cache_gb=N`.

One file a video and sampling, bit for bit what was decoded. Its name is the hash of the video's bytes, the sampling,
the decoder with its version, and the source that reads frames; a video may be moved or renamed. It is written while the
frames are decoded and read span by span, so that neither way more than one span is in memory. How processes share the
folder, its limit, and what happens where it fails: `folder.py`.

A file is in the safetensors format: `pixels` `(frames, height, width, 3)`, then of each frame a blake2b, so that a
flipped bit is found in the frame that it is in, and in the metadata what else is known of the sampling, with a blake2b,
too. Frames are not compressed: reading and checking one takes far less than decoding it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from x2l.engine.disk_cache.folder import CacheFolder, DamagedFile, Kind
from x2l.engine.disk_cache.source_hash import PACKAGE
from x2l.frames import SampledFrames, Spans
from x2l.video import FrameStream, check_file, decoder_version, open_frames

FRAMES = Kind(
    "video.cache",
    "frames.safetensors",
    "video",
    "decoded",
    "the video decoded again",
)
_CHECK_BYTES = 16  # of a frame, and of the metadata
_LENGTH_BYTES = 8  # of the number that a safetensors file begins with


def open_frame_cache(folder: str | None, gigabytes: float) -> FrameCache | None:
    """The cache that `video.cache` and `video.cache_gb` name; None where no folder is named.

    Raises:
        ValueError: see `FrameCache`.
    """
    return None if folder is None else FrameCache(Path(folder).expanduser(), gigabytes)


class FrameCache:
    """A folder of sampled frames, as one run uses it. Final."""

    def __init__(self, folder: Path, gigabytes: float) -> None:
        """Makes the folder and reads the sources that frames follow from.

        Args:
            folder: may hold the frames of any other runs.
            gigabytes: all of them together may take, 10^9 bytes each.

        Raises:
            ValueError: the folder cannot be made or written to.
        """
        self.files = CacheFolder(folder, gigabytes, FRAMES)
        self._code = b"".join(
            hashlib.blake2b(source.read_bytes()).digest()
            for source in (PACKAGE / "video.py", PACKAGE / "frames.py", Path(__file__))
        )

    def open(
        self, path: str | os.PathLike[str], frames: int | None, fps: float | None, reader: str
    ) -> SampledFrames:
        """Sampled frames of a video: from the folder, else decoded span by span and put there on the way.

        Arguments and errors are those of `video.open_frames`.
        """
        path = os.fspath(path)
        check_file(path)
        rate = None if fps is None else float(fps)
        sampling = f"{frames!r} {rate!r} {decoder_version(reader)}\n".encode()
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "blake2b").digest()
        key = hashlib.blake2b(content + sampling + self._code, digest_size=16).hexdigest()
        header = self.files.read(key, _header_of)
        if header is None:
            stream = open_frames(path, frames, fps, reader)
            self.files.made += 1
            header, decoded = _header_for(stream), lambda: stream
        else:
            decoded = partial(open_frames, path, frames, fps, reader)
        return KeptFrames(
            header.seconds,
            header.fps,
            header.duration,
            path,
            reader,
            self,
            key,
            torch.arange(header.frames),
            header,
            decoded,
        )

    def read(self, key: str, rows: Tensor, spans: Spans) -> Iterator[Tensor]:
        """Pixels of spans of some rows of a file, each checked.

        Raises:
            DamagedFile: a frame is not what was written.
            OSError: it cannot be read; FileNotFoundError where there is none.
        """
        path = self.files.path(key)
        with path.open("rb") as file:
            header = _read_header(path, file)
            file.seek(header.start + header.frames * header.frame_bytes)
            checks = file.read(header.frames * _CHECK_BYTES)
            for first, after in spans:
                block = torch.empty((after - first, *header.size, 3), dtype=torch.uint8)
                for pixels, row in zip(
                    block.flatten(1).numpy(), rows[first:after].tolist(), strict=True
                ):
                    file.seek(header.start + row * header.frame_bytes)
                    whole = file.readinto(pixels.data) == header.frame_bytes
                    check = checks[row * _CHECK_BYTES : (row + 1) * _CHECK_BYTES]
                    if not whole or _check(pixels.data) != check:
                        raise DamagedFile(f"{path}: frame {row} does not match its checksum")
                yield block

    def keeping(
        self, key: str, header: Header, stream: FrameStream, spans: Spans
    ) -> Iterator[Tensor]:
        """Pixels of spans as the stream decodes them; a file once all frames were among them."""
        spans, checks, done = list(spans), [], 0
        with self.files.part(key, header.nbytes) as part:
            part.write(header.data)
            for (first, after), block in zip(spans, stream.blocks(spans), strict=True):
                if first > done:  # frames are passed over: there will be no whole file
                    part.drop()
                if part.open and after > done:
                    for pixels in block[done - first :].flatten(1).numpy():
                        checks.append(_check(pixels.data))
                        part.write(pixels.data)
                    done = after
                    if done == header.frames:
                        part.write(b"".join(checks))
                        part.keep()
                yield block


@dataclass(frozen=True)
class KeptFrames(SampledFrames):
    """Sampled frames of a file that come from a cache, or are decoded and go there. `FrameCache.open` makes one. Final.

    Attributes:
        seconds: as in `SampledFrames`, like the four that follow.
        cache: that the frames may be in.
        key: of their file there.
        rows: (frames,), which frames of that file these are.
        header: of that file.
        decoded: opens the video to decode all frames of that file.
    """

    seconds: Tensor
    fps: float
    duration: float
    path: str
    reader: str
    cache: FrameCache = field(repr=False)
    key: str
    rows: Tensor = field(repr=False)
    header: Header = field(repr=False)
    decoded: Callable[[], FrameStream] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(frames, height, width, 3)."""
        return len(self.rows), *self.header.size, 3

    def blocks(self, spans: Spans) -> Iterator[Tensor]:
        """Reads, or decodes forwards; holds one span's pictures at a time.

        Raises:
            VideoError: a picture cannot be decoded.
        """
        spans, given = list(spans), 0
        try:
            for block in self.cache.read(self.key, self.rows, spans):
                yield block
                given += 1
            return
        except FileNotFoundError:
            pass  # not kept yet, or not any more
        except DamagedFile as error:
            self.cache.files.drop(self.key, error)
        except OSError as error:
            self.cache.files.unread(self.key, error)
        yield from islice(self._anew(spans), given, None)

    def taken(self, at: Tensor) -> KeptFrames:
        """Reads only those; where there is no file, decodes only those, and keeps nothing."""
        return replace(self, seconds=self.seconds[at], rows=self.rows[at])

    def _anew(self, spans: Spans) -> Iterator[Tensor]:
        stream = self.decoded()
        if len(self.rows) == self.header.frames:
            return self.cache.keeping(self.key, self.header, stream, spans)
        return stream.taken(self.rows).blocks(spans)


@dataclass(frozen=True)
class Header:
    """What a file says before its pixels.

    Attributes:
        data: its bytes.
        frames: how many.
        size: (height, width).
        seconds, fps, duration: as in `SampledFrames`.
    """

    data: bytes = field(repr=False)
    frames: int
    size: tuple[int, int]
    seconds: Tensor = field(repr=False)
    fps: float
    duration: float

    @property
    def start(self) -> int:
        """Where pixels begin."""
        return len(self.data)

    @property
    def frame_bytes(self) -> int:
        """Of one frame's pixels."""
        return self.size[0] * self.size[1] * 3

    @property
    def nbytes(self) -> int:
        """Of the whole file."""
        return self.start + self.frames * (self.frame_bytes + _CHECK_BYTES)


def _header_for(stream: FrameStream) -> Header:
    """Of a file for these frames."""
    count, *shape = stream.shape
    facts = {
        "shape": stream.shape,
        "seconds": stream.seconds.tolist(),
        "fps": stream.fps,
        "duration": stream.duration,
    }
    told = json.dumps(facts)
    end = count * stream.height * stream.width * 3
    entries = {
        "__metadata__": {"x2l": told, "check": _check(told.encode()).hex()},
        "pixels": {"dtype": "U8", "shape": [count, *shape], "data_offsets": [0, end]},
        "checks": {
            "dtype": "U8",
            "shape": [count, _CHECK_BYTES],
            "data_offsets": [end, end + count * _CHECK_BYTES],
        },
    }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return _header(len(text).to_bytes(_LENGTH_BYTES, "little") + text, facts)


def _header(data: bytes, facts: dict[str, Any]) -> Header:
    frames, height, width, _ = facts["shape"]
    seconds = torch.tensor(facts["seconds"], dtype=torch.float64)
    return Header(data, frames, (height, width), seconds, facts["fps"], facts["duration"])


def _header_of(path: Path) -> Header:
    """Of a file.

    Raises:
        DamagedFile: it is not what was written.
        OSError: it cannot be read; FileNotFoundError where there is none.
    """
    with path.open("rb") as file:
        return _read_header(path, file)


def _read_header(path: Path, file: BinaryIO) -> Header:
    size = os.fstat(file.fileno()).st_size
    length = file.read(_LENGTH_BYTES)
    text = file.read(min(int.from_bytes(length, "little"), size))
    try:
        metadata = json.loads(text)["__metadata__"]
        sound = _check(metadata["x2l"].encode()).hex() == metadata["check"]
    except (ValueError, LookupError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise DamagedFile(f"{path}: its header does not match its checksum")
    header = _header(length + text, json.loads(metadata["x2l"]))
    if size != header.nbytes:
        raise DamagedFile(f"{path}: is cut short")
    return header


def _check(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=_CHECK_BYTES).digest()
