"""`x2l`: a Hydra configuration -> checked settings and objects -> the runner.

The only module that imports hydra or omegaconf, beside `hydra_sweep.py`.
"""

import gc
import hashlib
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from x2l.benchmarks.base import Benchmark
from x2l.cli.launchers import requeue_ends_the_process
from x2l.cli.output import show
from x2l.engine.disk_cache.source_hash import users_digest
from x2l.evaluation.from_config import filled, folder_name, own_modules, settings_of
from x2l.evaluation.settings import (
    ConfigError,
    Settings,
    config_errors,
)
from x2l.runs.job_status import StatusFile, alone, read_status
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
PACKAGE = Path(__file__).parents[1]
# Top level in a checkout, inside the package in a wheel. Absolute: a relative path would not be
# found from a console script.
CONF = next(path for path in (PACKAGE.parent / "conf", PACKAGE / "conf") if path.is_dir())


def run_folder(*, _root_: DictConfig) -> str:
    """Name of a run's folder in a sweep: what it compresses how, and a hash of all it computes."""
    raw = OmegaConf.to_container(_root_, resolve=False)
    assert isinstance(raw, dict)
    choices = raw.pop("hydra", {}).get("runtime", {}).get("choices", {})
    try:
        return folder_name(plain(OmegaConf.create(raw)), choices)
    except (OmegaConfBaseException, AttributeError, KeyError, TypeError, ValueError) as error:
        # Raised here, it would end the whole sweep; the job itself will meet it, and say so in this folder.
        log.debug("no name: %s", error)
        return f"unusable-{hashlib.sha256(repr(raw).encode()).hexdigest()[:8]}"


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as resolved plain values, further levels filled in.

    Raises:
        ConfigError: see `configured.filled`.
    """
    found = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(found, dict)
    return filled({str(key): value for key, value in found.items()})


OmegaConf.register_new_resolver("x2l.folder", run_folder, replace=True)


def _own_launchers() -> None:
    """Lets the files in conf/hydra/launcher/ stand for the plugins' own of the same names.

    Hydra 1.3 would check ours against theirs, with a warning, and refuse what theirs do not have.
    """
    Plugins.instance()  # loads what is installed; each plugin stores its configuration then
    stored = ConfigStore.instance().repo["hydra"]["launcher"]
    for path in (CONF / "hydra" / "launcher").glob("*.yaml"):
        stored.pop(path.name, None)


_own_launchers()


def composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration that `x2l` would run with these overrides; runs nothing.

    Args:
        overrides: as on the command line, e.g. `model=qwen2_5_vl_3b`, `video.frames=64`.

    Raises:
        ConfigError: an override that names nothing there is, or cannot be read.
    """
    return _composed(overrides)[0]


