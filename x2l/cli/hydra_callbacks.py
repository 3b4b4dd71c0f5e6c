"""What Hydra is told to call around a sweep (conf/config.yaml, `hydra.callbacks`).

A module of its own beside run.py: Hydra imports it by name, in the driver and in every worker, and
run.py would then be there twice under `python -m x2l.cli.run`.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from x2l.cli.compose import one_line, plain
from x2l.cli.launchers import check_launcher
from x2l.cli.output import fail
from x2l.evaluation.settings import ConfigError
from x2l.runs.job_status import announce
from x2l.runs.pasted import word
from x2l.runs.sweep_status import Job, jobs, unfinished


class LauncherCheck(Callback):
    """Says in one line that the engine of a sweep cannot work here, before anything is begun or written."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Ends the process with 2 if so; Hydra itself would show where it failed to find a class."""
        preset = str(config.hydra.runtime.choices["hydra/launcher"])
        try:
            check_launcher(preset, str(config.hydra.launcher["_target_"]))
        except ConfigError as error:
            fail(str(error))


class SweepJournal(Callback):
    """Says which jobs a sweep is for before any begins, and which are not done when all have ended.

    Works with every launcher: both are called in the driver alone, and jobs tell through files.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Writes down the jobs to come, once every value of every axis is known to be one.

        Hydra would refuse the whole sweep for one that is not, and what was written would be of jobs that never come.
        """
        if announced := sweep_jobs(config):
            _check_values(config, announced)
            announce(Path(config.hydra.sweep.dir), announced)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Ends the process with 1, and a line for each, if any of the sweep's jobs is not done."""
        sweep = Path(config.hydra.sweep.dir)
        mine = {tuple(sorted(job)) for job in sweep_jobs(config)}
        if lines := unfinished([job for job in jobs([sweep]) if not mine or _is_of(job, mine)]):
            print("\nnot done:\n  " + "\n  ".join(lines), file=sys.stderr)
            print(
                f"more: x2l-status {word(os.path.relpath(sweep))}; the same command again answers what is missing",
                file=sys.stderr,
            )
            sys.exit(1)


def _check_values(config: DictConfig, jobs: Sequence[Sequence[str]]) -> None:
    """Ends the process with 2 where a value names nothing that there is; as few jobs are composed as have them all."""
    loader, tried = GlobalHydra.instance().config_loader(), set[str]()
    for job in jobs:
        if tried.issuperset(job):
            continue
        try:
            composed = loader.load_sweep_config(config, list(job))
            if not tried:  # keys are the same in all
                with open_dict(composed):
                    del composed["hydra"]
                plain(composed)
        except ConfigError as error:
            fail(str(error))
        except HydraException as error:
            fail(one_line(error, job))
        except OmegaConfBaseException:
            pass  # the job's to say: others may have what this one lacks
        tried.update(job)


def sweep_jobs(config: DictConfig) -> Sequence[Sequence[str]]:
    """The overrides of each job that a multirun is for, as Hydra's basic sweeper makes them.

    Args:
        config: of the multirun; with another sweeper nobody knows beforehand, and the list is empty.
    """
    # Unresolved: an override with an interpolation is the job's to resolve.
    sweeper = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    typed = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(sweeper, dict) and isinstance(typed, list)
    if not str(sweeper["_target_"]).endswith(".BasicSweeper"):
        return []
    overrides = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    overrides += [str(override) for override in typed]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    (jobs_of_sweep,) = BasicSweeper.split_arguments(parser.parse_overrides(overrides), None)
    return jobs_of_sweep


def _is_of(job: Job, overrides: set[tuple[str, ...]]) -> bool:
    """Whether a job is one of those; the others in the folder are of other commands."""
    return any(tuple(sorted(request)) in overrides for request in job.values.get("overrides", ()))
