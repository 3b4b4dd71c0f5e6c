"""The source files that KVs follow from: those of x2l up to the engine, and the user's own modules.

Coarse on purpose: an edit anywhere in x2l's kv.py, models/, compressors/ or engine/ counts, and of a method that is not
x2l's every module that is loaded and neither x2l's nor installed. Installed packages count by version: of torch and
transformers in the model's fingerprint, of one that a method's class is from here.

What counts is the code that runs, not the file: a source is read when it is first asked for, which should be soon after
it was imported, and again only if the module is loaded again. So a file that is edited while a process runs tells
nothing about that process.
"""

from __future__ import annotations

import hashlib
import site
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]
_UP_TO_THE_ENGINE = ("kv.py", "models", "compressors", "engine")
# Module -> the spec that it was loaded by (`importlib.reload` makes a new one), and its source then.
_read: dict[str, tuple[object, bytes]] = {}


@cache
def engine_digest(package: Path = PACKAGE) -> str:
    """A hash of all source files of x2l that KVs follow from."""
    digest = hashlib.blake2b(digest_size=16)
    for name in _UP_TO_THE_ENGINE:
        place = package / name
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            digest.update(f"{path.relative_to(package).as_posix()}\n".encode())
            digest.update(hashlib.blake2b(path.read_bytes()).digest())
    return digest.hexdigest()


def users_digest(modules: Iterable[str]) -> str:
    """A hash of the source of modules outside x2l, and of all of the user's own that are loaded.

    Args:
        modules: their names; each must be imported already.

    Raises:
        ValueError: a module has no source file, as one that was typed into a notebook or a prompt.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted({*modules} | users_modules()):
        if _file(name) is None:
            raise ValueError(
                f"module {name!r} has no source file; put what it defines into a .py file"
            )
        version = getattr(sys.modules.get(name.partition(".")[0]), "__version__", None)
        digest.update(f"{name} {version}\n".encode())
        digest.update(hashlib.blake2b(_source(name)).digest())
    return digest.hexdigest()


def users_modules() -> frozenset[str]:
    """Names of the loaded modules that are neither x2l's nor installed, the script that was started aside."""
    return frozenset(
        name
        for name in tuple(sys.modules)
        if name not in ("__main__", "__mp_main__")
        and (path := _file(name)) is not None
        and not _installed(path)
    )


def _file(name: str) -> Path | None:
    place = getattr(sys.modules.get(name), "__file__", None)
    path = None if place is None else Path(place)
    return path if path is not None and path.suffix == ".py" and path.is_file() else None


@cache
def _installed(path: Path) -> bool:
    """Whether a file is x2l's, Python's, or an installed package's."""
    whole = path.resolve()
    return any(whole.is_relative_to(folder) for folder in (PACKAGE, *_install_folders()))


@cache
def _install_folders() -> frozenset[Path]:
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {*site.getsitepackages(), site.getusersitepackages()}
    return frozenset(Path(folder).resolve() for folder in folders)


def _source(name: str) -> bytes:
    """The source that a module was loaded from."""
    module = sys.modules[name]
    loaded = getattr(module, "__spec__", None) or module
    if name not in _read or _read[name][0] is not loaded:
        path = _file(name)
        assert path is not None
        _read[name] = loaded, path.read_bytes()
    return _read[name][1]
