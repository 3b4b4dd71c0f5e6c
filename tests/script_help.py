"""Starts scripts with `--help`, each in a process that has imported nothing of x2l. A program: modules in, JSON out.

What takes long to import is imported once, before the forks. So that a script is still seen to import x2l.models, which
makes transformers' processors importable, before transformers, an import the other way round fails here as it would
where torchvision's operators cannot load.
"""

import builtins
import importlib
import io
import json
import os
import runpy
import sys
import traceback
from contextlib import redirect_stdout

SLOW = (
    "hydra.main",
    "matplotlib.pyplot",
    "pandas",
    "scipy.stats",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "transformers.models.clip.modeling_clip",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
)
NEEDS = "transformers is imported before x2l.models, which lets its processors import"


def prepare() -> None:
    """Imports what is slow, and forgets what of x2l that needs."""
    importlib.import_module("x2l.models")
    for name in SLOW:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "x2l"]:
        del sys.modules[name]


def refuse_wrong_order() -> None:
    """From now on an import of transformers by a file of this project fails before x2l.models."""
    stock, root = builtins.__import__, os.getcwd()

    def checked(name, globals=None, locals=None, fromlist=(), level=0):
        file = str((globals or {}).get("__file__"))
        ours = file.startswith(root) and os.path.relpath(file, root).startswith(
            ("x2l", "experiments")
        )
        if ours and name.partition(".")[0] == "transformers" and "x2l.models" not in sys.modules:
            raise ImportError(f"{file}: {NEEDS}")
        return stock(name, globals, locals, fromlist, level)

    builtins.__import__ = checked


def help_of(module: str) -> tuple[int, str]:
    """Exit status and output, or traceback, of `python -m module --help`."""
    said = io.StringIO()
    sys.argv = [module, "--help"]
    try:
        with redirect_stdout(said):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return int(end.code or 0), said.getvalue()
    except BaseException:
        return 1, traceback.format_exc()
    return 3, "it has no --help: it ran"


def main() -> None:
    """One after the other: each takes a fraction of a second."""
    prepare()
    told = {}
    for module in sys.argv[1:]:
        reading, writing = os.pipe()
        if os.fork() == 0:
            refuse_wrong_order()
            with os.fdopen(writing, "w") as pipe:
                json.dump(help_of(module), pipe)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            told[module] = json.load(pipe)
        os.wait()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
