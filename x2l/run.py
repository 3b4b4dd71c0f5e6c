"""`x2l`: a Hydra configuration -> checked settings and objects -> the runner.

The only module that imports hydra or omegaconf.
"""

import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

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
    names = [_level_name(choices, level) for level in ("low", "high")]
    name = "+".join(dict.fromkeys(names))
    return f"{name}-{levels['low']['ratio']}x-{levels['high']['ratio']}x-{identity(config)[:8]}"


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as resolved plain values."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


OmegaConf.register_new_resolver("x2l.folder", run_folder, replace=True)


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
    sweep = Path(hydra_config.sweep.dir)
    multirun = hydra_config.mode == RunMode.MULTIRUN
    # A plain call: `instantiate` would build what the configuration names inside `config`, too.
    make_tracker = _build(config.tracker)
    with config_errors():
        settings = _settings(config, values)
        checkpoint = checkpoint_digest(settings.model)
        check_folder(folder, settings.run_id, values, checkpoint)
        tracker = make_tracker(
            folder=folder,
            run_id=f"{settings.run_id}-{place_id(folder)}",
            name=folder.name,
            group=sweep.name if multirun else "runs",
            config=values,
        )
    benchmark = _build(config.benchmark)
    # transformers, which takes seconds to import, waits until all this is known to be right.
    from x2l.compressors.base import Level
    from x2l.runner import run

    levels = {
        name: Level(_build(level.compressor), level.ratio) for name, level in config.levels.items()
    }
    selectors = {str(name): _build(node) for name, node in config.selector.items()}
    info = describe(
        settings.run_id, values, settings.device, *_machine(settings.device), checkpoint
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


def _settings(config: DictConfig, values: dict[str, Any]) -> Settings:
    choices = HydraConfig.get().runtime.choices
    names = [_level_name(choices, level) for level in ("low", "high")]
    settings = Settings(
        run_id=identity(values),
        model=str(config.model.name_or_path),
        dtype=config.model.dtype,
        frames=config.video.frames,
        fps=config.video.fps,
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
        seconds=config.benchmark.get("seconds"),
    )
    name = settings.model
    check_checkpoint(name)
    folder = PACKAGE / "assets" / name if name == "x2l_tiny" else Path(name)
    if (patch := temporal_patch(folder)) is not None:
        check_temporal_patch(settings.chunk_frames, patch)
    return settings


def _level_name(choices: Any, level: str) -> str:
    """The yaml file that a level's compressor came from."""
    return str(choices.get(f"compressor@levels.{level}.compressor", "compressor"))


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


def _machine(device: str) -> tuple[str, int]:
    """Name of the GPU or processor that computes, and threads on the CPU."""
    import torch

    cuda = device.startswith("cuda") and torch.cuda.is_available()
    return torch.cuda.get_device_name(device) if cuda else processor_name(), torch.get_num_threads()


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
