"""500 mutated and 100 joined, cut or shifted video files, whose frames say their numbers.

A file is read in the order of its time stamps or refused; a frame of another number than its time says is a fault.
"""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import av

from experiments.fuzz.run import Ending, spread
from tests.test_video_formats import FILES, FPS, FRAMES, number, write
from x2l.video import Frames, VideoError, read_frames

NAMES = (
    *("h264 with B-frames.mp4", "h264 transport stream.ts", "h264.flv", "hevc 10 bit.mkv"),
    *("mpeg4 with B-frames.avi", "mpeg2.mpg", "vp8.webm"),
)
MUTATED, JOINED = 500, 100


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Bytes turned over, taken out, put in, doubled, or all behind a place gone."""
    data, kind = bytearray(content), draw.randrange(5)
    for _ in range(draw.choice((1, 4, 40)) if kind < 3 else 1):
        at, size = draw.randrange(len(data)), draw.randrange(1, 300)
        if kind == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at : at + size] = draw.randbytes(len(data[at : at + size]))
        elif kind == 2:
            del data[at : at + size]
        elif kind == 3:
            data[at:at] = data[max(0, at - size * 20) : at]
        else:
            del data[at:]
    return bytes(data)


def joined(first: bytes, second: bytes, draw: random.Random) -> bytes:
    """Two files, of which either may be cut."""
    kind = draw.randrange(4)
    if kind == 1:
        first = first[: draw.randrange(1, len(first))]
    elif kind == 2:
        second = second[draw.randrange(len(second)) :]
    elif kind == 3:
        return second[: draw.randrange(1, len(second))]
    return first + second


def told(path: Path, parts: int) -> str:
    """How reading a file ends.

    Args:
        path: the file.
        parts: how many videos may be in it, one behind the other.
    """
    try:
        found = read_frames(path, 16, None)
    except VideoError as error:
        return "several lines" if "\n" in str(error) else "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    wrong = shown_wrong(found, parts)
    return "read" if not wrong else "unknowable" if untold(path) else wrong


def shown_wrong(found: Frames, parts: int) -> str:
    """What is wrong with frames that say their numbers; nothing if they come in the order of their times."""
    seen = [number(image) for image in found.pixels]
    restarts = sum(b < a for a, b in zip(seen, seen[1:], strict=False))
    if any(n >= FRAMES for n in seen) or restarts >= parts:
        return f"shows frames {seen}"
    if parts == 1:
        offsets = [
            n - seconds * FPS for n, seconds in zip(seen, found.seconds.tolist(), strict=True)
        ]
        if max(offsets) - min(offsets) > 1.5:
            return f"shows frames {seen} at {found.seconds.tolist()}"
    return ""


def untold(path: Path) -> bool:
    """Whether FFmpeg decodes all of a file without a word, as it does where the changed bytes make another picture.

    AVI files have no time stamps: a picture that was taken out or doubled moves the others.
    """
    if path.suffix == ".avi":
        return True
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        for packet in container.demux(stream):
            try:
                if packet.is_corrupt or any(frame.is_corrupt for frame in packet.decode()):
                    return False
            except av.FFmpegError:
                return False
    return True


def cases(share: float) -> Iterator[Ending]:
    """Mutated files, then joined, cut and shifted ones; the same each time."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        whole = {}
        for name in NAMES:
            for first in (0, 3_000, 4_880):
                whole[name, first] = write(root / name, *FILES[name], first=first).read_bytes()
        for at in spread(range(MUTATED + JOINED), share):
            draw = random.Random(at)
            name = NAMES[at % len(NAMES)]
            path = root / f"case{Path(name).suffix}"
            other = draw.choice((0, 3_000, 4_880))
            if at < MUTATED:
                path.write_bytes(mutated(whole[name, 0], draw))
                yield f"{at} mutated {name}", told(path, 1)
            else:
                path.write_bytes(joined(whole[name, 0], whole[name, other], draw))
                yield f"{at} joined {name}", told(path, 2)
