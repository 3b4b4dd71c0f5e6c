"""Small pictures of the frames that a run saw."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from x2l.analysis.report.shown_chunks import Film
from x2l.video import VideoError, open_frames

LONGER_SIDE = 96  # pixels of a thumbnail, at most
QUALITY = 75  # of JPEG
KEPT = 16  # films of which thumbnails are kept


@dataclass(frozen=True)
class Thumbnails:
    """Every sampled frame of a video, small.

    Attributes:
        times: seconds of each.
        pictures: (height, width, 3), uint8, of each.
    """

    times: tuple[float, ...]
    pictures: tuple[np.ndarray, ...]

    def jpeg(self, frame: int) -> bytes:
        """One of them as a JPEG file."""
        data = io.BytesIO()
        Image.fromarray(self.pictures[frame]).save(data, "JPEG", quality=QUALITY, optimize=True)
        return data.getvalue()


class ThumbnailReader:
    """Reads videos and keeps the thumbnails of the last ones; several threads may ask. Final."""

    def __init__(self) -> None:
        """Reads nothing yet."""
        self._kept: OrderedDict[Film, Thumbnails | None] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, film: Film) -> Thumbnails | None:
        """The frames of a video; None where the file is not there, cannot be read, or gives other frames."""
        with self._lock:
            if film not in self._kept:
                self._kept[film] = _read(film)
            self._kept.move_to_end(film)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return self._kept[film]


def _read(film: Film) -> Thumbnails | None:
    if not Path(film.path).is_file():
        return None
    try:
        frames = open_frames(film.path, film.frames, film.fps)
        if len(frames.seconds) != film.sampled:
            return None
        pictures = []
        for (pixels,) in frames.blocks((n, n + 1) for n in range(film.sampled)):  # one at full size
            image = Image.fromarray(pixels.numpy())
            image.thumbnail((LONGER_SIDE, LONGER_SIDE))
            pictures.append(np.asarray(image))
    except VideoError:
        return None
    return Thumbnails(tuple(frames.seconds.tolist()), tuple(pictures))
