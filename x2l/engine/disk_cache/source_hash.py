"""The source files behind a value: those of some modules, and of what they import, as far as somebody may edit them.

Followed are x2l itself and every module outside Python's and the installed packages' folders; of an installed package
that is imported its version is told. What is imported by a computed name is not seen.

What counts is the code that runs, not the file: a source is read when it is first asked for, which should be soon after
it was imported, and again only if the module is loaded again. So a file that is edited while a process runs tells
nothing about that process.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]
# Module -> the spec that it was loaded by (`importlib.reload` makes a new one), and its source then.
_read: dict[str, tuple[object, bytes]] = {}


def sources_digest(modules: Iterable[str]) -> str:
    """A hash of the source of modules and of what they import.

    Args:
        modules: their names; each must be imported already.

    Raises:
        ValueError: a module has no source file, as one that was typed into a notebook or a prompt.
    """
    roots = sorted(set(modules))
    for name in roots:
        if _file(name) is None:
            raise ValueError(
                f"module {name!r} has no source file; put what it defines into a .py file"
            )
    digest = hashlib.blake2b(digest_size=16)
    found, versions = _closure(roots)
    for name, source in sorted(found.items()):
        digest.update(f"{name}\n".encode())
        digest.update(hashlib.blake2b(source).digest())
    digest.update(repr(sorted(versions.items())).encode())
    return digest.hexdigest()


def _closure(roots: Iterable[str]) -> tuple[dict[str, bytes], dict[str, str]]:
    """Sources by module, and versions of the installed packages that these import."""
    found: dict[str, bytes] = {}
    versions: dict[str, str] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        package = name.partition(".")[0]
        known = package in versions or package in sys.stdlib_module_names
        if name in found or (known and name not in roots):
            continue
        path = _file(name)
        if path is None:
            continue  # compiled, or no module but a name in one
        if not _installed(path):
            found[name] = _source(name, path)
            inside = name if path.name == "__init__.py" else name.rpartition(".")[0]
            waiting += _imports(inside, found[name])
        elif name in roots:
            found[name] = _source(name, path)  # a class of it is in use: no version says so exactly
        else:
            versions[package] = str(getattr(sys.modules.get(package), "__version__", None))
    return found, versions


def _file(name: str) -> Path | None:
    """The source of a module, without importing it."""
    module = sys.modules.get(name)
    place = getattr(module, "__file__", None)
    if module is None:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError):  # its parent is no package, or not there
            return None
        place = None if spec is None or not spec.has_location else spec.origin
    path = None if place is None else Path(place)
    return path if path is not None and path.suffix == ".py" and path.is_file() else None


def _installed(path: Path) -> bool:
    """Whether a file is Python's or of an installed package, x2l aside."""
    whole = path.resolve()
    if whole.is_relative_to(PACKAGE):
        return False
    return any(whole.is_relative_to(folder) for folder in _install_folders())


@cache
def _install_folders() -> frozenset[Path]:
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {*site.getsitepackages(), site.getusersitepackages()}
    return frozenset(Path(folder).resolve() for folder in folders)


def _source(name: str, path: Path) -> bytes:
    """The source that a module was loaded from; of one that is not loaded, its file."""
    module = sys.modules.get(name)
    if module is None:
        return path.read_bytes()
    loaded = getattr(module, "__spec__", None) or module
    if name not in _read or _read[name][0] is not loaded:
        _read[name] = loaded, path.read_bytes()
    return _read[name][1]


@cache  # by what is in the source
def _imports(package: str, source: bytes) -> frozenset[str]:
    """Names of modules that a source imports anywhere in it, and of the packages that hold them."""
    return frozenset(_names(package, ast.parse(source)))


def _names(package: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        whole: list[str] = []
        if isinstance(node, ast.Import):
            whole = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            whole = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for one in whole:
            parts = one.split(".")
            yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))
