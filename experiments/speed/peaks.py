"""Peak memory of this process or of a GPU, from one moment to another. Imports torch alone."""

import ctypes
from pathlib import Path

import torch


def memory(device: str, key: str) -> int:
    """Bytes now (`VmRSS`) or at the peak since `reset_peak` (`VmHWM`); Linux's names, CUDA's own counters."""
    if device == "cpu":
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024
    now = torch.cuda.memory_allocated(device)
    return now if key == "VmRSS" else torch.cuda.max_memory_allocated(device)


def reset_peak(device: str) -> None:
    """Starts a new peak; on the CPU what is freed goes back to Linux first, or a peak could hide in it."""
    if device == "cpu":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    else:
        torch.cuda.reset_peak_memory_stats(device)
