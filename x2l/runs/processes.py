"""Which process this is, and whether another one still lives. Linux; elsewhere nobody can tell."""

import os
from pathlib import Path

import psutil

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = "/proc/self/ns/pid"


def this_process() -> str | None:
    """`machine/pid/start`: names this process among all that ever ran; None where the system does not tell.

    The machine is its boot and its PID namespace: equal host names may be other containers, and a
    number is given to another process after the first has ended.
    """
    if (machine := _machine()) is None or (start := _start(os.getpid())) is None:
        return None
    return f"{machine}/{os.getpid()}/{start}"


def lives(process: str | None) -> bool | None:
    """Whether a process that `this_process` named is there; None where that cannot be seen from here."""
    if process is None or (here := _machine()) is None:
        return None
    machine, pid, start = process.rsplit("/", 2)
    return _start(int(pid)) == start if machine == here else None


def _machine() -> str | None:
    try:
        boot = _BOOT.read_text(encoding="utf-8").strip()
        return f"{boot}/{os.readlink(_NAMESPACE)}"
    except OSError:
        return None


def _start(pid: int) -> str | None:
    """Seconds from the boot to the start of a process; None if it has ended (a zombie has)."""
    booted = (
        psutil.boot_time()
    )  # moves with the system's clock, as `create_time` does: their difference stays
    try:
        process = psutil.Process(pid)
        ended = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return None if ended else f"{process.create_time() - booted:.2f}"
    except psutil.NoSuchProcess:
        return None
