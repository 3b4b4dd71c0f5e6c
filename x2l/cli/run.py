"""`x2l`: the Hydra application. One job from its configuration to its results; `compose.py` makes its objects."""

import logging
import os
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from x2l import UserError, __version__
from x2l.cli.compose import (
    build,
    build_benchmark,
    build_methods,
    load_model,
    one_line,
    one_store,
    own_folder,
    own_launchers,
    plain,
    refuse_idle,
)
from x2l.cli.folders import CONF
from x2l.cli.launchers import requeue_ends_the_process
from x2l.cli.output import command, fail, show, system_error
from x2l.engine.disk_cache.source_hash import users_digest
from x2l.evaluation.from_config import own_modules, settings_of
from x2l.evaluation.settings import ConfigError, config_errors
from x2l.runs.job_status import LOCK, STATUS, StatusFile, alone, read_status
from x2l.runs.pasted import setting, word
from x2l.runs.run_info import (
    RUN,
    check_folder,
    checkpoint_digest,
    describe,
    identity,
    processor_name,
)
from x2l.runs.trackers.base import place_id

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _task(config: DictConfig) -> None:
    """One job; however it ends is in its status.json and, where it failed, in its log.

    A single run ends the process with 2 (wrong value), 1 (unreadable videos, out of memory) or 130
    (interrupted). In a multirun nothing is raised, so that the other jobs still run, whatever the
    launcher and its batches; `hydra_callbacks.SweepJournal` ends that one.
    """
    single = HydraConfig.get().mode == RunMode.RUN
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        code = 1 if _watched(config, folder) else 0
    except UserError as error:
        if not (single and _removed_if_empty(folder)):
            _log_to_file(str(error))
        code = _say(f"error: {error}", 2)
    except KeyboardInterrupt:
        kind = "run" if single else "sweep"
        where = setting(f"hydra.{kind}.dir", folder if single else folder.parent)
        sys.exit(_say(f"interrupted; the same command with {where} goes on where it stopped", 130))
    except Exception as error:
        traceback.clear_frames(error.__traceback__)  # they hold the video's KVs
        line = system_error(error) if isinstance(error, OSError) else None
        if line is not None:
            _log_to_file(line)
            code = _say(f"error: {line}", 2)
        elif single:
            _log_to_file(traceback.format_exc())
            raise
        else:
            log.exception("the job failed")
            code = 1
    if single and code:
        sys.exit(code)


_UNKNOWN = "unknown"  # the run_id of a job whose configuration cannot be resolved


def _watched(config: DictConfig, folder: Path) -> int:
    """`execute`, with a status that tells of it from the first moment on."""
    words = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(words, list)
    overrides = [str(word) for word in words]
    try:
        values = plain(config)
    except (OmegaConfBaseException, ConfigError) as error:
        wrong = error if isinstance(error, ConfigError) else ConfigError(one_line(error))
        before = read_status(folder)
        # Without values nobody knows whose run it is: what is there may be another's, even one that goes on.
        if (folder / RUN).exists() or (before is not None and before.get("run_id") != _UNKNOWN):
            raise wrong from error
        with StatusFile(folder, _UNKNOWN, overrides).kept():
            raise wrong from error
    run_id = identity(values)
    with config_errors():
        check_folder(folder, run_id, values)  # the status of another run is not ours to replace
    with alone(folder):
        status = StatusFile(folder, run_id, overrides)
        with status.kept(), requeue_ends_the_process():
            return execute(config, folder, status)


def execute(config: DictConfig, folder: Path, status: StatusFile) -> int:
    """Checks the configuration, runs it in `folder`, prints the results.

    Returns:
        The number of videos that could not be used, and of answers that ran out of memory.

    Raises:
        ConfigError: a value that cannot work.
    """
    OmegaConf.resolve(config)
    OmegaConf.set_readonly(config, True)
    values = plain(config)
    hydra_config = HydraConfig.get()
    refuse_idle(hydra_config.overrides.task)
    sweep = Path(hydra_config.sweep.dir)
    multirun = hydra_config.mode == RunMode.MULTIRUN
    # A plain call: `instantiate` would build what the configuration names inside `config`, too.
    make_tracker = build(config.tracker, "tracker")
    with config_errors():
        seconds = config.benchmark.get("seconds")
        settings = settings_of(values, hydra_config.runtime.choices, seconds)
        checkpoint = checkpoint_digest(settings.model)
        check_folder(folder, settings.run_id, values, checkpoint)
        tracker = make_tracker(
            folder=folder,
            run_id=f"{settings.run_id}-{place_id(folder)}",
            name=folder.name if multirun else _name(hydra_config.overrides.task),
            group=sweep.name if multirun else "runs",
            config=values,
        )
    benchmark = build_benchmark(config)
    # transformers, which takes seconds to import, waits until all this is known to be right.
    from x2l.evaluation.runner import run

    levels, selectors = build_methods(config, values, settings)
    info = describe(
        settings.run_id,
        values,
        settings.device or f"device_map={config.model.get('device_map')}",
        *_machine(settings.device),
        checkpoint,
        _methods_digest(values),
        _original(config.model),
        list(hydra_config.overrides.task),
    )
    summary = run(
        settings,
        benchmark,
        lambda: load_model(config.model, selectors),
        levels,
        selectors,
        folder,
        info,
        tracker,
        status,
    )
    _report(summary, folder)
    if multirun:
        show(f"the sweep so far: x2l-collect {word(os.path.relpath(sweep))}")
    return len(summary.errors) + len(summary.out_of_memory)


