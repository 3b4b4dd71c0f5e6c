"""Overrides -> configuration -> checked settings and objects. With `run.py` and the callbacks all that knows Hydra."""

import gc
import hashlib
import json
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir, version
from hydra._internal.utils import _locate
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from packaging.version import Version

from x2l.benchmarks.base import Benchmark
from x2l.benchmarks.jsonl import file_digest
from x2l.cli.checked_values import (
    check_arguments,
    check_settings,
    default_values,
    known_settings,
    suggestion,
)
from x2l.cli.folders import CONF, CONFIG_DIR
from x2l.evaluation.from_config import DROPPED, filled, folder_name, settings_of
from x2l.evaluation.settings import ConfigError, Settings, config_errors
from x2l.runs.run_info import checkpoint_digest

log = logging.getLogger(__name__)


def run_folder(*, _root_: DictConfig) -> str:
    """Name of a run's folder in a sweep, see `from_config.folder_name`."""
    raw = OmegaConf.to_container(_root_, resolve=False)
    assert isinstance(raw, dict)
    choices = raw.pop("hydra", {}).get("runtime", {}).get("choices", {})
    try:
        return folder_name(plain(OmegaConf.create(raw)), choices, default_values(CONF))
    except (OmegaConfBaseException, AttributeError, KeyError, TypeError, ValueError) as error:
        # Raised here, it would end the whole sweep; the job itself will meet it, and say so in this folder.
        log.debug("no name: %s", error)
        return f"unusable-{hashlib.sha256(repr(raw).encode()).hexdigest()[:8]}"


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as resolved plain values, every level whole.

    Raises:
        ConfigError: a key that there is not, a value where there should be several, or see `from_config.filled`.
    """
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    named = {str(key): value for key, value in values.items()}
    check_settings(named, CONF)
    return filled(named)


OmegaConf.register_new_resolver("x2l.folder", run_folder, replace=True)
OmegaConf.register_new_resolver("x2l.digest", file_digest, replace=True)
OmegaConf.register_new_resolver(
    "x2l.stem", lambda file: file and Path(str(file)).stem, replace=True
)


@contextmanager
def one_store() -> Iterator[None]:
    """Inside, Hydra shares the store of all configurations, which it otherwise copies with its sources once a group."""
    before = ConfigStore.__dict__.get("__deepcopy__")
    ConfigStore.__deepcopy__ = lambda store, _: store  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if before is None:
            del ConfigStore.__deepcopy__  # type: ignore[attr-defined]
        else:
            ConfigStore.__deepcopy__ = before  # type: ignore[attr-defined]


@contextmanager
def own_launchers() -> Iterator[None]:
    """Inside, the files in conf/hydra/launcher/ stand for the plugins' own of the same names.

    Hydra 1.3 would check ours against theirs, with a warning, and refuse what theirs do not have. The user's own
    application has theirs back afterwards.
    """
    Plugins.instance()  # loads what is installed; each plugin stores its configuration then
    stored = ConfigStore.instance().repo["hydra"]["launcher"]
    names = {path.name for path in (CONF / "hydra" / "launcher").glob("*.yaml")} & stored.keys()
    theirs = {name: stored.pop(name) for name in names}
    try:
        yield
    finally:
        stored.update(theirs)


@contextmanager
def config_dir(folder: str | None) -> Iterator[None]:
    """Inside, Hydra looks into a folder of the user's own too; None = that of the environment, if it names one."""
    before = os.environ.get(CONFIG_DIR)
    os.environ.update({} if folder is None else {CONFIG_DIR: folder})
    try:
        yield
    finally:
        os.environ.pop(CONFIG_DIR, None)
        os.environ.update({} if before is None else {CONFIG_DIR: before})


def own_folder() -> Path | None:
    """The folder with the user's own yaml files.

    Raises:
        ConfigError: it is not there.
    """
    folder = os.environ.get(CONFIG_DIR)
    if not folder:
        return None
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        raise ConfigError(
            f"--config-dir (or {CONFIG_DIR}) {folder}: no such folder; give one that holds compressor/NAME.yaml, "
            "selector/NAME.yaml, ..."
        )
    return path


