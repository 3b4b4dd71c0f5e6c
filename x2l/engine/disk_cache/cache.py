"""Pre-fills kept on disk, for other jobs and later runs: `prefill.cache=DIR prefill.cache_gb=N`.

One file a video with all its levels, since these come from one pass, share its counts and are wanted together. Its
name is the hash of all that its KVs follow from (`key.py`), so a file is never out of date, only unused. How processes
share the folder, its limit, and what happens where it fails: `folder.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from x2l.compressors.base import Level
from x2l.engine.disk_cache.file_format import Unstorable, plan, read, write
from x2l.engine.disk_cache.folder import CacheFolder, Kind
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

PREFILLS = Kind(
    "prefill.cache",
    "prefill.safetensors",
    "pre-fill",
    "computed",
    "the video pre-filled again",
)


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
        self.files = CacheFolder(folder, gigabytes, PREFILLS)
        self._fingerprint: tuple[VideoModel, str] | None = None
        self._code: str | None = None
        self._users = False  # whether a method is not x2l's
        try:
            self._code, self._users = code_digest(levels), bool(users_bases(levels))
        except Unaddressable as error:
            self.files.say_once("unused", f"prefill.cache is not used: {error}")

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
            return known
        before = users_modules()
        store = compute()
        self.files.made += 1
        if self._users and (late := sorted(users_modules() - before)):
            # Its source is not in the address, of this video or of a later one.
            self._code = None
            self.files.say_once(
                "unused", f"prefill.cache is not used: {late[0]} is imported only while compressing"
            )
        elif key is not None:
            self._keep(key, store, meter)
        return store, None

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
            self.files.say_once("unused", f"prefill.cache is not used: {error}")
            return None
        probes = {name: level.compressor.probe for name, level in levels.items()}
        tokens = {name: model.question(text).input_ids for name, text in probes.items() if text}
        settings = {**settings, "probes": tokens}
        try:
            return address(
                self._fingerprint[1], self._code, prompt, levels, settings, video_seed, pixels()
            )
        except Unaddressable as error:
            self.files.say_once("unused", f"prefill.cache is not used: {error}")
            return None

    def _find(
        self, key: str, model: VideoModel, prompt: Prompt, meter: Meter
    ) -> tuple[KVStore, Loaded] | None:
        start = time.perf_counter()
        held = self.files.read(key, lambda path: read(path, prompt, model.layer_devices))
        if held is None:
            return None
        store, facts = held
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
            self.files.say_once("form", f"prefill.cache: {error}")
            return
        with self.files.part(key, planned.nbytes) as part:
            if part.open:
                write(planned, part)
                part.keep()
