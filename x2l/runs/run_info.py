"""What a run was: run.json, and the identity of a configuration."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from x2l.runs.records import NO_UTF8, RECORDS
from x2l.runs.whole_file import whole_file

RUN = "run.json"
PACKAGE = Path(__file__).parents[1]
# What may differ between two runs that compute the same: where things lie, how much of it is asked
# for (records carry selector and top_k themselves), and `compressor`, the default of both levels;
# where pre-fills and frames are kept, and how many answers are decoded together.
NOT_IDENTITY = (
    "compressor",
    "selector",
    "top_k",
    "limit",
    "tracker",
    "paths",
    "benchmark.file",
    "benchmark.root",
    "benchmark.shard",
    "prefill.cache",
    "prefill.cache_gb",
    "video.cache",
    "video.cache_gb",
    "decode.batch",
)
_VERSIONS = ("x2l", "torch", "transformers", "hydra-core", "omegaconf", "numpy", "av")


@dataclass(frozen=True)
class RunInfo:
    """Enough to know what produced a folder of records, and to make it again."""

    run_id: str
    config: Mapping[str, Any]  # resolved
    commit: str | None  # of x2l's own checkout; None when installed without one
    dirty: bool | None
    code: str  # hash of x2l's source files: what a commit cannot say about a dirty tree
    versions: Mapping[str, str]
    device: str
    processor: str  # name of the GPU, or of the processor
    cpu_threads: int
    started: str
    checkpoint: str | None = None  # of the model's weights; None where it is not known beforehand
    original: Mapping[str, Any] | None = (
        None  # options of a model in its authors' layout, as it runs
    )
    overrides: Sequence[str] | None = None  # of the command line; None where it was no x2l

    def save(
        self, folder: Path, conditions: Sequence[Mapping[str, Any]], limit: int | None
    ) -> str | None:
        """Writes run.json; earlier sessions of a resumed folder are kept in it.

        Args:
            folder: of the run.
            conditions: what this session asks for, as `condition.to_json` has them.
            limit: questions it asks them for.

        Returns:
            A warning when the folder's earlier records came from other source code, else None.

        Raises:
            ValueError: see `check_folder`.
        """
        earlier = check_folder(folder, self.run_id, self.config, self.checkpoint)
        session = {
            "started": self.started,
            "commit": self.commit,
            "dirty": self.dirty,
            "code": self.code,
            "versions": dict(self.versions),
            "device": self.device,
            "processor": self.processor,
            "cpu_threads": self.cpu_threads,
            "checkpoint": self.checkpoint,
            **({} if self.original is None else {"original": dict(self.original)}),
            **({} if self.overrides is None else {"overrides": list(self.overrides)}),
            "conditions": [dict(condition) for condition in conditions],
            "limit": limit,
        }
        sessions = [*earlier, session]
        values = {"run_id": self.run_id, "config": self.config, **session, "sessions": sessions}
        write_json(folder / RUN, values)
        if earlier and earlier[-1]["code"] != self.code:
            return (
                f"{folder} holds records made by other source code "
                f"(commit {earlier[-1]['commit']}); they are kept. Remove the folder to redo them"
            )
        return None


def check_folder(
    folder: Path, run_id: str, config: Mapping[str, Any], checkpoint: str | None = None
) -> list[dict[str, Any]]:
    """The earlier sessions of this run in a folder; none in a new one.

    Raises:
        ValueError: the folder holds answers of another configuration, or of other weights.
    """
    path, records = folder / RUN, folder / RECORDS
    if not path.exists() or not records.exists() or records.stat().st_size == 0:
        return []
    before = json.loads(path.read_text(encoding="utf-8"))
    if before["run_id"] != run_id:
        raise ValueError(_other_run(folder, before["config"], config))
    weights = before["checkpoint"]
    if weights is not None and checkpoint is not None and weights != checkpoint:
        raise ValueError(
            f"hydra.run.dir={folder}: holds answers of other weights under the same name "
            f"(checkpoint {weights} there, {checkpoint} now); remove the folder or give another"
        )
    sessions: list[dict[str, Any]] = before["sessions"]
    return sessions


def describe(
    run_id: str,
    config: Mapping[str, Any],
    device: str,
    processor: str,
    cpu_threads: int,
    checkpoint: str | None = None,
    methods: str = "",
    original: Mapping[str, Any] | None = None,
    overrides: Sequence[str] | None = None,
) -> RunInfo:
    """Collects commit, versions and the start for `config`; `methods` is a digest of those that are not of x2l."""
    commit, dirty = _commit()
    return RunInfo(
        run_id=run_id,
        config=config,
        commit=commit,
        dirty=dirty,
        code=_code() + methods,
        versions={"python": platform.python_version(), **_versions()},
        device=device,
        processor=processor,
        cpu_threads=cpu_threads,
        started=now(),
        checkpoint=checkpoint,
        original=original,
        overrides=overrides,
    )


def checkpoint_digest(name_or_path: str) -> str | None:
    """What tells two sets of weights of one name apart: a hash of a folder's weight files.

    Of files over 64 MiB only the size, the first and the last MiB are read. None for a repository
    of the Hub: `model.revision` pins that.
    """
    packaged = PACKAGE / "models" / name_or_path
    folder = packaged if packaged.is_dir() else Path(name_or_path)
    files = [f for end in ("*.safetensors", "*.bin") for f in sorted(folder.glob(end))]
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            if size <= 64 << 20:
                digest.update(file.read())
            else:
                digest.update(file.read(1 << 20))
                file.seek(-(1 << 20), os.SEEK_END)
                digest.update(file.read())
    return digest.hexdigest()[:12]


def processor_name() -> str:
    """The processor's name, e.g. for run.json; the architecture where the system does not tell."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def identity(config: Mapping[str, Any]) -> str:
    """Twelve hex digits naming what a configuration computes; `NOT_IDENTITY` does not count.

    Args:
        config: plain values, resolved.
    """
    text = json.dumps(flattened(config, NOT_IDENTITY), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def flattened(
    values: Mapping[str, Any], without: Collection[str] = (), prefix: str = ""
) -> dict[str, Any]:
    """Nested values by dotted names, but for the names in `without` and what is below them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if (name := f"{prefix}{key}") in without:
            continue
        flat |= (
            flattened(value, without, f"{name}.") if isinstance(value, Mapping) else {name: value}
        )
    return flat


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Replaces a JSON file in one step: a reader sees the old or the new one, never a half."""
    with whole_file(path) as part:
        text = json.dumps(values, indent=1, ensure_ascii=False, default=str) + "\n"
        part.write_bytes(text.encode("utf-8", NO_UTF8))


def _other_run(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    old, new = flattened(before, NOT_IDENTITY), flattened(now, NOT_IDENTITY)
    differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    shown = "; ".join(f"{key}: {old.get(key)} there, {new.get(key)} now" for key in differing[:3])
    return (
        f"hydra.run.dir={folder}: must be empty or hold this very run, but it holds another "
        f"({shown}); give another folder"
    )


def _commit() -> tuple[str | None, bool | None]:
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        dirty = bool(_git(root, "status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):  # no git, or a repository without a commit
        return None, None
    return commit, dirty


def _git(root: Path, *args: str) -> str:
    done = subprocess.run(
        ["git", "-C", root, *args], capture_output=True, check=True, text=True, encoding="utf-8"
    )
    return done.stdout.strip()


def _code() -> str:
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _versions() -> dict[str, str]:
    versions = {}
    for name in _VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def now() -> str:
    """The time as files have it, to the second, with its zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