def _composed(overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """The configuration, and the yaml file that each of its groups came from."""
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_in_short(error)) from error
    choices = dict(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return config, choices


def _in_short(error: Exception) -> str:
    """What Hydra says of an override, in one line."""
    text = re.sub(r"^In '.*?': ", "", str(error))
    text = re.split(r"\nConfig search path|\nSee https|\n    full_key", text)[0]
    told = " ".join(text.split())
    return "overrides: " + re.sub(r"\.? (Available options|To append)", r"; \1", told)


def build_benchmark(config: DictConfig) -> Benchmark:
    """The benchmark that a configuration names.

    Raises:
        ConfigError: a value that cannot work, or the files of a set are not there.
    """
    built = _build(config.benchmark)
    assert isinstance(built, Benchmark)
    return built


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _task(config: DictConfig) -> None:
    """One job; however it ends is in its status.json and, where it failed, in its log.

    A single run ends the process with 2 (wrong value), 1 (unreadable videos, out of memory) or 130
    (interrupted). In a multirun nothing is raised, so that the other jobs still run, whatever the
    launcher and its batches; `hydra_sweep.SweepJournal` ends that one.
    """
    single = HydraConfig.get().mode == RunMode.RUN
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        code = 1 if _watched(config, folder) else 0
    except ConfigError as error:
        _log_to_file(str(error))
        code = _say(f"error: {error}", 2)
    except KeyboardInterrupt:
        where = f"hydra.{'run' if single else 'sweep'}.dir={folder if single else folder.parent}"
        told = f"interrupted; the same command with {where} goes on where it stopped"
        sys.exit(_say(told, 130))
    except Exception as error:
        if single:
            _log_to_file(traceback.format_exc())  # Hydra tells the terminal
            raise
        log.exception("the job failed")
        traceback.clear_frames(error.__traceback__)  # they hold the video's KVs
        code = 1
    if single and code:
        sys.exit(code)


_UNKNOWN = "unknown"  # the run_id of a job whose configuration cannot be resolved


def _watched(config: DictConfig, folder: Path) -> int:
    """`execute`, with a status that tells of it from the first moment on."""
    typed = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(typed, list)
    overrides = [str(override) for override in typed]
    try:
        values = plain(config)
    except OmegaConfBaseException as error:
        wrong = ConfigError(_in_short(error))
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
    _refuse_idle(hydra_config.overrides.task)
    sweep = Path(hydra_config.sweep.dir)
    multirun = hydra_config.mode == RunMode.MULTIRUN
    # A plain call: `instantiate` would build what the configuration names inside `config`, too.
    make_tracker = _build(config.tracker)
    with config_errors():
        seconds = config.benchmark.get("seconds")
        settings = settings_of(values, hydra_config.runtime.choices, seconds)
        checkpoint = checkpoint_digest(settings.model)
        check_folder(folder, settings.run_id, values, checkpoint)
        tracker = make_tracker(
            folder=folder,
            run_id=f"{settings.run_id}-{place_id(folder)}",
            name=folder.name,
            group=sweep.name if multirun else "runs",
            config=values,
        )
    benchmark = build_benchmark(config)
    # transformers, which takes seconds to import, waits until all this is known to be right.
    from x2l.evaluation.runner import run

    levels, selectors = _methods(config, values, settings)
    info = describe(
        settings.run_id,
        values,
        settings.device or f"device_map={config.model.get('device_map')}",
        *_machine(settings.device),
        checkpoint,
        _methods_digest(values),
    )
    summary = run(
        settings,
        benchmark,
        lambda: _load_model(config.model),
        levels,
        selectors,
        folder,
        info,
        tracker,
        status,
    )
    _report(summary, folder)
    if multirun:
        show(f"the sweep so far: x2l-collect {os.path.relpath(sweep)}")
    return len(summary.errors) + len(summary.shortages)


@dataclass(frozen=True)
class Engine:
    """What a configuration names besides a benchmark and a place for results, checked and built.

    Attributes:
        settings: checked values.
        levels: `low` and `high`, each a `compressors.base.Level`.
        selectors: by name.
        load_model: takes the time; call it once.
    """

    settings: Settings
    levels: Mapping[str, Any]
    selectors: Mapping[str, Any]
    load_model: Callable[[], Any]


def engine(overrides: Sequence[str]) -> Engine:
    """The engine that `x2l` would use with these overrides, for a command that is no Hydra application.

    Args:
        overrides: as on the command line of `x2l`, e.g. `model=qwen2_5_vl_3b`, `top_k=4`.

    Raises:
        ConfigError: an override that is not known, or a value that cannot work.
    """
    _refuse_idle(overrides)
    config, choices = _composed(overrides)
    try:
        OmegaConf.resolve(config)
        values = plain(config)
    except OmegaConfBaseException as error:
        raise ConfigError(_in_short(error)) from error
    OmegaConf.set_readonly(config, True)
    with config_errors():
        settings = settings_of(values, choices, None)
    levels, selectors = _methods(config, values, settings)
    return Engine(settings, levels, selectors, lambda: _load_model(config.model))


def _refuse_idle(overrides: Sequence[str]) -> None:
    """`compressor=` names the file that both levels take; its values are read there, not here.

    Raises:
        ConfigError: an override of a value that nothing would read.
    """
    for override in overrides:
        name = override.lstrip("+~")
        if name.startswith("compressor."):
            value = name.removeprefix("compressor.")
            raise ConfigError(
                f"{override}: changes neither level; use levels.low.compressor.{value} and "
                f"levels.high.compressor.{value}"
            )


def _methods(
    config: DictConfig, values: Mapping[str, Any], settings: Settings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Levels and selectors by name."""
    levels = {}
    for name in settings.levels:  # finest first
        try:
            levels[name] = _level(OmegaConf.create(values["levels"][name]))
        except ConfigError as error:
            raise ConfigError(str(error).replace("levels.*.", f"levels.{name}.")) from error
    # The control of fewer frames selects nothing, so none is loaded for it.
    chosen = {} if settings.fewer_frames else config.selector
    return levels, {str(name): _build(node) for name, node in chosen.items()}


def _methods_digest(values: Mapping[str, Any]) -> str:
    """Of the source of methods outside x2l, so that a run that goes on with edited ones says so."""
    named = own_modules({name: values.get(name) for name in ("levels", "selector", "benchmark")})
    # A `_target_` may name a method of a class: only modules that were imported have a source.
    modules = sorted(name for name in named if name in sys.modules)
    try:
        return users_digest(modules) if modules else ""
    except ValueError:  # without a source file there is nothing that could be edited between runs
        return ""


def _level(level: DictConfig) -> Any:
    from x2l.compressors.base import Level

    codec = _build(level.codec) if level.get("codec") else None
    layers = tuple(level.layers) if isinstance(level.layers, ListConfig) else level.layers
    with config_errors():
        return Level(_build(level.compressor), level.ratio, codec, layers)


def _build(node: DictConfig) -> Any:
    """One object from its `_target_`; what its constructor rejects is the user's to correct."""
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError | OSError):
            raise ConfigError(str(error.__cause__)) from error
        raise


_model: dict[str, Any] = {}  # that of the last job in this process, by what it was loaded from


def _load_model(node: DictConfig) -> Any:
    """The model; that of the job before if it is the same. Never are two in memory."""
    checkpoint = checkpoint_digest(str(node.name_or_path))  # a folder may hold other weights by now
    key = json.dumps([OmegaConf.to_container(node, resolve=True), checkpoint], sort_keys=True)
    if key in _model:
        return _model[key]
    if _model:
        _model.clear()
        gc.collect()  # modules refer to each other
        _free_gpu_memory()
    if not sys.stderr.isatty():  # a bar in a log file is noise
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
    _model[key] = _build(node)
    return _model[key]


def _free_gpu_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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
    from x2l.analysis.curves import table
    from x2l.analysis.points import points
    from x2l.runs.out_of_memory_log import in_short

    if summary.records or summary.shortages:
        show(table(points(summary.records, shortages=summary.shortages)))
    show(
        f"\n{len(summary.records)} of {summary.expected} answers, {summary.added} of them new, in "
        f"{os.path.relpath(folder)}/ (records.jsonl, points.csv, run.json, status.json)"
    )
    for error in [*summary.errors, *in_short(summary.shortages)]:
        print(f"error: {error}", file=sys.stderr)


def _log_to_file(message: str) -> None:
    """Into the job's own log, not to the terminal."""
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def main() -> None:
    """The console script."""
    _task()


if __name__ == "__main__":
    main()
