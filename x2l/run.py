"""`x2l`: a Hydra configuration -> checked settings and objects -> the runner.

The only module that imports hydra or omegaconf.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from x2l.benchmarks.base import Benchmark
from x2l.runinfo import (
    STATUS,
    StatusFile,
    check_folder,
    checkpoint_digest,
    describe,
    identity,
    processor_name,
)
from x2l.settings import (
    ConfigError,
    Settings,
    check_checkpoint,
    check_temporal_patch,
    config_errors,
    temporal_patch,
)
from x2l.tracking import place_id

PACKAGE = Path(__file__).parent
# Top level in a checkout, inside the package in a wheel. Absolute: a relative path would not be
# found from a console script.
CONF = next(path for path in (PACKAGE.parent / "conf", PACKAGE / "conf") if path.is_dir())


def run_folder(*, _root_: DictConfig) -> str:
    """Name of a run's folder in a sweep: what it compresses how, and a hash of all it computes."""
    raw = OmegaConf.to_container(_root_, resolve=False)
    assert isinstance(raw, dict)
    choices = raw.pop("hydra", {}).get("runtime", {}).get("choices", {})
    config = plain(OmegaConf.create(raw))
    levels = config["levels"]
    names = [_level_name(choices, level, levels[level]) for level in ("low", "high")]
    name = "+".join(dict.fromkeys(names))
    if config["control"]["fewer_frames"]:
        name = f"fewer_frames-{name}"
    if shard := config["benchmark"].get("shard"):  # the shards of one run lie side by side
        name = f"shard{str(shard).replace('/', 'of')}-{name}"
    return f"{name}-{levels['low']['ratio']}x-{levels['high']['ratio']}x-{identity(config)[:8]}"


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as resolved plain values."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


OmegaConf.register_new_resolver("x2l.folder", run_folder, replace=True)


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
    """One run. Ends the process with 2 (wrong value), 1 (unreadable videos) or 130 (interrupted).

    In a multirun exceptions are raised instead, so that the other runs still run.
    """
    single = HydraConfig.get().mode == RunMode.RUN
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        errors = execute(config, folder)
    except ConfigError as error:
        if not (folder / STATUS).exists():  # one that is there tells of the runs before
            StatusFile(folder, identity(plain(config))).write("failed", error=str(error))
        code = _say(f"error: {error}", 2)
        if not single:
            raise
        sys.exit(code)
    except KeyboardInterrupt:
        where = f"hydra.{'run' if single else 'sweep'}.dir={folder if single else folder.parent}"
        told = f"interrupted; the same command with {where} goes on where it stopped"
        sys.exit(_say(told, 130))
    if errors and single:
        sys.exit(1)
    if errors:
        raise RuntimeError(f"{errors} videos could not be used; see {folder / 'errors.jsonl'}")


def execute(config: DictConfig, folder: Path) -> int:
    """Checks the configuration, runs it in `folder`, prints the results.

    Returns:
        The number of videos that could not be used.

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
        settings = _settings(config, values, hydra_config.runtime.choices, seconds)
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
    from x2l.runner import run

    levels, selectors = _methods(config, settings)
    info = describe(
        settings.run_id,
        values,
        settings.device or f"device_map={config.model.get('device_map')}",
        *_machine(settings.device),
        checkpoint,
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
    )
    _report(summary, folder)
    if multirun:
        print(f"the sweep so far: x2l-collect {os.path.relpath(sweep)}")
    return len(summary.errors)


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
        settings = _settings(config, values, choices, None)
    levels, selectors = _methods(config, settings)
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


def _methods(config: DictConfig, settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Levels and selectors by name."""
    levels = {str(name): _level(level) for name, level in config.levels.items()}
    # The control of fewer frames selects nothing, so none is loaded for it.
    chosen = {} if settings.fewer_frames else config.selector
    return levels, {str(name): _build(node) for name, node in chosen.items()}


def _level(level: DictConfig) -> Any:
    from x2l.compressors.base import Level

    codec = _build(level.codec) if level.get("codec") else None
    layers = tuple(level.layers) if isinstance(level.layers, ListConfig) else level.layers
    with config_errors():
        return Level(_build(level.compressor), level.ratio, codec, layers)


def _settings(
    config: DictConfig, values: dict[str, Any], choices: Any, seconds: float | None
) -> Settings:
    """Checked values; `choices` are the yaml files that groups came from, `seconds` every video's length if known."""
    names = [_level_name(choices, level, values["levels"][level]) for level in ("low", "high")]
    settings = Settings(
        run_id=identity(values),
        model=str(config.model.name_or_path),
        dtype=config.model.dtype,
        frames=config.video.frames,
        fps=config.video.fps,
        reader=config.video.reader,
        chunk_frames=config.prefill.chunk_frames,
        context=config.prefill.context,
        positions=config.prefill.positions,
        ratio_low=config.levels.low.ratio,
        ratio_high=config.levels.high.ratio,
        compressor="+".join(dict.fromkeys(names)),
        selectors=tuple(config.selector),
        top_k=_tuple(config.top_k),
        pinned=_tuple(config.selection.pinned),
        max_new_tokens=config.max_new_tokens,
        limit=config.limit,
        seed=config.seed,
        model_positions=config.model.positions,
        device=config.model.device,
        seconds=seconds,
        benchmark=str(choices.get("benchmark", "benchmark")),
        split=config.benchmark.get("split"),
        top_k_by_task=values["selection"]["top_k_by_task"] or {},
        tuned_on=config.selection.tuned_on,
        fewer_frames=config.control.fewer_frames,
    )
    name = settings.model
    check_checkpoint(name)
    folder = PACKAGE / "assets" / name if name == "x2l_tiny" else Path(name)
    if (patch := temporal_patch(folder)) is not None:
        check_temporal_patch(settings.chunk_frames, patch)
    return settings


def _level_name(choices: Any, level: str, values: Mapping[str, Any]) -> str:
    """The yaml files of a level's compressor, the methods inside it and its codec; and how layers share its budget."""
    group = f"compressor@levels.{level}.compressor"
    inner = [str(choices[key]) for key in sorted(choices) if str(key).startswith(f"{group}.")]
    compressor = ".".join([str(choices.get(group, "compressor")), *inner])
    codec, layers = choices.get(f"codec@levels.{level}.codec"), values.get("layers")
    more = [part for part in (codec, layers) if part not in (None, "none", "uniform")]
    return "-".join([compressor, *(part if isinstance(part, str) else "layers" for part in more)])


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, ListConfig) else (value,)


def _build(node: DictConfig) -> Any:
    """One object from its `_target_`; what its constructor rejects is the user's to correct."""
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError | OSError):
            raise ConfigError(str(error.__cause__)) from error
        raise


def _load_model(node: DictConfig) -> Any:
    if not sys.stderr.isatty():  # a bar in a log file is noise
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
    return _build(node)


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
    from x2l.curves import table
    from x2l.points import points

    if summary.records:
        print(table(points(summary.records)))
    print(
        f"\n{len(summary.records)} of {summary.expected} answers, {summary.added} of them new, in "
        f"{os.path.relpath(folder)}/ (records.jsonl, points.csv, run.json, status.json)"
    )
    for error in summary.errors:
        print(f"error: {error}", file=sys.stderr)


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def main() -> None:
    """The console script."""
    _task()


if __name__ == "__main__":
    main()
