"""How a job stands: status.json, written by the job itself.

A failed job must say so itself: Hydra's job log stays empty when the job dies, and a killed one
leaves nothing behind but what was on disk before. Read by `status.py`.
"""

import json
import logging
import os
import socket
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from x2l.runs.processes import this_process
from x2l.runs.records import append_json
from x2l.runs.run_info import now, write_json

STATUS = "status.json"
SWEEP = "sweep.jsonl"  # in a sweep's folder: one line each time it was started
LOCK = ".lock"
BEAT = 20.0  # seconds between signs of life of a running job
TELL = 2.0  # seconds between two states of progress
# `incomplete`: all that was asked now is done, but not all that an earlier session asked.
State = Literal["running", "done", "done-with-errors", "incomplete", "failed", "interrupted"]
log = logging.getLogger(__name__)


class StatusFile:
    """status.json of one run, replaced atomically: running, then how it ended.

    While a job runs, a thread touches the file every `BEAT` seconds: its age tells another machine
    whether the job still lives, however long a video takes.
    """

    def __init__(self, folder: Path, run_id: str, overrides: Sequence[str] = ()) -> None:
        """Writes nothing yet. Counts and overrides of earlier jobs of this run in `folder` are kept.

        Args:
            folder: of the run, which must exist.
            run_id: see `identity`.
            overrides: what tells this job from others of its sweep.
        """
        self.path = folder / STATUS
        before = read_status(folder) or {}
        earlier = before if before.get("run_id") == run_id else {}
        requests = [
            request for request in earlier.get("overrides", []) if request != list(overrides)
        ]
        # Several requests of one run share a folder: the sweep must know of each that it has begun.
        self._base = {
            "run_id": run_id,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "process": this_process(),
            "started": now(),
            "overrides": [*requests, list(overrides)],
        }
        kept = ("records", "expected")
        self._counts: dict[str, Any] = {n: earlier[n] for n in kept if n in earlier}
        self._written = 0.0
        self._beating = False

    def write(self, state: State, **counts: Any) -> None:
        """Replaces the file.

        Args:
            state: `running` as long as the process lives; a file that says so while its process is
                gone belongs to a killed run.
            **counts: records, expected, errors, ...; what was told before stays.
        """
        self.count(**counts)
        self._write(state)

    def count(self, **counts: Any) -> None:
        """Remembers counts for whatever is written next."""
        self._counts |= counts

    def tell(self, **counts: Any) -> None:
        """Replaces the file of a running job, but not more than every `TELL` seconds."""
        self.count(**counts)
        if time.monotonic() - self._written >= TELL:
            self._write("running")

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside, the job gives signs of life; however it ends is written down. May be nested."""
        if self._beating:
            yield
            return
        self._write("running", doing="starting")
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(stop,), daemon=True, name="heartbeat")
        beat.start()
        self._beating = True
        try:
            yield
        except (KeyboardInterrupt, SystemExit):  # by hand, or by a cluster that starts it again
            self._write("interrupted")
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self._write("failed", error=reason, traceback=traceback.format_exc())
            raise
        finally:
            stop.set()
            beat.join()
            self._beating = False

    def _write(self, state: State, **more: Any) -> None:
        first: dict[str, Any] = {"state": state, **self._base, "updated": now()}
        write_json(self.path, {**first, **self._counts, **more})
        self._written = time.monotonic()

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT):
            try:
                os.utime(self.path)
            except OSError as error:  # a full or vanished disk; the job itself will meet it, too
                log.warning("%s cannot be touched: %s", self.path, error)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside, no other job answers in `folder`; waits for one that does.

    Two at once would answer everything twice: the same command given again while a cluster still works on it, or
    parallel jobs that differ in what is no part of the folder's name. The lock ends with the process, whatever became
    of its forked children.
    """
    lock = FileLock(
        folder / LOCK, fallback_to_soft=False
    )  # a file that only exists outlives a kill
    try:
        lock.acquire(blocking=False)
    except Timeout:
        status = read_status(folder) or {}
        holder = f"process {status.get('pid', '?')} on {status.get('host', '?')}"
        log.warning("%s: %s answers in it; waiting until it has ended", folder, holder)
        lock.acquire()
    except OSError as error:  # a file system without locks
        log.warning("%s cannot be locked (%s): give it to one job at a time", folder, error)
    try:
        yield
    finally:
        lock.release()


def read_status(folder: Path) -> dict[str, Any] | None:
    """What a run's status.json says; None if there is none."""
    try:
        values: dict[str, Any] = json.loads((folder / STATUS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return values


def announce(sweep: Path, jobs: Sequence[Sequence[str]]) -> None:
    """Writes down, before any of them begins, the jobs that a sweep is started for.

    Args:
        sweep: its folder; made if missing.
        jobs: the overrides of each, as its `StatusFile` is given them.
    """
    sweep.mkdir(parents=True, exist_ok=True)
    values = {"started": now(), "host": socket.gethostname(), "process": this_process()}
    append_json(sweep / SWEEP, values | {"jobs": [list(job) for job in jobs]})
