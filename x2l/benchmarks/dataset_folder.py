"""A data set's folder as `hf download` and the set's own unpack step leave it: rows and videos.

What is missing or unreadable ends in a `DatasetError` that says which command fetches it.
"""

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from x2l.benchmarks.annotation_row import Row
from x2l.benchmarks.base import DatasetError

VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov")


@dataclass(frozen=True)
class Source:
    """Where a set is published and how it gets onto the disk.

    Attributes:
        repo: the data set's repository on the Hub.
        unpack: shell commands, run inside the folder after the download: the set's own unpack step.
        gated: the Hub asks for a login and for agreement to the set's terms first.
    """

    repo: str
    unpack: tuple[str, ...] = ()
    gated: bool = False

    def command(self, root: str | Path) -> str:
        """The shell command that fetches and unpacks the set into `root`."""
        where = shlex.quote(str(root))
        steps = ["hf auth login"] if self.gated else []
        steps.append(f"hf download --repo-type dataset {self.repo} --local-dir {where}")
        if self.unpack:
            steps.append(f"( cd {where} && {' && '.join(self.unpack)} )")
        return " && ".join(steps)


class Folder:
    """One set's folder; final. Nothing is read before it is asked for."""

    def __init__(self, name: str, root: str | Path, source: Source | None) -> None:
        """Keeps the values.

        Args:
            name: of the set.
            root: what was given to `hf download --local-dir`.
            source: how it gets there; None = it is the user's own.
        """
        self.name, self.root, self.source = name, Path(root), source

    def has(self, name: str) -> bool:
        """Whether a file or folder is there, by its path under the root."""
        return (self.root / name).exists()

    def rows(self, *names: str) -> list[Row]:
        """The rows of the first of these files that is there: .parquet, .json or .jsonl.

        Raises:
            DatasetError: the folder or all of the files are missing, or the file cannot be read.
        """
        if not self.root.is_dir():
            raise DatasetError(self._missing(f"benchmark.root={self.root}: no such folder"))
        path = next((self.root / name for name in names if self.has(name)), None)
        if path is None:
            wanted = " or ".join(names)
            raise DatasetError(self._missing(f"benchmark.root={self.root}: must hold {wanted}"))
        try:
            rows, lines = _read(path)
        except (OSError, ValueError, RecursionError, NotImplementedError, MemoryError) as error:
            raise DatasetError(self._missing(f"{path}: cannot be read ({error})")) from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DatasetError(self._missing(f"{path}: must be a list of objects"))
        return [
            Row(values, path, number, lines[number] if lines else None)
            for number, values in enumerate(rows)
        ]

    def video(self, name: str, folders: Sequence[str]) -> Path:
        """Where a video lies: in one of `folders`, else anywhere under the root by its name alone.

        Archives are not always unpacked where their makers do it, so the name decides in the end.
        A video that is nowhere has its first place; that it is missing shows when it is read.

        Args:
            name: the file's name, with or without suffix; another video suffix is as good.
            folders: under the root, most likely first.

        Raises:
            DatasetError: two files of that name, none of them in one of `folders`.
        """
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in VIDEOS:
            stem, suffix = name, VIDEOS[0]
        for folder in folders:
            for ending in dict.fromkeys((suffix, *VIDEOS)):
                path = self.root / folder / f"{stem}{ending}"
                if path.is_file():
                    return path
        found = self._videos.get(Path(stem).name, [])
        if len(found) > 1:
            places = " and ".join(str(path.relative_to(self.root)) for path in found)
            raise DatasetError(
                f"benchmark.root={self.root}: {name} is there twice ({places}); remove one"
            )
        return found[0] if found else self.root / folders[0] / f"{stem}{suffix}"

    @cached_property
    def _videos(self) -> dict[str, list[Path]]:
        """Every video file under the root by its name without suffix."""
        found: dict[str, list[Path]] = {}
        walked: set[str] = (
            set()
        )  # a folder may be linked into itself, and a file be there by two names
        for place, folders, files in os.walk(self.root, followlinks=True):
            folders[:] = sorted(
                f for f in folders if os.path.realpath(f"{place}/{f}") not in walked
            )
            walked.update(os.path.realpath(f"{place}/{folder}") for folder in folders)
            for file in sorted(files):
                stem, suffix = os.path.splitext(file)
                path = os.path.realpath(f"{place}/{file}")
                if suffix.lower() in VIDEOS and path not in walked:
                    walked.add(path)
                    found.setdefault(stem, []).append(Path(place) / file)
        return found

    def _missing(self, what: str) -> str:
        if self.source is None:
            return f"{what}; correct it"
        return f"{what}; fetch {self.name} with: {self.source.command(self.root)}"


def _read(path: Path) -> tuple[Any, list[int]]:
    """What a file holds, and of a .jsonl the line that each row stands in."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist(), []
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix != ".jsonl":
        return json.loads(text), []
    rows: dict[int, Any] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows[number] = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    return list(rows.values()), list(rows)
