"""Plain values of a configuration -> checked settings, and the name of a run's folder. Knows nothing of Hydra."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from x2l.evaluation.settings import (
    CONTROLS,
    ConfigError,
    Settings,
    check_checkpoint,
    check_temporal_patch,
    temporal_patch,
)
from x2l.evaluation.value_types import fits, rule, told
from x2l.runs.condition import LevelSpec, methods_label
from x2l.runs.run_info import identity

DROPPED = "none"  # the ratio of a level whose chunks are dropped
ASSETS = Path(__file__).parents[1] / "models"


def filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with every level whole, finest first.

    A level may be just its ratio (`+levels.mid=8`), `none` where its chunks are dropped; what it does not say of its
    compressor and codec is what `compressor=` and `codec=` say for all. One that is null is no level, so that a sweep
    can have both.

    Raises:
        ConfigError: a level has a setting that levels do not have, or no ratio.
    """
    defaults = {"ratio": None, "compressor": values["compressor"], "codec": values["codec"]}
    defaults["layers"] = None
    levels: dict[str, dict[str, Any]] = {}
    for name, level in values["levels"].items():
        if level is not None:
            settings = level if isinstance(level, dict) else {"ratio": level}
            if unknown := sorted(settings.keys() - defaults.keys()):
                raise ConfigError(
                    f"levels.{name}.{unknown[0]}: is no setting of a level; there are {', '.join(defaults)}"
                )
            levels[str(name)] = {**defaults, **settings}
            if levels[str(name)]["ratio"] is None:
                raise ConfigError(
                    f"levels.{name}.ratio=null: must be tokens in / tokens out, or none to drop its chunks; "
                    f"levels.{name}=null is no such level"
                )
    finest_first = sorted(levels.items(), key=lambda level: _order(level[1]["ratio"]))
    return {**values, "levels": dict(finest_first)}


def _order(ratio: Any) -> float:
    """What is no ratio is refused later."""
    return ratio if isinstance(ratio, int | float) else math.inf


# Settings that a run's folder is named by where they are not the default, and how.
_NAMED: Mapping[str, str] = {
    "video.frames": "{}frames",
    "video.fps": "{}fps",
    "prefill.chunk_frames": "chunk{}",
    "prefill.context": "{}context",
    "prefill.positions": "{}",
    "selection.pinned": "pinned{}",
    "selection.taking": "{}",
    "seed": "seed{}",
}


def folder_name(
    values: Mapping[str, Any], choices: Mapping[str, Any], defaults: Mapping[str, Any]
) -> str:
    """Name of a run's folder in a sweep: what it compresses how, what else is not the default, and a hash of it all.

    Args:
        values: `filled`.
        choices: the yaml files that groups came from.
        defaults: values as the yaml files have them, with the names of the default `model` and `benchmark`.
    """
    levels = _levels(values, choices)
    name = methods_label(levels)
    ratios = "-".join("dropped" if e.ratio is None else f"{e.ratio}x" for e in levels)
    if (control := values["control"]["holds_equal"]) is not None:
        name = f"{CONTROLS.get(control, control)}-{name}"
    if shard := values["benchmark"].get("shard"):  # the shards of one run lie side by side
        name = f"shard{str(shard).replace('/', 'of')}-{name}"
    others = [
        str(choices[group])
        for group in ("model", "benchmark")
        if group in choices and choices[group] != defaults[group]
    ]
    for setting, template in _NAMED.items():
        group, _, key = setting.rpartition(".")
        value, default = ((of[group] if group else of)[key] for of in (values, defaults))
        if value != default:
            words = "+".join(map(str, value)) if isinstance(value, list) else str(value)
            others.append(re.sub(r"[^\w.+-]", "_", template.format(words))[:40])
    return "-".join([name, ratios, *others, identity(values)[:8]])


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
    _check_types(values)
    _check_mounted(values, choices)
    model, video, prefill = values["model"], values["video"], values["prefill"]
    selection = values["selection"]
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
        levels=_levels(values, choices),
        control=None if (equal := values["control"]["holds_equal"]) is None else _control(equal),
        selectors=tuple(values.get("selector") or ()),  # selector=[] leaves no such key
        top_k=_tuple(values["top_k"]),
        pinned=_tuple(selection["pinned"]),
        taking=_tuple(selection["taking"]),
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
        prefill_cache=prefill.get("cache"),
        prefill_cache_gb=prefill.get("cache_gb", Settings.prefill_cache_gb),
        video_cache=video.get("cache"),
        video_cache_gb=video.get("cache_gb", Settings.video_cache_gb),
        batch=values["decode"]["batch"],
    )
    name = settings.model
    check_checkpoint(name)
    if (patch := temporal_patch(ASSETS / name if name == "x2l_tiny" else Path(name))) is not None:
        check_temporal_patch(settings.chunk_frames, patch)
    return settings


