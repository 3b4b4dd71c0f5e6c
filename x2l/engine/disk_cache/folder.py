"""A folder of files that several processes share, of at most so many bytes, and that may fail without ending a run.

Any number of processes may use it, without locks: a file appears whole or not at all (`os.replace`), of two writers the
last one's stays, and a file that another process removes while it is read is read to its end. Beyond the limit, the
files that were used longest ago go first. Nothing that goes wrong with the folder once a run has begun ends it: what
cannot be read is made again, what cannot be written is not kept. What is in the files is not known here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

_PART = re.compile(r"\.[0-9a-f]{32}\.\d+\.[0-9a-f]+\.part")
_ABANDONED = 3600.0  # seconds without a write after which a writer is taken to be dead
_BUFFER = 1 << 20
T = TypeVar("T")
log = logging.getLogger(__name__)


class DamagedFile(ValueError):
    """A file that does not hold what was written."""


@dataclass(frozen=True)
class Kind:
    """What a folder keeps.

    Attributes:
        setting: that names the folder; with `_gb` behind it, the limit.
        suffix: of the names of its files.
        noun: what a file holds.
        made: how that comes to be.
        made_again: what is done instead where a file is damaged.
    """

    setting: str
    suffix: str
    noun: str
    made: str
    made_again: str


class CacheFolder:
    """The folder, as one run uses it. Final.

    Attributes:
        folder, limit: where, and bytes that all files together may take.
        loaded, made, dropped: how many were read, made anew, and removed as damaged.
    """

    def __init__(self, folder: Path, gigabytes: float, kind: Kind) -> None:
        """Makes the folder.

        Args:
            folder: may hold files of any other runs, and anything else, which is never touched.
            gigabytes: the limit, 10^9 bytes each.
            kind: of its files.

        Raises:
            ValueError: the folder cannot be made or written to.
        """
        self.folder, self.limit, self._kind = folder, int(gigabytes * 1e9), kind
        self._entry = re.compile(rf"[0-9a-f]{{32}}\.{re.escape(kind.suffix)}")
        self.loaded = self.made = self.dropped = 0
        self._said: set[str] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ValueError(
                f"{kind.setting}={folder}: must be a folder that can be written to ({error.strerror}); name another, "
                f"or null to keep no {kind.noun}s"
            ) from error

    def path(self, key: str) -> Path:
        """The file of an address of 32 hex digits."""
        return self.folder / f"{key}.{self._kind.suffix}"

    def read(self, key: str, reader: Callable[[Path], T]) -> T | None:
        """What the reader makes of a file; None where there is none that it can use, which is told.

        Args:
            key: of the file.
            reader: may raise `DamagedFile`, whereupon the file goes, and `OSError`.
        """
        path = self.path(key)
        try:
            value = reader(path)
        except FileNotFoundError:
            return None
        except DamagedFile as error:
            self.drop(key, error)
            return None
        except OSError as error:
            self.unread(key, error)
            return None
        self.loaded += 1
        with contextlib.suppress(OSError):  # removed by another process, or not ours to touch
            os.utime(path)
        return value

    def drop(self, key: str, error: DamagedFile) -> None:
        """Removes a damaged file and says so."""
        self.dropped += 1
        log.warning("%s; it is dropped, and %s", error, self._kind.made_again)
        with contextlib.suppress(OSError):
            self.path(key).unlink()

    def unread(self, key: str, error: OSError) -> None:
        """Says that a file cannot be read."""
        self.say_once(
            "unread",
            f"{self._kind.setting}: {self.path(key)} cannot be read ({error}); it is {self._kind.made} again",
        )

    def unwritten(self, error: OSError) -> None:
        """Says that a file cannot be written."""
        self.say_once(
            "unwritten",
            f"{self._kind.setting}={self.folder}: a {self._kind.noun} could not be kept ({error}); the run goes on",
        )

    def part(self, key: str, nbytes: int) -> Part:
        """A new file of that address; where it cannot be kept, that is told, and nothing is written."""
        part = Part(self, key)
        if nbytes > self.limit:
            self.say_once(
                "large",
                f"{self._kind.setting}_gb={self.limit / 1e9:g}: a {self._kind.noun} of {nbytes / 1e9:.3g} GB is larger "
                "and is not kept; raise it",
            )
        else:
            part.begin(nbytes)
        return part

    def summary(self) -> str:
        """One line on what came of it."""
        dropped = f", {self.dropped} damaged ones dropped" if self.dropped else ""
        counts = f"{self._kind.noun}s: {self.loaded} loaded, {self.made} {self._kind.made}{dropped}"
        try:
            sizes = [size for _, size, _ in self._files()]
        except OSError as error:
            return f"{counts}; {self.folder} cannot be listed ({error.strerror})"
        used = f"{sum(sizes) / 1e9:.3g} of {self.limit / 1e9:g} GB"
        return f"{counts}; {self.folder} holds {len(sizes)} in {used}"

    def make_room(self, nbytes: int) -> None:
        """Removes files until `nbytes` more fit: what dead writers left, then what was used longest ago."""
        kept = []
        for path, size, used in self._files():
            if _PART.fullmatch(path.name) and time.time() - used / 1e9 > _ABANDONED:
                path.unlink(missing_ok=True)
            else:
                kept.append((used, size, path))
        total = sum(size for _, size, _ in kept) + nbytes
        for _, size, path in sorted(kept):
            if total <= self.limit:
                return
            if self._entry.fullmatch(path.name):
                # Of two processes that remove it, both count it as gone.
                path.unlink(missing_ok=True)
                total -= size

    def say_once(self, kind: str, text: str) -> None:
        """Warns, once for each kind of trouble."""
        if kind not in self._said:
            self._said.add(kind)
            log.warning(text)

    def _files(self) -> Iterator[tuple[Path, int, int]]:
        """Files of the cache, their bytes, and when they were used last (ns)."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if self._entry.fullmatch(entry.name) or _PART.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):  # removed by another process
                        stat = entry.stat()
                        yield Path(entry.path), stat.st_size, stat.st_mtime_ns


class Part:
    """A file in the making, under a name of its own until it is kept; gone at the end of its `with` if it was not.

    Final. No `OSError` leaves it: it is told once, and nothing more is written.
    """

    def __init__(self, folder: CacheFolder, key: str) -> None:
        """Of that address; nothing is on the disk yet."""
        self._folder, self._key = folder, key
        self._path = folder.folder / f".{key}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part"
        self._file: BinaryIO | None = None

    @property
    def open(self) -> bool:
        """Whether what is written to it goes anywhere."""
        return self._file is not None

    def begin(self, nbytes: int) -> None:
        """Makes room for so many bytes, and the file."""
        with self._told():
            self._folder.folder.mkdir(parents=True, exist_ok=True)
            self._folder.make_room(nbytes)
            self._file = self._path.open("xb", buffering=_BUFFER)

    def write(self, data: bytes | memoryview) -> None:
        """Appends."""
        if self._file is not None:
            with self._told():
                self._file.write(data)

    def keep(self) -> None:
        """The file takes its place, once it is on the disk."""
        if self._file is None:
            return
        with self._told():
            self._file.flush()
            # A drive that is full or away may say so only now.
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._path, self._folder.path(self._key))
            self._file = None
            self._folder.make_room(0)  # others may have written meanwhile

    def drop(self) -> None:
        """Ends it without a trace, if it was not kept."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # what is buffered may not fit the disk
                file.close()
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """However it is left."""
        self.drop()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.drop()
            self._folder.unwritten(error)
