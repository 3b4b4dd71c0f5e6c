"""Compute by stage: FLOPs as they are added up, seconds and peak memory as they are measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from x2l.engine.stages import STAGES
from x2l.models.out_of_memory import naming_stage

_STATUS, _PEAK_RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Meter:
    """Adds up FLOPs and synchronised seconds by stage, and notes peak memory. One for a pre-fill, one for an answer.

    Attributes:
        flops: stage -> operations, closed form.
        seconds: stage -> wall time, waiting at both ends for what was asked of the device (and, where a model is
            spread, of the other GPUs in use). Copies to the host that go on beside it are not waited for.
        peaks: stage -> the most bytes of memory during it. CUDA: allocated, summed over the GPUs in use (their peaks
            need not coincide). CPU: of the whole process, weights and libraries included (Linux). None: not known, or
            the stage was never entered.
        streamed_bytes: of KVs that a selector read from the host, as they are stored there.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Starts at zero."""
        self.device = torch.device(device)
        self.flops = dict.fromkeys(STAGES, 0)
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.peaks: dict[str, int | None] = dict.fromkeys(STAGES)
        self.streamed_bytes = 0

    def _gpus(self) -> list[int]:
        """All GPUs that this process keeps tensors on, where the model is on one."""
        if self.device.type != "cuda":
            return []
        count = torch.cuda.device_count()
        return [index for index in range(count) if torch.cuda.memory_allocated(index)]

    def _now(self) -> float:
        for index in self._gpus():
            # Not the whole device: see host_copy.py for the stream that copies beside this one.
            torch.cuda.current_stream(index).synchronize()
        return time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a block as part of a stage, and notes its peak; stages must not be nested."""
        with naming_stage(name):
            start = self._now()
            self._begin_peak()
            try:
                yield
            finally:
                self.seconds[name] += self._now() - start
                if (peak := self._peak()) is not None:
                    self.peaks[name] = max(peak, self.peaks[name] or 0)

    def take(self, whole: Meter, stage: str, share: float) -> None:
        """Adds a share of the seconds that several had one stage together for; its peak is that of all of them."""
        self.seconds[stage] += share * whole.seconds[stage]
        if (peak := whole.peaks[stage]) is not None:
            self.peaks[stage] = max(peak, self.peaks[stage] or 0)

    def add(self, stage: str, flops: int) -> None:
        """Counts operations."""
        self.flops[stage] += flops

    @property
    def peak_bytes(self) -> int | None:
        """The largest of its stages' peaks."""
        return max((peak for peak in self.peaks.values() if peak is not None), default=None)

    def _begin_peak(self) -> None:
        for index in self._gpus():
            torch.cuda.reset_peak_memory_stats(index)
        if self.device.type != "cuda" and _PEAK_RESET.exists():
            _PEAK_RESET.write_text("5", encoding="utf-8")  # Linux: starts VmHWM anew

    def _peak(self) -> int | None:
        if self.device.type == "cuda":
            return sum(torch.cuda.max_memory_allocated(index) for index in self._gpus())
        if not _STATUS.exists():
            return None
        line = next(
            row
            for row in _STATUS.read_text(encoding="utf-8").splitlines()
            if row.startswith("VmHWM")
        )
        return int(line.split()[1]) * 1024
