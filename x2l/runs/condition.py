"""What identifies one cell of the experiment, in one frozen value.

Records, the log of answers that ran out of memory, run.json, points, names, comparisons, metrics, figures and reports
take it from here, and find its fields by reflection: a field that is added to `Condition` tells cells apart and is
written, read, named and compared everywhere, without another line of code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from x2l.selectors.roles import ROLES, Role

FULL = "full"


def _field(label: str | None, *, last_resort: bool = False) -> Any:
    """A field of `Condition`.

    Args:
        label: how figures and tables say its value, `{}` standing for it; None: it follows from other fields, and never
            tells two conditions apart.
        last_resort: named only where no other field tells two conditions apart.
    """
    return dataclasses.field(metadata={"label": label, "last_resort": last_resort})


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
        extras = [
            word
            for word, usual in ((self.codec, "none"), (self.layers, "uniform"))
            if word != usual
        ]
        return "-".join([self.compressor, *extras])

    @property
    def ratio_label(self) -> str:
        """The ratio as figures and tables say it, e.g. `low 2x`."""
        return f"{self.name} dropped" if self.ratio is None else f"{self.name} {self.ratio:g}x"


@dataclass(frozen=True)
class Condition:
    """One cell: everything that is the same for all of its answers. Hashable; equal values are one cell.

    Attributes:
        frames: sampled at most, as configured; None = as many as `fps` gives.
        fps: frames a second, as configured; None = `frames` spread evenly over the video.
        levels: finest to coarsest.
        control: what stands in for the method, e.g. `fewer_frames`; None = the method as configured.
        selector: name of its yaml.
        single_level: the level that every chunk has (all re-loaded, none re-loaded); None where chunks are chosen.
        role: of the selector at this top_k; a method at a bound's number of chunks is a bound.
        top_k: chunks re-loaded, a ladder or a budget, see `engine/top_k.py`; None with `single_level`.
        pinned: chunks always re-loaded.
        selector_config: short hash of the selector's settings.
        run_id: hash of the configuration, so that what no other field says still tells two cells apart.
    """

    model: str = _field("{}")
    benchmark: str = _field("{}")
    protocol: str = _field("protocol {}")
    dtype: str = _field("{}")
    frames: int | None = _field("{} frames")
    fps: float | None = _field("{} fps")
    chunk_frames: int = _field("{} frames a chunk")
    levels: tuple[LevelSpec, ...] = _field("{}")
    context: str = _field("context {}")
    positions: str = _field("positions {}")
    control: str | None = _field("{}")
    selector: str = _field("{}")
    single_level: str | None = _field(None)
    role: Role = _field(None)
    top_k: int | str | None = _field("k={}")
    pinned: tuple[str, ...] = _field("pinned {}")
    seed: int = _field("seed {}")
    selector_config: str = _field("settings {}", last_resort=True)
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
        methods = [level.method for level in self.levels]
        return "+".join(methods if len(set(methods)) > 1 else methods[:1])

    @property
    def baseline(self) -> str | None:
        """`full` (nothing compressed), `all-low`, `all-high` (one level for all chunks); None where chunks are chosen."""
        if self.control is None and all(level.ratio == 1 for level in self.levels):
            return FULL
        return None if self.single_level is None else f"all-{self.single_level}"

    @property
    def traits(self) -> dict[str, Hashable]:
        """What may tell two conditions apart, by name; levels as `compressor` and one `ratio.NAME` a level."""
        traits: dict[str, Hashable] = {}
        for field in dataclasses.fields(self):
            if field.name == "levels":
                traits["compressor"] = self.compressor
                traits |= {f"ratio.{level.name}": level.ratio_label for level in self.levels}
            elif field.metadata["label"] is not None:
                traits[field.name] = getattr(self, field.name)
        return traits

    @property
    def label(self) -> str:
        """For messages: compressor, selector and top_k."""
        words = [self.compressor, self.control or self.selector]
        return " ".join(words if self.top_k is None else [*words, f"k={self.top_k}"])


def trait_label(name: str, value: Hashable) -> str:
    """How figures and tables say the value of a trait; '' where there is nothing to say (None, nothing pinned)."""
    if value is None or value == ():
        return ""
    if name == "compressor" or name.startswith("ratio."):
        return str(value)
    template = next(f.metadata["label"] for f in dataclasses.fields(Condition) if f.name == name)
    return str(template.format("+".join(value) if isinstance(value, tuple) else value))


def last_resorts() -> tuple[str, ...]:
    """Traits to be named only where no other tells two conditions apart."""
    return tuple(f.name for f in dataclasses.fields(Condition) if f.metadata["last_resort"])


def to_json(condition: Condition) -> dict[str, Any]:
    """Plain values, `levels` a list of objects."""
    return dataclasses.asdict(condition)


def from_json(values: Mapping[str, Any]) -> Condition:
    """The condition of plain values; other keys are passed over.

    Raises:
        KeyError: a field is missing.
    """
    plain = {field.name: values[field.name] for field in dataclasses.fields(Condition)}
    levels = tuple(LevelSpec(**level) for level in plain["levels"])
    return Condition(**plain | {"levels": levels, "pinned": tuple(plain["pinned"])})
