"""All commands with closed streams, full and read-only disks, odd names, other locales, no home and no user."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.fuzz.run import Ending, spread

ROOT = str(Path(__file__).parents[2])
SMALL = ("benchmark.videos=1", "benchmark.seconds=16", "limit=1", "max_new_tokens=1")
# name -> module, arguments; {0} is the folder of a sweep, {1} a video
COMMANDS = {
    "x2l": ("run", (*SMALL, "tracker=none", "hydra.run.dir='{0}/again'", "benchmark.root='{2}'")),
    "x2l-ask": ("ask.command", ("{1}", "What colour?", "--max-new-tokens", "1")),
    "x2l-calibrate": ("calibrate", (*SMALL, "--questions", "1", "--out", "{0}/heads.json")),
    "x2l-collect": ("collect", ("{0}", "--lmms-eval")),
    "x2l-compare": ("compare", ("{0}",)),
    "x2l-data": ("data", ("check", "benchmark=mlvu", "benchmark.root='{2}'")),
    "x2l-plan": ("plan", (*SMALL, "-m", "top_k=1,2", "benchmark.root='{2}'")),
    "x2l-report": ("report", ("{0}",)),
    "x2l-status": ("status", ("{0}",)),
}


@dataclass(frozen=True)
class World:
    """What surrounds a command.

    Attributes:
        shell: how it is called; `"$@"` is the command.
        folder: name of the folder with everything.
        environment: variables set, or unset where None.
        read_only: whether nothing can be written in the folder (a mount, which the superuser must be allowed to make).
    """

    shell: str = 'exec "$@"'
    folder: str = "plain"
    environment: Mapping[str, str | None] = field(default_factory=dict)
    read_only: bool = False


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NOBODY = {"HOME": None, "USER": None, "LOGNAME": None}
WORLDS = {
    "closed input": World('exec "$@" <&-'),
    "closed output": World('exec "$@" >&-'),
    "closed error": World('exec "$@" 2>&-'),
    "all closed": World('exec "$@" <&- >&- 2>&-'),
    "head": World('"$@" | head -c 1; exit ${PIPESTATUS[0]}'),
    "full output": World('exec "$@" >/dev/full'),
    "read-only": World(read_only=True),
    "no user, no home": World(environment=NOBODY),
    # Without an entry in the list of users, as in containers that are given a number.
    "nameless user": World(
        'chmod -R a+rwX . && exec setpriv --reuid=12345 --regid=12345 --clear-groups "$@"',
        environment=NOBODY,
    ),
    "odd name": World(folder="a b=[1],{x} \u6570\u636e 'q'"),
    "odd name, ASCII": World(folder="\u6570\u636e", environment=ASCII),
    "ASCII": World(environment=ASCII),
    "W&B online, bad key": World(environment={"WANDB_MODE": "online", "WANDB_API_KEY": "x"}),
}


def cases(share: float) -> Iterator[Ending]:
    """Every command in every world."""
    pairs = [(world, name) for world in WORLDS for name in COMMANDS]
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        source = Path(place) / "source"
        made = _call(World(), "run", (*SMALL, "tracker=none", f"hydra.run.dir={source}/sweep/run",
                     f"benchmark.root={source}/data"), place)  # fmt: skip
        if made.returncode:
            raise RuntimeError(made.stderr)
        for number, (name, command) in enumerate(spread(pairs, share)):
            world = WORLDS[name]
            home = Path(place) / str(number) / world.folder
            shutil.copytree(source, home)
            video = next((home / "data").rglob("*.mp4"))
            module, words = COMMANDS[command]
            arguments = [
                w.format(*(_quoted(w, p) for p in (home / "sweep", video, home / "data")))
                for w in words
            ]
            done = _call(world, module, arguments, str(home))
            yield f"{command}: {name}", _ending(done)


def _quoted(word: str, path: Path) -> str:
    """Inside quotes of Hydra."""
    return str(path).replace("'", "\\'") if "='" in word else str(path)


def _call(
    world: World, module: str, words: Sequence[str], folder: str
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}
    for name, value in world.environment.items():
        environment.pop(name, None)
        environment |= {} if value is None else {name: value}
    mount = 'mount --bind "$PWD" "$PWD" && mount -o remount,ro,bind "$PWD" && cd "$PWD" && '
    prefix = ["unshare", "-m"] if world.read_only else []
    shell = f"{mount if world.read_only else ''}{world.shell}"
    command = [
        *prefix,
        "bash",
        "-c",
        shell,
        "bash",
        sys.executable,
        "-m",
        f"x2l.cli.{module}",
        *words,
    ]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8",
        errors="replace", timeout=600,
    )  # fmt: skip


def _ending(done: subprocess.CompletedProcess[str]) -> str:
    text = done.stdout + done.stderr
    if "Traceback" in text or "Exception ignored" in text or "--- Logging error" in text:
        return " ".join(text.strip().splitlines()[-1:])
    if done.returncode not in (0, 1, 2):
        return f"status {done.returncode}: {text.strip()[-200:]}"
    return "read" if done.returncode < 2 else "refused"
