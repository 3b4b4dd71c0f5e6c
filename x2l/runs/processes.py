"""Which process this is, and whether another one still lives. Linux; elsewhere nobody can tell."""

import os
from pathlib import Path

_PROC = Path("/proc")


def this_process() -> str | None:
    """`machine/pid/start`: names this process among all that ever ran; None where /proc does not tell.

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
    boot, space = _PROC / "sys/kernel/random/boot_id", _PROC / "self/ns/pid"
    try:
        return f"{boot.read_text().strip()}/{os.readlink(space)}"
    except OSError:
        return None


def _start(pid: int) -> str | None:
    """Clock ticks from the boot to the start of a process; None if it has ended (a zombie has)."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name in front may hold anything
    return None if fields[0] in "ZX" else fields[19]
