"""Whether the engine that a sweep asks for can work here. Knows nothing of Hydra.

The presets in conf/hydra/launcher/ name classes of Hydra's plugins, which are optional extras of x2l.
"""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from x2l.evaluation.settings import ConfigError

# The module of a Hydra plugin -> the extra of x2l that brings it.
EXTRAS = {
    "hydra_joblib_launcher": "joblib",
    "hydra_submitit_launcher": "slurm",
    "hydra_ray_launcher": "ray",
}


def check_launcher(preset: str, target: str) -> None:
    """Nothing, if a sweep can be started with it.

    Args:
        preset: what `hydra/launcher=` was set to.
        target: the class that it names.

    Raises:
        ConfigError: its extra is not installed, or there is no SLURM here.
    """
    package, _, rest = target.partition(".")
    plugin = rest.partition(".")[0]
    if plugin in EXTRAS and not _importable(package, plugin):
        raise ConfigError(
            f"hydra/launcher={preset}: needs an optional package; pip install 'x2l[{EXTRAS[plugin]}]'"
        )
    if target.endswith(".SlurmLauncher") and shutil.which("srun") is None:
        raise ConfigError(
            f"hydra/launcher={preset}: finds no srun; start it where SLURM's commands are (a login node), "
            "or take submitit_local"
        )


def enter_folder() -> None:
    """Ray calls this in every worker: a cluster that was there before works where it was started, not the sweep."""
    os.chdir(os.environ["X2L_FOLDER"])


@contextmanager
def requeue_ends_the_process() -> Iterator[None]:
    """Inside, being queued again by SLURM ends the process; it is no error of the job.

    submitit calls `scontrol requeue` in a signal handler and then leaves. But SLURM ends the processes of the job at
    once, and with them that call if it has not yet returned: the handler then raises wherever the job happens to be.
    """
    try:
        yield
    except subprocess.CalledProcessError as error:
        if list(error.cmd[:2]) == ["scontrol", "requeue"] and error.returncode < 0:
            raise SystemExit(1) from error
        raise


def _importable(package: str, module: str) -> bool:
    return bool(
        importlib.util.find_spec(package) and importlib.util.find_spec(f"{package}.{module}")
    )
