"""Whether a configuration has the settings that there are, of the types that they have. Works on plain values.

Hydra takes any key behind a `+` and any value for any key. What nothing reads, or reads as another type than was
meant, would change a run without a word.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from x2l.evaluation.settings import ConfigError
from x2l.evaluation.value_types import fits, rule, told

HYDRAS = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")


def check_settings(values: Mapping[str, Any], conf: Path) -> None:
    """Checks every key that is not an argument of an object's constructor.

    Args:
        values: the whole configuration, resolved, without `hydra`.
        conf: the folder with x2l's yaml files.

    Raises:
        ConfigError: a key that there is not, or a value where there should be several, by name.
    """
    known = _keys(conf)
    _check_keys("", values, known)
    for name, keys in known.items():
        if keys is None:
            continue
        group = values.get(name)
        if name == "selector" and not group:  # of its own: no selector
            continue
        if not isinstance(group, Mapping):
            files = ", ".join(sorted(path.stem for path in (conf / name).glob("*.yaml")))
            remedy = (
                f"choose one of conf/{name}: {files}"
                if files
                else f"set {name}.{keys[0] if keys else 'NAME'}="
            )
            raise ConfigError(f"{name}={told(group)}: must be several settings; {remedy}")
        if keys:
            _check_keys(name, group, keys)
    for level, settings in values["levels"].items():
        _check_level(str(level), settings)
    for name, node in (values.get("selector") or {}).items():
        _check_object(f"selector.{name}", node, f"selector={name}")
    for group in ("model", "benchmark", "tracker"):
        _check_object(group, values[group], f"{group}=NAME")
    if values["tracker"].get("_partial_") is not True:
        raise ConfigError("tracker._partial_: must be true; write tracker=NAME")


def _check_level(name: str, level: Any) -> None:
    if not isinstance(level, Mapping):
        return
    for part in ("compressor", "codec"):
        node = level.get(part)
        if part in level and not (part == "codec" and node in (None, {})):
            _check_object(f"levels.{name}.{part}", node, f"{part}@levels.{name}.{part}=NAME")


def _check_object(at: str, node: Any, remedy: str) -> None:
    """Something that is built: settings with the class that takes them."""
    target = node.get("_target_") if isinstance(node, Mapping) else None
    if not isinstance(target, str) or "." not in target:
        what = (
            f"{at}._target_={told(target)}" if isinstance(node, Mapping) else f"{at}={told(node)}"
        )
        raise ConfigError(
            f"{what}: must be the settings of a class of x2l or your own; write {remedy}"
        )


@functools.cache
def _keys(conf: Path) -> dict[str, tuple[str, ...] | None]:
    """The keys at the top; of those that hold others, which ones (`()`: those of what is built), else None."""
    top = _read(conf / "config.yaml")
    groups = [name for entry in top.pop("defaults") if isinstance(entry, dict) for name in entry]
    names = [name for name in groups if "@" not in name and name != "experiment"]
    del top["hydra"]
    keys: dict[str, tuple[str, ...] | None] = {}
    for name, value in top.items():
        keys[name] = tuple(value) if isinstance(value, dict) and name != "levels" else None
    keys["levels"] = ()
    for name in names:
        files = [_read(path) for path in (conf / name).glob("*.yaml")]
        built = name not in ("codec", "model") and any("_target_" in file for file in files)
        inner = [key for file in files for key in file if key != "defaults"]
        keys[name] = () if built or name == "codec" else tuple(dict.fromkeys(inner))
    return keys | {"compressor": None, "codec": None, "selector": ()}


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


@functools.cache
def default_values(conf: Path) -> dict[str, Any]:
    """The settings of config.yaml and of the plain groups it names by default; of other groups the file's name."""
    top = _read(conf / "config.yaml")
    named = [entry for entry in top.pop("defaults") if isinstance(entry, dict)]
    groups = {group: file for entry in named for group, file in entry.items() if "@" not in group}
    for group in ("video", "prefill"):
        groups[group] = _read(conf / group / f"{groups[group]}.yaml")
    return groups | top


def _check_keys(at: str, values: Mapping[str, Any], known: Collection[str]) -> None:
    for key in values:
        if key not in known:
            name = f"{at}.{key}" if at else str(key)
            raise ConfigError(f"{name}: there is no such setting; {suggestion(str(key), known)}")


def known_settings(conf: Path) -> list[str]:
    """The settings of `_keys` by their whole names."""
    keys = _keys(conf)
    return [*keys, *(f"{name}.{key}" for name, inner in keys.items() for key in inner or ())]


def suggestion(name: str, known: Collection[str]) -> str:
    """What may have been meant, or what there is."""
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return (
        f"there are {', '.join(sorted(known))}" if len(known) < 20 else "docs/settings.md has all"
    )


def _hints(target: Any) -> dict[str, Any]:
    """Types of arguments by name; without those whose names are imported for type checkers alone."""
    function = target.__init__ if inspect.isclass(target) else target
    hints, names = {}, vars(sys.modules[target.__module__])
    for name, hint in getattr(function, "__annotations__", {}).items():
        try:
            hints[name] = eval(hint, names) if isinstance(hint, str) else hint
        except NameError:
            continue
    return hints


def check_arguments(at: str, node: Mapping[str, Any], target: Any) -> None:
    """Checks the settings of an object against the signature of what makes it.

    Args:
        at: name of the node.
        node: `_target_` and arguments.
        target: what `_target_` names.

    Raises:
        ConfigError: a setting that it does not take or that is of another type.
    """
    try:
        parameters = dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return  # a class of C
    hints = _hints(target)
    # A class method, or a function that says which class it makes, hands the others on to the class.
    owner = getattr(target, "__self__", hints.pop("return", None))
    others = [name for name, p in parameters.items() if p.kind is p.VAR_KEYWORD]
    if others and inspect.isclass(owner):
        parameters |= inspect.signature(owner).parameters
        hints = _hints(owner) | hints
        del parameters[others[0]]
    arguments = {key: value for key, value in node.items() if key not in HYDRAS}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        _check_keys(at, arguments, parameters)
    for key, value in arguments.items():
        if key in hints and not fits(value, hints[key]):
            raise ConfigError(f"{at}.{key}={told(value)}: must be {rule(hints[key])}")