def searched() -> list[str]:
    """The override by which Hydra looks into that folder."""
    path = own_folder()
    escaped = "" if path is None else str(path).replace("\\", "\\\\").replace("'", "\\'")
    return [f"hydra.searchpath=['file://{escaped}']"] if path is not None else []


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
        with hydra_of_its_own():
            config = compose("config", [*searched(), *overrides], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(one_line(error, overrides)) from error
    choices = dict(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return config, choices


@contextmanager
def hydra_of_its_own() -> Iterator[None]:
    """Inside, Hydra with x2l's configuration; that of the user's own application comes back as it was."""
    theirs, base = GlobalHydra.instance(), version.getbase()
    hydra = theirs.hydra
    theirs.clear()
    try:
        with one_store(), own_launchers(), initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        GlobalHydra.set_instance(theirs)
        theirs.hydra = hydra
        if isinstance(base, Version):
            version.VersionBase.instance().setbase(base)


def one_line(error: Exception, overrides: Sequence[str] = ()) -> str:
    """What Hydra says of an override, in one line.

    Args:
        error: Hydra's.
        overrides: those that it read, of which it does not always name the one.
    """
    text = re.sub(r"^In '.*?': ", "", str(error))
    if "Config group override must be" in text:
        for word in overrides:
            group = word.partition("=")[0].lstrip("+").partition("@")[0]
            if (CONF / group).is_dir() and not re.search(r"=[\w/\[-]", word.replace("=null", "=")):
                files = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
                return f"{word}: must name a file of conf/{group}: {files}"
    if key := re.search(r"Could not override '([^']*)'", text):
        # Hydra advises a `+`, which makes a setting that nothing reads.
        group, _, rest = key[1].partition(".")
        name = rest.partition(".")[0]
        if group == "selector" and (CONF / group / f"{name}.yaml").is_file():
            return (
                f"{key[1]}: selector {name} is not chosen; add it: selector=[none,{name}], for one"
            )
        known = known_settings(CONF)
        return f"{key[1]}: there is no such setting; {suggestion(key[1], known)}"
    text = re.split(r"\nConfig search path|\nSee https|\n    full_key", text)[0]
    line = " ".join(text.split())
    return "overrides: " + re.sub(r"\.? (Available options|To append)", r"; \1", line)


def build_benchmark(config: DictConfig) -> Benchmark:
    """The benchmark that a configuration names.

    Raises:
        ConfigError: a value that cannot work, or the files of a set are not there.
    """
    built = build(config.benchmark, "benchmark")
    assert isinstance(built, Benchmark)
    return built


@dataclass(frozen=True)
class Engine:
    """What a configuration names besides a benchmark and a place for results, checked and built.

    Attributes:
        settings: checked values.
        levels: by name, finest first, each a `compressors.base.Level`.
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
    refuse_idle(overrides)
    config, choices = _composed(overrides)
    try:
        OmegaConf.resolve(config)
        values = plain(config)
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from error
    OmegaConf.set_readonly(config, True)
    with config_errors():
        settings = settings_of(values, choices, None)
    levels, selectors = build_methods(config, values, settings)
    return Engine(settings, levels, selectors, lambda: load_model(config.model, selectors))


def refuse_idle(overrides: Sequence[str]) -> None:
    """`compressor=` names the file that all levels take; its values are read there, not here.

    Raises:
        ConfigError: an override of a value that nothing would read.
    """
    for override in overrides:
        name = override.lstrip("+~")
        if name.startswith("compressor."):
            value = name.removeprefix("compressor.")
            raise ConfigError(
                f"{override}: changes no level; use levels.low.compressor.{value} and "
                f"levels.high.compressor.{value}"
            )


def build_methods(
    config: DictConfig, values: Mapping[str, Any], settings: Settings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Levels, finest first, and selectors, by name.

    Raises:
        ConfigError: a value that cannot work.
    """
    levels = {}
    for name in settings.level_names:
        try:
            levels[name] = build_level(OmegaConf.create(values["levels"][name]))
        except ConfigError as error:
            raise ConfigError(str(error).replace("levels.*.", f"levels.{name}.")) from error
    if not settings.fewer_frames:  # which compresses nothing, and has one context
        from x2l.engine.prefill import check_prefill

        with config_errors():
            check_prefill(levels, settings.context, settings.positions)
    # The control of fewer frames selects nothing, so none is loaded for it.
    chosen = {} if settings.fewer_frames else config.selector
    return levels, {str(name): _build_selector(str(name), node) for name, node in chosen.items()}


def _build_selector(name: str, node: DictConfig) -> Any:
    """A selector, whose errors call it by the name that it has in this run.

    Raises:
        ConfigError: a value that cannot work.
    """
    try:
        return build(node, f"selector.{name}")
    except ConfigError as error:
        named = re.sub(r"^selector\.\w+(?=[.=])", f"selector.{name}", str(error))
        raise ConfigError(named) from error


def build_level(level: DictConfig) -> Any:
    """One level.

    Raises:
        ConfigError: a value that cannot work; `levels.*.` stands for the level.
    """
    from x2l.compressors.base import Level

    codec = build(level.codec, "levels.*.codec") if level.get("codec") else None
    layers = tuple(level.layers) if isinstance(level.layers, ListConfig) else level.layers
    with config_errors():
        ratio = math.inf if level.ratio == DROPPED else level.ratio
        return Level(build(level.compressor, "levels.*.compressor"), ratio, codec, layers)


def build(node: DictConfig, at: str, **arguments: Any) -> Any:
    """One object from its `_target_`; what its constructor rejects is the user's to correct.

    Args:
        node: its settings.
        at: their name.
        **arguments: what no configuration can say.

    Raises:
        ConfigError: no such class, a setting that it does not take or of another type, or what it says itself.
    """
    _check_node(at, OmegaConf.to_container(node, resolve=True))
    try:
        return instantiate(node, _convert_="all", **arguments)
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError | OSError):
            raise ConfigError(str(error.__cause__)) from error
        raise


def _check_node(at: str, node: Any) -> None:
    """Checks an object and those that are given to it."""
    for key, inner in node.items():
        if isinstance(inner, dict) and "_target_" in inner:
            _check_node(f"{at}.{key}", inner)
    try:
        target = _locate(str(node["_target_"]))  # `get_object` would log lines of its own
    except (ImportError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{at}._target_={node['_target_']}: cannot be found ({' '.join(str(error).split())}); name a class by its "
            "module"
        ) from error
    check_arguments(at, node, target)


_model: dict[str, Any] = {}  # that of the last job in this process, by what it was loaded from


def load_model(node: DictConfig, selectors: Mapping[str, Any]) -> Any:
    """The model; that of the job before if it is the same. Never are two in memory.

    Raises:
        ConfigError: it cannot be loaded; or lacks heads or layers that a selector reads, said before weights are read.
    """
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

    def check_shape(shape: Any) -> None:
        for selector in selectors.values():
            selector.check_shape(shape)

    _model[key] = build(node, "model", check_shape=check_shape)
    return _model[key]


def _free_gpu_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
