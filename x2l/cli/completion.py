"""What may stand where a TAB is pressed on a command line of x2l. Reads a few yaml files; knows nothing of Hydra."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

# All commands that take settings. `=` must not end a word, or bash would complete what follows it alone.
SCRIPT = """_x2l_completion() {
    COMPREPLY=($(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" x2l -sc query=bash 2>/dev/null))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _x2l_completion x2l x2l-ask x2l-calibrate x2l-data x2l-plan"""
SCRIPT_OF_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"
METHODS = ("compressor", "codec")  # groups that stand in levels, too
LEAVES = ("experiment", "hydra/launcher")  # groups without settings of their own name
WORDS = ("--config-dir", "--help", "--multirun", "--version")


def suggestions(words: Sequence[str], conf: Path, own: str | None = None) -> list[str]:
    """Whole words that begin with the last one.

    Args:
        words: of the command line behind the command; the last is the one to complete, maybe empty.
        conf: the folder of x2l's yaml files.
        own: that of the user's, if there is one; `--config-dir` among the words comes first.
    """
    word = words[-1] if words else ""
    if word.startswith("-"):
        return [flag for flag in WORDS if flag.startswith(word)]
    if "--config-dir" in words[:-2]:
        own = words[words.index("--config-dir") + 1]
    folders = [conf, *([Path(own).expanduser()] if own else [])]
    sign = re.match(r"[+~]*", word)
    assert sign is not None
    rest = word[sign.end() :]
    found = _values(rest, folders) if "=" in rest else _names(rest, words[:-1], folders)
    return [sign[0] + name for name in sorted(set(found)) if name.startswith(rest)]


def _values(word: str, folders: Sequence[Path]) -> Iterator[str]:
    """`compressor=tome,` and `selector=[none,` go on with another file of the group."""
    name, _, value = word.partition("=")
    last = max(value.rfind(","), value.rfind("[")) + 1
    for file in _files(name.partition("@")[0], folders):
        yield f"{name}={value[:last]}{file.stem}"


def _files(group: str, folders: Sequence[Path]) -> list[Path]:
    return [file for folder in folders for file in folder.glob(f"{group}/*.yaml")] if group else []


def _names(word: str, before: Sequence[str], folders: Sequence[Path]) -> Iterator[str]:
    """Groups and settings; below the last point of the word those of the files that are chosen."""
    config = _read(folders[0] / "config.yaml")
    chosen: dict[str, Any] = {}
    for entry in config["defaults"]:
        chosen |= entry if isinstance(entry, dict) else {}
    chosen |= dict(known.split("=", 1) for known in before if "=" in known)
    *path, _ = word.split(".")
    node = {key: value for key, value in config.items() if key not in ("defaults", "hydra")}
    if not path:
        yield from (f"{key}{_end(value)}" for key, value in node.items())
        for group in {
            f.parent.relative_to(folders[0]).as_posix() for f in folders[0].glob("*/**/*.yaml")
        }:
            yield from (f"{group}=", f"{group}.")[: 1 if group in LEAVES else 2]
        return
    for depth, key in enumerate(path):
        inner = node.get(key)
        if inner is None and (
            depth == 0 or key in METHODS
        ):  # a group, or one that stands in a level
            stands = chosen.get(f"{key}@{'.'.join(path[: depth + 1])}", "$")
            inner = _of_group(key, chosen.get(key) if stands[0] == "$" else stands, folders)
        if not isinstance(inner, Mapping):
            return
        node = dict(inner)
    if path[0] == "levels" and len(path) == 2:
        node |= {name: {} for name in METHODS}
    yield from (f"{'.'.join(path)}.{key}{_end(value)}" for key, value in node.items())


def _end(value: Any) -> str:
    return "." if isinstance(value, Mapping) else "="


def _of_group(group: str, chosen: Any, folders: Sequence[Path]) -> dict[str, Any]:
    """The settings of the files of a group that are chosen: one name, or several in brackets."""
    stems = re.findall(r"[\w-]+", str(chosen))
    settings: dict[str, Any] = {}
    for file in _files(group, folders):
        if file.stem in stems:
            settings |= _read(file)
    return {key: value for key, value in settings.items() if key != "defaults" and key[0] != "_"}


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}