def _name(overrides: Sequence[str]) -> str:
    """Of a single run: what was asked for that is not the default."""
    elsewhere = ("tracker", "paths", "hydra", "benchmark.root")
    return " ".join(word for word in overrides if not word.startswith(elsewhere)) or "defaults"


def _original(model: DictConfig) -> Mapping[str, Any] | None:
    """The options of a model in its authors' layout, as it will run; defaults are the checkpoint's."""
    if "original" not in model:
        return None
    from x2l.models.checkpoint import locate, read_config

    with config_errors():
        source = locate(model.name_or_path, model.get("revision"), False)
        return read_config(source, model.original).original


def _methods_digest(values: Mapping[str, Any]) -> str:
    """Of the source of methods outside x2l, so that a run that goes on with edited ones says so."""
    named = own_modules({name: values.get(name) for name in ("levels", "selector", "benchmark")})
    # A `_target_` may name a method of a class: only modules that were imported have a source.
    modules = sorted(name for name in named if name in sys.modules)
    try:
        return users_digest(modules) if modules else ""
    except ValueError:  # without a source file there is nothing that could be edited between runs
        return ""


def _machine(device: str | None) -> tuple[str, int]:
    """Name of the GPU (or GPUs) or processor that computes, and threads on the CPU."""
    import torch

    name = processor_name()
    if torch.cuda.is_available() and device is None:
        name = " + ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    elif torch.cuda.is_available() and str(device).startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    return name, torch.get_num_threads()


def _report(summary: Any, folder: Path) -> None:
    from x2l.analysis.points import points
    from x2l.analysis.points_table import table
    from x2l.analysis.scoring import nothing_parsed
    from x2l.runs.out_of_memory_log import summary_lines

    if summary.records or summary.out_of_memory:
        show(table(points(summary.records, out_of_memory=summary.out_of_memory)))
    show(
        f"\n{len(summary.records)} of {summary.expected} answers, {summary.added} of them new, in "
        f"{os.path.relpath(folder)}/ (records.jsonl, points.csv, run.json, status.json)"
    )
    for error in [*summary.errors, *summary_lines(summary.out_of_memory)]:
        print(f"error: {error}", file=sys.stderr)
    if warning := nothing_parsed(summary.records):
        print(f"warning: {warning}", file=sys.stderr)


def _log_to_file(message: str) -> None:
    """Into the job's own log, not to the terminal."""
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _removed_if_empty(folder: Path) -> bool:
    """Removes the folder of a single run that was refused before it began, and says whether it did.

    Only where nothing is there but what this process wrote before the values were known to be wrong. A job of a sweep
    keeps its folder: `x2l-status` reads there why it failed.
    """
    logs = [h for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler)]
    ours = {".hydra", STATUS, LOCK, RUN, *(Path(log.baseFilename).name for log in logs)}
    status = read_status(folder)
    of_another = status.get("pid") != os.getpid() if status else (folder / RUN).exists()
    if of_another:
        return False
    if not {path.name for path in folder.iterdir()} <= ours:
        return False
    for handler in logs:
        logging.getLogger().removeHandler(handler)
        handler.close()
    shutil.rmtree(folder)
    return True


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def _names_config_dir(words: Sequence[str]) -> bool:
    return any(word.split("=")[0] in ("--config-dir", "-cd") for word in words)


def main() -> None:
    """The console script; exit status 2 for what the user can correct."""
    os.environ.setdefault(
        "HYDRA_FULL_ERROR", "1"
    )  # Hydra's errors come here, none is printed by it
    with command():
        if "--version" in sys.argv[1:]:
            show(f"x2l {__version__}")
            return
        if (folder := own_folder()) is not None and not _names_config_dir(sys.argv[1:]):
            sys.argv[1:1] = ["--config-dir", str(folder)]
        try:
            with one_store(), own_launchers():
                _task()
        except InstantiationException:
            raise
        except (HydraException, OmegaConfBaseException) as error:
            fail(one_line(error, sys.argv[1:]))


if __name__ == "__main__":
    main()
