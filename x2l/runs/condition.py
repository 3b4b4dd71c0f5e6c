"""What identifies one cell of the experiment, in one frozen value.

Records, the log of answers that ran out of memory, run.json, points, names, comparisons, metrics, figures and reports
take it from here, and find its fields by reflection: a field that is added to `Condition` tells cells apart and is
written, read, named and compared everywhere, without another line of code.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from x2l.selectors.roles import ROLES, Role

FULL = "full"


def _field(
    label: str | None, *, setting: bool = False, choice: bool = False, last_resort: bool = False
) -> Any:
    """A field of `Condition`.

    Args:
        label: how figures and tables say its value, `{}` standing for it; None: it follows from other fields, and never
            tells two conditions apart.
        setting: what is asked, of which model, about which frames. Only conditions of one setting may be compared, and
            full KVs depend on nothing else.
        choice: of how chunks are chosen; no matter where all chunks have one level.
        last_resort: named only where no other field tells two conditions apart.
    """
    metadata = {"setting": setting, "choice": choice, "last_resort": last_resort}
    return dataclasses.field(metadata={"label": label, **metadata})


@dataclass(frozen=True)
class LevelSpec:
    """One level, in words.

    Attributes:
        name: `low` and `high` of the paper, or the user's.
        ratio: tokens in / tokens out, >= 1; None: chunks at this level are dropped.
        compressor: the method's yaml, methods inside it joined by dots.
        codec: the yaml of the form in which its KVs are stored; `none` = as the model computes them.
        layers: how layers share its budget, in a word.
    """

    name: str
    ratio: float | None
    compressor: str
    codec: str = "none"
    layers: str = "uniform"

    @property
    def method(self) -> str:
        """Compressor, codec and layers in one word, e.g. `tome`, `key_diff-int4`, `snapkv-pyramid`."""
        extras = [f for f in dataclasses.fields(self) if f.default is not dataclasses.MISSING]
        words = [getattr(self, f.name) for f in extras if getattr(self, f.name) != f.default]
        return "-".join([self.compressor, *words])

    @property
    def ratio_label(self) -> str:
        """The ratio as figures and tables say it, e.g. `low 2x`."""
        return trait_label(f"ratio.{self.name}", math.inf if self.ratio is None else self.ratio)


@dataclass(frozen=True)
class Condition:
    """One cell: everything that is the same for all of its answers. Hashable; equal values are one cell.

    Attributes:
        frames: sampled at most, as configured; None = as many as `fps` gives.
        fps: frames a second, as configured; None = `frames` spread evenly over the video.
        levels: finest to coarsest.
        control: what stands in for the method, e.g. `equal_kv_bytes`; None = the method as configured.
        selector: name of its yaml.
        single_level: the level that every chunk has (all re-loaded, none re-loaded); None where chunks are chosen.
        role: of the selector at this top_k; a method at a bound's number of chunks is a bound.
        top_k: chunks re-loaded, a ladder or a budget, see `engine/top_k.py`; None with `single_level`.
        pinned: chunks always re-loaded.
        taking: which of the rated chunks are taken, see `engine/taking.py`; `top` where none are chosen.
        selector_config: short hash of the selector's settings.
        run_id: hash of the configuration, so that what no other field says still tells two cells apart.
    """

    model: str = _field("{}", setting=True)
    benchmark: str = _field("{}", setting=True)
    protocol: str = _field("protocol {}", setting=True)
    dtype: str = _field("{}")
    frames: int | None = _field("{} frames", setting=True)
    fps: float | None = _field("{} fps", setting=True)
    chunk_frames: int = _field("{} frames a chunk")
    levels: tuple[LevelSpec, ...] = _field("{}")
    context: str = _field("context {}")
    positions: str = _field("positions {}")
    control: str | None = _field("{}")
    selector: str = _field("{}", choice=True)
    single_level: str | None = _field(None)
    role: Role = _field(None)
    top_k: int | str | None = _field("k={}", choice=True)
    pinned: tuple[str, ...] = _field("pinned {}", choice=True)
    taking: str = _field("taking {}", choice=True)
    seed: int = _field("seed {}", choice=True)
    selector_config: str = _field("settings {}", choice=True, last_resort=True)
    run_id: str = _field("run {}", last_resort=True)

    def __post_init__(self) -> None:
        """Checks what the rest of x2l reads from it.

        Raises:
            ValueError: no level, two levels of one name, an unknown role, or a single level that is none of them.
        """
        names = [level.name for level in self.levels]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"levels={names}: must be one or more levels of different names")
        if self.role not in ROLES:
            raise ValueError(f"role={self.role!r}: must be one of {', '.join(ROLES)}")
        if self.single_level not in (None, *names):
            raise ValueError(
                f"single_level={self.single_level!r}: must be one of {', '.join(names)}, or None"
            )

    @property
    def compressor(self) -> str:
        """`tome`, or `tome+mean_pool` where levels differ, finest first."""
        return methods_label(self.levels)

    @property
    def baseline(self) -> str | None:
        """`full` (nothing compressed), or `all-low`, `all-high` (one level for all chunks); None: chunks are chosen."""
        if self.control is not None:
            return None
        if all(level.ratio == 1 for level in self.levels):
            return FULL
        return None if self.single_level is None else f"all-{self.single_level}"

    @property
    def is_bound(self) -> bool:
        """Whether nobody can have its answers without knowing where the answer lies: never on a Pareto front."""
        return self.role == "bound" and self.baseline is None

    @property
    def chosen_by(self) -> str:
        """What says which chunks are re-loaded: the control that stands in for it, or the selector."""
        return self.control or self.selector

    @property
    def traits(self) -> dict[str, Hashable]:
        """What may tell two conditions apart, by name; levels as `compressor` and one `ratio.NAME` a level.

        A dropped level has the ratio inf.
        """
        traits: dict[str, Hashable] = {}
        for field in dataclasses.fields(self):
            if field.name == "levels":
                traits["compressor"] = self.compressor
                for level in self.levels:
                    traits[f"ratio.{level.name}"] = math.inf if level.ratio is None else level.ratio
            elif field.metadata["label"] is not None:
                traits[field.name] = getattr(self, field.name)
        return traits

    @property
    def columns(self) -> dict[str, Hashable]:
        """Its traits and what follows from them, by the names of points.csv and of filters."""
        follows = {name: getattr(self, name) for name in _names("label", None)}
        return {**self.traits, **follows, "baseline": self.baseline}

    @property
    def setting(self) -> tuple[Hashable, ...]:
        """What is asked, of which model, about which frames: only equal ones may be compared."""
        return tuple(getattr(self, name) for name in setting_names())

    @property
    def label(self) -> str:
        """For messages: compressor, selector and top_k."""
        words = [self.compressor, self.chosen_by]
        return " ".join(words if self.top_k is None else [*words, f"k={self.top_k}"])


def methods_label(levels: Sequence[LevelSpec]) -> str:
    """`tome`, or `tome+mean_pool` where levels differ, in the order given."""
    methods = [level.method for level in levels]
    return "+".join(methods if len(set(methods)) > 1 else methods[:1])


def trait_label(name: str, value: Hashable) -> str:
    """How figures and tables say the value of a trait; '' where there is nothing to say (None, nothing pinned)."""
    if value is None or value == ():
        return ""
    if name == "compressor":
        return str(value)
    if name.startswith("ratio."):
        return f"{name.removeprefix('ratio.')} {'dropped' if value == math.inf else f'{value:g}x'}"
    template = next(f.metadata["label"] for f in dataclasses.fields(Condition) if f.name == name)
    return str(template.format("+".join(value) if isinstance(value, tuple) else value))


def _names(flag: str, value: object) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(Condition) if f.metadata[flag] is value)


def last_resorts() -> tuple[str, ...]:
    """Traits to be named only where no other tells two conditions apart."""
    return _names("last_resort", True)


def setting_names() -> tuple[str, ...]:
    """Traits that comparable conditions share, and that full KVs depend on."""
    return _names("setting", True)


def choice_names() -> tuple[str, ...]:
    """Traits that do not matter where all chunks have one level."""
    return _names("choice", True)


def to_json(condition: Condition) -> dict[str, Any]:
    """Plain values, `levels` a list of objects."""
    return dict(_plain(condition))


@functools.lru_cache(maxsize=1024)  # every record of a cell asks for them
def _plain(condition: Condition) -> dict[str, Any]:
    return dataclasses.asdict(condition)


def from_json(values: Mapping[str, Any]) -> Condition:
    """The condition of plain values; other keys are passed over.

    Raises:
        KeyError: a field is missing.
    """
    plain = {field.name: values[field.name] for field in dataclasses.fields(Condition)}
    levels = tuple(LevelSpec(**level) for level in plain["levels"])
    return Condition(**plain | {"levels": levels, "pinned": tuple(plain["pinned"])})
