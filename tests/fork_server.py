"""Processes of their own, without the seconds that each would spend on importing torch and transformers.

One process imports them, when the first command comes, and forks for every command that a test starts: `python -m
module arguments` with its own folder, environment, standard streams, exit status and process id. What is about the
imports themselves starts Python anew instead. As a program (`python fork_server.py SOCKET module arguments`) it stands
for the command: so kernels of notebooks are forked as well.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

# What commands would import, none of it a command itself.
IMPORTED = (
    "x2l.models",
    "matplotlib.pyplot",
    "pandas",
    "scipy.stats",
    "torchvision.transforms.v2",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
    "transformers.models.qwen2_5_vl.processing_qwen2_5_vl",
    "transformers.models.qwen2_vl.video_processing_qwen2_vl",
    "hydra.main",
    "x2l.analysis.curves",
    "x2l.benchmarks.needle.benchmark",
    "x2l.cli.compose",
    "x2l.compressors.merging",
    "x2l.evaluation.runner",
    "x2l.models.loading",
    "x2l.selectors.attention",
    "x2l.selectors.oracle",
    "x2l.analysis.points_table",
    "x2l.compressors.clustering",
    "hydra.experimental",
    "transformers.models.qwen2.tokenization_qwen2",
    "transformers.models.qwen2_vl.image_processing_qwen2_vl",
    "ipykernel.kernelapp",  # the last: tqdm, imported behind it, would look for widgets
    "matplotlib_inline.backend_inline",
)
SHARED = "X2L_TESTS_FORK_SERVER"  # the socket of a server
EXECUTABLE = "X2L_TESTS_PYTHON"  # `sys.executable` of what is forked, where it is to fork as well


# --- the client ------------------------------------------------------------------------------------------------------


@functools.cache
def address() -> str:
    """The socket of the server that all workers of pytest share, or of this process's own, which ends with it."""
    if SHARED in os.environ:
        return os.environ[SHARED]
    path = str(Path(tempfile.mkdtemp(prefix="fork")) / "socket")
    command = [sys.executable, "-m", "tests.fork_server", path]
    root = Path(__file__).parents[1]
    server = subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    atexit.register(end, server)
    assert server.stdout.readline() == b"ready\n"
    server.stdout.close()
    return path


def end(server: subprocess.Popen) -> None:
    """The end of its input is its own; what it forked goes on."""
    server.stdin.close()
    server.wait()


class Process:
    """A command that runs; `pid` is its own."""

    def __init__(self, module: str, arguments, cwd, env, streams, at: str | None = None) -> None:
        """Starts it with three open files as its standard streams, by the server of this process or another."""
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(at or address())
        asked = {"words": [module, *map(str, arguments)], "cwd": str(cwd), "env": dict(env)}
        text = json.dumps(asked).encode()
        socket.send_fds(self._connection, [len(text).to_bytes(4)], streams)
        self._connection.sendall(text)
        self._answers = self._connection.makefile()
        self.pid = int(self._answers.readline())

    def ended(self) -> bool:
        """Whether it has, without waiting for it."""
        return bool(select.select([self._connection], [], [], 0)[0])

    def wait(self) -> int:
        """Its exit status, as `subprocess` gives it."""
        with self._connection, self._answers:
            return int(self._answers.readline())


def run(module: str, *arguments, cwd, env) -> subprocess.CompletedProcess:
    """`python -m module arguments`, as `subprocess.run` with its output captured as text."""
    with (
        open(os.devnull) as nothing,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        streams = [nothing.fileno(), out.fileno(), err.fileno()]
        status = Process(module, arguments, cwd, env, streams).wait()
        out.seek(0), err.seek(0)
        return subprocess.CompletedProcess([module, *arguments], status, out.read(), err.read())


def give_kernels(patch, folder: Path) -> None:
    """Notebooks and the commands that they start are forked, and keep what Jupyter writes in the folder.

    `patch` is a MonkeyPatch.
    """
    # Has the imports done: Jupyter waits a minute for a kernel, no longer.
    run("platform", cwd=folder, env=os.environ)
    words = [sys.executable, "-I", __file__, address(), "ipykernel_launcher"]
    spec = {"argv": [*words, "-f", "{connection_file}"], "display_name": "Python 3 (ipykernel)"}
    kernel = folder / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps(spec | {"language": "python"}))
    forked = f'exec "{sys.executable}" -I "{__file__}" "{address()}" "$@"'
    (folder / "python").write_text(f"#!/bin/sh\nshift  # -m\n{forked}\n")
    (folder / "python").chmod(0o755)
    patch.setenv(EXECUTABLE, str(folder / "python"))
    patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
    patch.setenv("IPYTHONDIR", str(folder / "ipython"))


# --- the server ------------------------------------------------------------------------------------------------------


def end_with_client(connection: socket.socket, child: int) -> None:
    """Who started the command is gone or has been told how it ended; then nothing is left to kill."""
    connection.recv(1)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


@functools.cache
def prepare() -> None:
    """Imports, and what each command would compute and keep: how checkpoints are renamed, the names of settings."""
    for name in IMPORTED:
        importlib.import_module(name)
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from x2l.cli.compose import composed, plain

    get_checkpoint_conversion_mapping("qwen2_5_vl")
    plain(composed([]))
    gc.freeze()  # else the first collection of each fork would write to every page, and so copy it


def serve(path: str) -> list[str]:
    """Forks for everyone who connects until its standard input ends; returns only in what it forked, the command."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listening, sys.stdin], [], [])
            if sys.stdin in ready:
                Path(path).unlink()
                Path(path).parent.rmdir()
                os._exit(0)
            prepare()  # not earlier: most runs of a few tests start no command
            connection, _ = listening.accept()
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
    length, streams, _, _ = socket.recv_fds(connection, 4, 3)
    with connection.makefile("rb") as file:
        asked = json.loads(file.read(int.from_bytes(length)))
    if child := os.fork():  # this one says how the command ended
        for stream in streams:
            os.close(stream)
        threading.Thread(target=end_with_client, args=(connection, child), daemon=True).start()
        with contextlib.suppress(OSError):
            connection.sendall(f"{child}\n".encode())
            _, status = os.waitpid(child, 0)
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.executable = asked["env"].get(EXECUTABLE, sys.executable)
    found = [word for word in asked["env"].get("PYTHONPATH", "").split(os.pathsep) if word]
    sys.path[:0] = [asked["cwd"], *found]
    return asked["words"]


def main() -> None:
    """The server with one argument, a command with more."""
    path, *words = sys.argv[1:]
    if words:
        sys.exit(Process(words[0], words[1:], os.getcwd(), os.environ, [0, 1, 2], path).wait())
    sys.argv = serve(path)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
