"""One look for each selector, compressor, level and stage in every picture. Imports no matplotlib.

Colours are told apart by colour-blind readers (Okabe and Ito's, then Tol's "muted") and are never the only mark of a
difference.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from x2l.runs.condition import FULL, Condition
from x2l.selectors.roles import Role

BLUE, VERMILLION, GREEN, PINK, SKY, ORANGE = (
    *("#0072B2", "#D55E00", "#009E73"),
    *("#CC79A7", "#56B4E9", "#E69F00"),
)
INDIGO, WINE, OLIVE, TEAL, BROWN = "#332288", "#882255", "#999933", "#44AA99", "#661100"
COLOURS = (BLUE, VERMILLION, GREEN, PINK, SKY, ORANGE, INDIGO, WINE, OLIVE, TEAL, BROWN)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "d")
INK, SOFT, FRONT, OTHERS = (
    "#222222",
    "#555555",
    "#bbbbbb",
    "#8a8a8a",
)  # baselines; words; the front; others' results
RC: dict[Any, Any] = {
    "pdf.fonttype": 42,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Style:
    """How something is drawn, in matplotlib's words."""

    colour: str
    marker: str = "o"
    line: str = "-"


_SELECTORS = {
    "attention": Style(BLUE, "s"),
    "random": Style(VERMILLION, "^"),
    "oracle": Style(GREEN, "o"),
    "embedding": Style(PINK, "D"),
    "retriever": Style(SKY, "P"),
    "equal_kv_bytes": Style(ORANGE, "v"),
    "equal_flops": Style(ORANGE, "P", "--"),
    "keys": Style(INDIGO, "X"),
    "quest": Style(WINE, "D"),
    "file": Style(BROWN, "X"),
    "uniform": Style(WINE, "<"),
    "first_last": Style(OLIVE, ">"),
    "hit_rate": Style(TEAL, "d"),
    "last": Style(BROWN, "o"),
    "random_matched": Style(VERMILLION, "v"),
}
_COMPRESSORS = {  # those that stand in one picture most often; others have looks that follow from their names
    "tome": Style(BLUE, "o"),
    "kmeans": Style(VERMILLION, "v"),
    "key_norm": Style(GREEN, "^"),
    "key_diff": Style(PINK, "D"),
    "snapkv": Style(SKY, "P"),
    "mean_pool": Style(ORANGE, "s"),
    "expected_attention": Style(INDIGO, "X"),
    "value_norm": Style(WINE, "<"),
    "density_peaks": Style(OLIVE, ">"),
    "max_norm_pool": Style(TEAL, "d"),
    "time_pool": Style(BROWN, "o"),
    "uniform": Style("#555555", "P"),  # the two controls of a compressor
    "random": Style("#9e9e9e", "X"),
}
_STAGES = {
    "read": BROWN,
    "vision": BLUE,
    "prefill": ORANGE,
    "compression": GREEN,
    "retrieval": PINK,
    "selection": SKY,
    "reload": VERMILLION,
    "decode": "#8a8f94",
}
_FINEST, _COARSEST = (0xD5, 0x5E, 0x00), (0xA8, 0xA8, 0xA8)  # levels: from vermillion to grey


def selector_styles(roles: Mapping[str, Role]) -> dict[str, Style]:
    """Looks of the selectors of one picture, no two alike; bounds are dashed.

    A name that is not in the table gets a look that depends on the name alone, unless another in the picture has it.

    Args:
        roles: selector, or control that stands in for one, -> its role. After a space may stand which settings it has:
            the colour is then the selector's, the marker another.
    """
    lines = {name: "--" if role == "bound" else "-" for name, role in roles.items()}
    looks = _distinct(roles, _SELECTORS)
    return {name: replace(looks[name], line=lines[name]) for name in roles}


def style_of_selector(name: str, role: Role = "method") -> Style:
    """Look of a selector, or of the control that stands in for one, by itself."""
    return selector_styles({name: role})[name]


def compressor_styles(names: Iterable[str]) -> dict[str, Style]:
    """Looks of the compressors of one picture, no two alike; see `selector_styles`."""
    return _distinct(names, _COMPRESSORS)


def style_of_compressor(name: str) -> Style:
    """Look of a compressor by itself."""
    return compressor_styles([name])[name]


def style_of_baseline(condition: Condition) -> Style:
    """Look of a condition without choice: nothing compressed, or all chunks at one level."""
    names = [level.name for level in condition.levels]
    if condition.baseline == FULL or condition.single_level is None:
        return Style(INK, "*", "--")
    level = names.index(condition.single_level)
    return Style(INK, {0: "^", len(names) - 1: "v"}.get(level, "d"), "")


def style_of_level(index: int, count: int) -> Style:
    """Look of a level.

    Args:
        index: finest first.
        count: how many levels there are.
    """
    share = index / max(1, count - 1)
    mixed = (round(a + share * (b - a)) for a, b in zip(_FINEST, _COARSEST, strict=True))
    return Style("#" + "".join(f"{part:02x}" for part in mixed), MARKERS[index % len(MARKERS)])


def style_of_stage(stage: str) -> Style:
    """Look of a stage of compute."""
    return Style(_STAGES.get(stage) or COLOURS[_number(stage) % len(COLOURS)])


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])


def _distinct(names: Iterable[str], table: Mapping[str, Style]) -> dict[str, Style]:
    """A look for each name; those of the table keep theirs whatever they stand beside."""
    styles: dict[str, Style] = {}
    for name in sorted(names, key=lambda name: (name not in table, name)):
        if name in table:
            styles[name] = table[name]
            continue
        used = styles.values()
        colours, markers = {style.colour for style in used}, {style.marker for style in used}
        candidates = _candidates(name, table.get(name.partition(" ")[0]))
        # The first that shares least with another in the picture; the first of all where nothing is shared.
        styles[name] = min(candidates, key=lambda c: (c.colour in colours) + (c.marker in markers))
    return styles


def _candidates(name: str, base: Style | None) -> list[Style]:
    """Looks that a name may have, the first of them its own."""
    if base is not None:
        first = MARKERS.index(base.marker)
        markers = [MARKERS[(first + i) % len(MARKERS)] for i in range(len(MARKERS))]
        return [replace(base, marker=marker) for marker in markers]
    number = _number(name)
    return [  # every pair: the two lengths have no common factor
        Style(COLOURS[(number + i) % len(COLOURS)], MARKERS[(number // 64 + i) % len(MARKERS)])
        for i in range(len(COLOURS) * len(MARKERS))
    ]
