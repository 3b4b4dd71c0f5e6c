"""Pre-fills kept on disk, for other jobs and later runs: `prefill.cache=DIR prefill.cache_gb=N`.

One file a video with all its levels, since these come from one pass, share its counts and are wanted together. Its
name is the hash of all that its KVs follow from (`key.py`), so a file is never out of date, only unused.
Any number of processes may use a folder, without locks: a file appears whole or not at all (`os.replace`), of two
writers the last one's stays, and a file that another process removes while it is read is read to its end. Beyond
the limit, the files that were used longest ago go first. Nothing that goes wrong with the folder once a run has begun
ends it: what cannot be read is computed, what cannot be written is not kept.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from x2l.compressors.base import Level
from x2l.engine.disk_cache.file_format import DamagedFile, Unstorable, plan, read, write
from x2l.engine.disk_cache.key import (
    Unaddressable,
    address,
    code_digest,
    users_bases,
)
from x2l.engine.disk_cache.source_hash import users_modules
from x2l.engine.kv_store import KVStore
from x2l.engine.meter import Meter
from x2l.engine.stages import PREFILL_STAGES
from x2l.models.fingerprint import UntoldWeights
from x2l.models.interface import VideoModel
from x2l.models.prompt import Prompt

# Nothing else in the folder is ever touched, whatever its name ends in.
_ENTRY = re.compile(r"[0-9a-f]{32}\.prefill\.safetensors")
_PART = re.compile(r"\.[0-9a-f]{32}\.\d+\.[0-9a-f]+\.part")
_ABANDONED = 3600.0  # seconds without a write after which a writer is taken to be dead
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """What loading a pre-fill took, beside what computing it had taken, which the meter is given.

    Attributes:
        seconds: of reading and checking the file.
    """

    seconds: float


def open_cache(
    folder: str | None, gigabytes: float, levels: Mapping[str, Level]
) -> PrefillCache | None:
    """The cache that `prefill.cache` and `prefill.cache_gb` name; None where no folder is named.

    Raises:
        ValueError: see `PrefillCache`.
    """
    return None if folder is None else PrefillCache(Path(folder).expanduser(), gigabytes, levels)


class PrefillCache:
    """A folder of pre-fills, as one run uses it. Final."""

    def __init__(self, folder: Path, gigabytes: float, levels: Mapping[str, Level]) -> None:
        """Makes the folder and reads the sources that KVs follow from, which should be soon after they were imported.

        Args:
            folder: may hold the pre-fills of any other runs.
            gigabytes: all of them together may take, 10^9 bytes each.
            levels: of the run.

        Raises:
            ValueError: the folder cannot be made or written to.
        """
        self.folder, self.limit = folder, int(gigabytes * 1e9)
        self.loaded = self.computed = self.dropped = 0
        self._said: set[str] = set()
        self._fingerprint: tuple[VideoModel, str] | None = None
        self._code: str | None = None
        self._users = False  # whether a method is not x2l's
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise ValueError(
                f"prefill.cache={folder}: must be a folder that can be written to ({error.strerror}); name another, or "
                "null to keep no pre-fills"
            ) from error
        try:
            self._code, self._users = code_digest(levels), bool(users_bases(levels))
        except Unaddressable as error:
            self._say_once("unused", f"prefill.cache is not used: {error}")

    def get(
        self,
        compute: Callable[[], KVStore],
        model: VideoModel,
        prompt: Prompt,
        levels: Mapping[str, Level],
        settings: Mapping[str, Any],
        video_seed: int,
        meter: Meter,
        pixels: Callable[[], str],
    ) -> tuple[KVStore, Loaded | None]:
        """The pre-fill of a video: from the folder, else computed and put there.

        Args:
            compute: pre-fills it, counting with `meter`.
            model: the model.
            prompt: of the video, with its frames.
            levels: of classes that the run's levels have.
            settings: context and positions.
            video_seed: for compressors that draw at random.
            meter: at zero; of a pre-fill from the folder it is given FLOPs and seconds of when it was computed.
            pixels: hashes them, see `key.pixels_digest`; not called where there is no address.

        Returns:
            The KVs, and what loading took; None if they were computed.
        """
        key = self._address(model, prompt, levels, settings, video_seed, pixels)
        if key is not None and (known := self._find(key, model, prompt, meter)) is not None:
            self.loaded += 1
            return known
        before = users_modules()
        store = compute()
        self.computed += 1
        if self._users and (late := sorted(users_modules() - before)):
            # Its source is not in the address, of this video or of a later one.
            self._code = None
            self._say_once(
                "unused", f"prefill.cache is not used: {late[0]} is imported only while compressing"
            )
        elif key is not None:
            self._keep(key, store, meter)
        return store, None

    def summary(self) -> str:
        """One line on what came of it."""
        dropped = f", {self.dropped} damaged ones dropped" if self.dropped else ""
        counts = (
            f"pre-fills: {self.loaded} loaded, {self.computed} computed{dropped}; {self.folder} "
        )
        try:
            sizes = [size for _, size, _ in self._entries()]
        except OSError as error:
            return f"{counts}cannot be listed ({error.strerror})"
        used = f"{sum(sizes) / 1e9:.3g} of {self.limit / 1e9:g} GB"
        return f"{counts}holds {len(sizes)} in {used}"

    def path(self, key: str) -> Path:
        """The file of an address."""
        return self.folder / f"{key}.prefill.safetensors"

    def _address(
        self,
        model: VideoModel,
        prompt: Prompt,
        levels: Mapping[str, Level],
        settings: Mapping[str, Any],
        video_seed: int,
        pixels: Callable[[], str],
    ) -> str | None:
        if self._code is None:
            return None
        try:
            if self._fingerprint is None or self._fingerprint[0] is not model:
                self._fingerprint = model, model.fingerprint
        except UntoldWeights as error:
            self._say_once("unused", f"prefill.cache is not used: {error}")
            return None
        probes = {name: level.compressor.probe for name, level in levels.items()}
        tokens = {name: model.question(text).input_ids for name, text in probes.items() if text}
        settings = {**settings, "probes": tokens}
        try:
            return address(
                self._fingerprint[1], self._code, prompt, levels, settings, video_seed, pixels()
            )
        except Unaddressable as error:
            self._say_once("unused", f"prefill.cache is not used: {error}")
            return None

    def _find(
        self, key: str, model: VideoModel, prompt: Prompt, meter: Meter
    ) -> tuple[KVStore, Loaded] | None:
        path, start = self.path(key), time.perf_counter()
        try:
            store, facts = read(path, prompt, model.layer_devices)
        except FileNotFoundError:
            return None
        except DamagedFile as error:
            self.dropped += 1
            log.warning("%s; it is dropped, and the video pre-filled again", error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        except OSError as error:
            self._say_once(
                "unread", f"prefill.cache: {path} cannot be read ({error}); it is computed again"
            )
            return None
        with contextlib.suppress(OSError):  # removed by another process, or not ours to touch
            os.utime(path)
        meter.flops |= facts["flops"]
        meter.seconds |= facts["seconds"]
        meter.peaks |= facts["peaks"]
        return store, Loaded(time.perf_counter() - start)

    def _keep(self, key: str, store: KVStore, meter: Meter) -> None:
        facts = {
            "flops": {stage: meter.flops[stage] for stage in PREFILL_STAGES},
            "seconds": {stage: meter.seconds[stage] for stage in PREFILL_STAGES},
            "peaks": {stage: meter.peaks[stage] for stage in PREFILL_STAGES},
        }
        try:
            planned = plan(store, facts)
        except Unstorable as error:
            self._say_once("form", f"prefill.cache: {error}")
            return
        if planned.nbytes > self.limit:
            self._say_once(
                "large",
                f"prefill.cache_gb={self.limit / 1e9:g}: a pre-fill of {planned.nbytes / 1e9:.3g} GB is larger and is "
                "not kept; raise it",
            )
            return
        part = self.folder / f".{key}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(planned.nbytes)
            with part.open("xb", buffering=1 << 20) as file:
                write(planned, file)
            os.replace(part, self.path(key))
            self._make_room(0)  # others may have written meanwhile
        except OSError as error:
            self._say_once(
                "unwritten",
                f"prefill.cache={self.folder}: a pre-fill could not be kept ({error}); the run goes on",
            )
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def _make_room(self, nbytes: int) -> None:
        """Removes files until `nbytes` more fit: what dead writers left, then what was used longest ago."""
        kept = []
        for path, size, used in self._entries():
            if _PART.fullmatch(path.name) and time.time() - used / 1e9 > _ABANDONED:
                path.unlink(missing_ok=True)
            else:
                kept.append((used, size, path))
        total = sum(size for _, size, _ in kept) + nbytes
        for _, size, path in sorted(kept):
            if total <= self.limit:
                return
            if _ENTRY.fullmatch(path.name):
                path.unlink(
                    missing_ok=True
                )  # of two processes that remove it, both count it as gone
                total -= size

    def _entries(self) -> Iterator[tuple[Path, int, int]]:
        """Files of the cache, their bytes, and when they were used last (ns)."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if _ENTRY.fullmatch(entry.name) or _PART.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):  # removed by another process
                        stat = entry.stat()
                        yield Path(entry.path), stat.st_size, stat.st_mtime_ns

    def _say_once(self, kind: str, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            log.warning(text)