# Of settings that are read before anything else would say what is wrong with them.
_TYPES: Mapping[str, Any] = {
    "model.name_or_path": str,
    "model.device": str | None,
    "model.device_map": str | dict | None,
    "model.attn_implementation": str,
    "model.revision": str | None,
    "model.trust_remote_code": bool,
    "model.video_processor": dict | None,
    "model.original": dict | None,
    "prefill.context": str,
    "control.holds_equal": str | None,
    "selection.pinned": str | list[str],
    "selection.taking": str | list[str],
    "selection.top_k_by_task": dict | None,
    "selection.tuned_on": str | None,
    "top_k": int | str | list[int | str],
    "decode.batch": int | str,
    "seed": int,
    "paths.outputs": str,
    "paths.data": str,
}


def _check_types(values: Mapping[str, Any]) -> None:
    """Checks the plain settings; those of objects are checked against their signatures.

    Raises:
        ConfigError: one is of another type.
    """
    for name, hint in _TYPES.items():
        group, _, key = name.rpartition(".")
        value = (values[group] if group else values).get(key)
        if not fits(value, hint):
            raise ConfigError(f"{name}={told(value)}: must be {rule(hint)}")
    for name, level in values["levels"].items():
        if not fits(level["layers"], str | list[float] | None):
            raise ConfigError(
                f"levels.{name}.layers={told(level['layers'])}: must be null (evenly), pyramid, or a list of one share "
                "a layer"
            )


def _check_mounted(values: Mapping[str, Any], choices: Mapping[str, Any]) -> None:
    """No level may run another method than the one that was chosen for it.

    `++levels.mid=8` drops the compressor that was chosen for the level: its name would be told, another would run. And
    a control that changes the compressor of levels by name passes over those of other names.

    Raises:
        ConfigError: so it is.
    """
    control = choices.get("control", "none")
    for name, level in values["levels"].items():
        for group in ("compressor", "codec"):
            chosen = choices.get(f"{group}@levels.{name}.{group}", choices.get(group))
            if chosen != choices.get(group) and level[group] == values[group]:
                raise ConfigError(
                    f"levels.{name}={level['ratio']}: takes the place of the level's own {group} "
                    f"{chosen}; write levels.{name}.ratio={level['ratio']}"
                )
        mounted = f"compressor@levels.{name}.compressor" in choices
        if control not in ("none", *CONTROLS.values()) and not mounted:
            raise ConfigError(
                f"control={control}: changes the compressors of low and high, not that of levels.{name}; say it too, "
                f"+compressor@levels.{name}.compressor="
            )


def _levels(values: Mapping[str, Any], choices: Mapping[str, Any]) -> tuple[LevelSpec, ...]:
    """Finest first, methods by the yaml files that they came from."""
    return tuple(
        LevelSpec(
            name,
            None if level["ratio"] == DROPPED else level["ratio"],
            _compressor_name(choices, name),
            str(choices.get(f"codec@levels.{name}.codec", choices.get("codec", "none"))),
            _layers_name(level["layers"]),
        )
        for name, level in values["levels"].items()
    )


def _compressor_name(choices: Mapping[str, Any], level: str) -> str:
    """The yaml file of a level's compressor and those of the methods inside it."""
    key = f"compressor@levels.{level}.compressor"
    key, inside = (key, key) if key in choices else ("compressor", "compressor@compressor")
    inner = [str(choices[other]) for other in sorted(choices) if other.startswith(f"{inside}.")]
    return ".".join([str(choices.get(key, "compressor")), *inner])


def _layers_name(layers: Any) -> str:
    """How layers share a level's budget, in a word."""
    return "uniform" if layers is None else layers if isinstance(layers, str) else "layers"


def _control(equal: Any) -> str:
    if equal not in CONTROLS:
        raise ConfigError(
            f"control.holds_equal={equal}: must be one of {', '.join(CONTROLS)}, or null"
        )
    return CONTROLS[equal]


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)
