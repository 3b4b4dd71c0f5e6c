"""Plain values of a configuration -> checked settings, and the name of a run's folder. Knows nothing of Hydra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from x2l.evaluation.settings import (
    ConfigError,
    Settings,
    check_checkpoint,
    check_temporal_patch,
    temporal_patch,
)
from x2l.runs.run_info import identity

ASSETS = Path(__file__).parents[1] / "models"
_ENDS = ("low", "high")


def filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with every level whole.

    A level between `low` and `high` may be just its ratio (`+levels.mid=8`); what it does not say of its compressor
    and codec is what `compressor=` and `codec=` say for all. One that is null is none, so that a sweep can have both.

    Raises:
        ConfigError: `low` or `high` is no more than a number, or missing.
    """
    for name in _ENDS:
        if not isinstance(own := values["levels"].get(name), dict):
            raise ConfigError(
                f"levels.{name}={own}: must have a ratio and a compressor; write levels.{name}.ratio={own}"
            )
    shared = {"ratio": None, "compressor": values["compressor"], "codec": values["codec"]}
    levels = {}
    for name, level in values["levels"].items():
        if name in _ENDS:
            levels[name] = level
        elif level is not None:
            own = level if isinstance(level, dict) else {"ratio": level}
            whole = {**shared, "layers": None}
            if unknown := sorted(own.keys() - whole.keys()):
                raise ConfigError(
                    f"levels.{name}.{unknown[0]}: is no setting of a level; there are {', '.join(whole)}"
                )
            levels[name] = {**whole, **own}
    return {**values, "levels": levels}


def folder_name(values: Mapping[str, Any], choices: Mapping[str, Any]) -> str:
    """Name of a run's folder in a sweep: what it compresses how, and a hash of all it computes.

    Args:
        values: `filled`.
        choices: the yaml files that groups came from.
    """
    levels = values["levels"]
    name = _methods_name(levels, choices)
    ratios = "-".join(f"{levels[level]['ratio']}x" for level in _ranked(levels))
    if values["control"]["fewer_frames"]:
        name = f"fewer_frames-{name}"
    if shard := values["benchmark"].get("shard"):  # the shards of one run lie side by side
        name = f"shard{str(shard).replace('/', 'of')}-{name}"
    return f"{name}-{ratios}-{identity(values)[:8]}"


def own_modules(values: Any) -> set[str]:
    """Modules outside x2l that a configuration takes its objects from: where a user's own methods are."""
    if isinstance(values, Mapping):
        module = str(values.get("_target_", "")).rpartition(".")[0]
        inner = set[str]().union(*map(own_modules, values.values()))
        return inner | ({module} if module and module.partition(".")[0] != "x2l" else set())
    return set[str]().union(*map(own_modules, values)) if isinstance(values, list) else set()


def settings_of(
    values: Mapping[str, Any], choices: Mapping[str, Any], seconds: float | None
) -> Settings:
    """Checked settings.

    Args:
        values: `filled`.
        choices: the yaml files that groups came from.
        seconds: every video's length, where it is known.

    Raises:
        ValueError: a value that cannot work.
    """
    _check_mounted(values, choices)
    levels, model, video = values["levels"], values["model"], values["video"]
    prefill, selection = values["prefill"], values["selection"]
    settings = Settings(
        run_id=identity(values),
        model=str(model["name_or_path"]),
        dtype=model["dtype"],
        frames=video["frames"],
        fps=video["fps"],
        reader=video["reader"],
        chunk_frames=prefill["chunk_frames"],
        context=prefill["context"],
        positions=prefill["positions"],
        ratio_low=levels["low"]["ratio"],
        ratio_high=levels["high"]["ratio"],
        compressor=_methods_name(levels, choices),
        selectors=tuple(values.get("selector") or ()),  # selector=[] leaves no such key
        between={level: levels[level]["ratio"] for level in _ranked(levels)[1:-1]},
        top_k=_top_ks(values["top_k"], len(levels)),
        pinned=_tuple(selection["pinned"]),
        max_new_tokens=values["max_new_tokens"],
        limit=values["limit"],
        seed=values["seed"],
        model_positions=model["positions"],
        device=model["device"],
        seconds=seconds,
        benchmark=str(choices.get("benchmark", "benchmark")),
        split=values["benchmark"].get("split"),
        top_k_by_task=selection["top_k_by_task"] or {},
        tuned_on=selection["tuned_on"],
        fewer_frames=values["control"]["fewer_frames"],
        prefill_cache=prefill.get("cache"),
        prefill_cache_gb=prefill.get("cache_gb", Settings.prefill_cache_gb),
    )
    name = settings.model
    check_checkpoint(name)
    if (patch := temporal_patch(ASSETS / name if name == "x2l_tiny" else Path(name))) is not None:
        check_temporal_patch(settings.chunk_frames, patch)
    return settings


def _check_mounted(values: Mapping[str, Any], choices: Mapping[str, Any]) -> None:
    """`++levels.mid=8` drops the compressor that was chosen for the level: its name would be told, another would run.

    Raises:
        ConfigError: so it is.
    """
    for name in _ranked(values["levels"])[1:-1]:
        for group in ("compressor", "codec"):
            chosen = choices.get(f"{group}@levels.{name}.{group}", choices.get(group))
            if chosen != choices.get(group) and values["levels"][name][group] == values[group]:
                raise ConfigError(
                    f"levels.{name}={values['levels'][name]['ratio']}: takes the place of the level's own {group} "
                    f"{chosen}; write +levels.{name}.ratio={values['levels'][name]['ratio']}"
                )


def _ranked(levels: Mapping[str, Any]) -> list[str]:
    """Names of the levels: low, those between as they are written, high."""
    return ["low", *(name for name in levels if name not in _ENDS), "high"]


def _methods_name(levels: Mapping[str, Any], choices: Mapping[str, Any]) -> str:
    """`tome`, or `tome+mean_pool` where levels differ."""
    names = [_level_name(choices, level, levels[level]) for level in _ranked(levels)]
    return "+".join(names if len(set(names)) > 1 else names[:1])


def _level_name(choices: Mapping[str, Any], level: str, values: Mapping[str, Any]) -> str:
    """The yaml files of a level's compressor, the methods inside it and its codec; and how layers share its budget."""
    own = f"compressor@levels.{level}.compressor"
    group = own if own in choices else "compressor"
    inner = [str(choices[key]) for key in sorted(choices) if str(key).startswith(f"{group}.")]
    compressor = ".".join([str(choices.get(group, "compressor")), *inner])
    codec = choices.get(f"codec@levels.{level}.codec", choices.get("codec"))
    layers = values.get("layers")
    more = [part for part in (codec, layers) if part not in (None, "none", "uniform")]
    return "-".join([compressor, *(part if isinstance(part, str) else "layers" for part in more)])


def _top_ks(value: Any, levels: int) -> tuple[Any, ...]:
    """Every top_k of the inner grid.

    Where there are more than two levels a list of numbers is one ladder, [2, 4] the same as 2+4, and a list in the list
    one of several; with two levels a list of numbers is several numbers of chunks.
    """

    def ladder(numbers: Any) -> Any:
        return "+".join(map(str, numbers)) if isinstance(numbers, list) else numbers

    if levels > 2 and isinstance(value, list) and all(type(number) is int for number in value):
        return (ladder(value),)
    return tuple(ladder(one) for one in _tuple(value))


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)
