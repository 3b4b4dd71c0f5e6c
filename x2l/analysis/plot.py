"""Pictures in one line each: of the frames of `x2l.points`, and of what `x2l-calibrate` found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from x2l import UserError
from x2l.analysis.figure_style import RC, VERMILLION, Style, compressor_styles, selector_styles
from x2l.selectors.calibration import SCORES, load_calibration

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

NEEDED = ("accuracy", "accuracy_low", "accuracy_high", "out_of_memory", "role")


def curve(
    df: pandas.DataFrame,
    x: str = "kv_share",
    hue: str | Sequence[str] = "selector",
    axes: Axes | None = None,
) -> Axes:
    """Accuracy in percent with 95 % intervals over a column; numbers are joined in order, names stand side by side.

    A line is dashed where its cells were told where the answer lies (bounds), a mark hollow where memory ran out for
    some questions.

    Args:
        df: from `x2l.points`, or some of its rows.
        x: a column of compute or of the condition, e.g. `kv_share`, `ratio.high`, `top_k`, `compressor`.
        hue: a column, or several, each of whose values is a line.
        axes: where; None = a new figure.

    Returns:
        The axes, to be changed at will.

    Raises:
        UserError: no rows, no such column, or cells that one line would mix up.
    """
    hues = [hue] if isinstance(hue, str) else list(hue)
    if missing := [name for name in (x, *hues, *NEEDED) if name not in df.columns]:
        raise UserError(
            f"{missing[0]}: is no column of this frame; give x2l.points(...), which has {', '.join(df.columns)}"
        )
    shown = df[(df["accuracy"].notna()) & df[x].notna()]
    if shown.empty:
        raise UserError(f"x={x}: no row has both it and an accuracy")
    labels = shown[hues].astype(object).where(shown[hues].notna(), "-").astype(str)
    shown = shown.assign(_line=labels.agg(" ".join, axis=1))
    for (name, at), rows in shown.groupby(["_line", x]):
        if len(rows) > 1:
            traits = df.columns[: list(df.columns).index("accuracy")]
            apart = [c for c in traits if rows[c].astype(str).nunique() > 1]
            raise UserError(
                f"hue={' '.join(hues)}: {len(rows)} cells of {name} have {x}={at} and differ in "
                f"{', '.join(apart)}; choose rows of one, or add it to hue"
            )
    import matplotlib.pyplot as plt
    from pandas.api.types import is_numeric_dtype

    numeric = is_numeric_dtype(shown[x])
    with plt.rc_context(RC):
        if axes is None:
            axes = plt.subplots(figsize=(6, 4), layout="constrained")[1]
        places = {value: at for at, value in enumerate(dict.fromkeys(shown[x]))}
        for name, style in _styles(shown, hues).items():
            rows = shown[shown["_line"] == name].sort_values(
                x, key=lambda c: c if numeric else c.map(places)
            )
            at = rows[x].astype(float) if numeric else rows[x].map(places)
            _line(axes, list(at), rows, name, style, joined=numeric)
        if numeric and shown[x].min() > 0 and shown[x].max() > 8 * shown[x].min():
            axes.set_xscale("log")
        if not numeric:
            axes.set_xticks(list(places.values()), [str(value) for value in places])
        axes.set(xlabel=x, ylabel="accuracy (%), 95 % interval")
        place = (1.02, 0.5)
        axes.legend(title=" ".join(hues), frameon=False, loc="center left", bbox_to_anchor=place)
    return axes


def heads(
    calibration: str | Path = "x2l_tiny_heads", score: str = "keys", axes: Axes | None = None
) -> Axes:
    """Scores of a model's heads, layers by heads, those marked that a selector uses.

    Args:
        calibration: a file that `x2l-calibrate` wrote; or `x2l_tiny_heads`, those of x2l_tiny that are in the package.
        score: `keys` (mean average precision of ground-truth chunks; of `selector=keys`) or `attention` (to the
            evidence, less that of a question without content; of `selector=retrieval_heads`).
        axes: where; None = a new figure.

    Returns:
        The axes, to be changed at will.

    Raises:
        UserError: no such score, no such file, or one without a score of every head.
    """
    if score not in SCORES:
        raise UserError(f"score={score}: must be one of {', '.join(SCORES)}")
    try:
        found = load_calibration(calibration, score, "calibration")
    except ValueError as error:
        raise UserError(str(error)) from error
    if not found.of_heads:
        raise UserError(
            f"calibration={calibration}: has no score of every head; give a file that x2l-calibrate wrote"
        )
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    with plt.rc_context(RC):
        if axes is None:
            size = (4.5, 2 + 0.16 * max(len(found.of_heads), 8))
            axes = plt.subplots(figsize=size, layout="constrained")[1]
        image = axes.imshow(found.of_heads, aspect="auto", cmap="viridis")
        layers, numbers = zip(*found.ranked[: found.best], strict=True)
        axes.scatter(numbers, layers, marker="s", s=40, facecolors="none", edgecolors=VERMILLION)
        axes.set(title=_TITLES[score], xlabel="query head", ylabel="layer")
        for side in (axes.xaxis, axes.yaxis):
            side.set_major_locator(MaxNLocator(integer=True))
        axes.figure.colorbar(image, ax=axes)
    return axes


_TITLES = {
    "keys": "selector=keys\nmean average precision, ties by separation",
    "attention": "selector=retrieval_heads\nattention to the evidence, less that of N/A",
}


def _styles(shown: pandas.DataFrame, hues: Sequence[str]) -> dict[str, Style]:
    roles = {str(name): rows["role"].iloc[0] for name, rows in shown.groupby("_line")}
    if hues[0] == "selector":
        return selector_styles(roles)
    looks = compressor_styles(roles)
    dashed = {name: "--" if role == "bound" else "-" for name, role in roles.items()}
    return {name: Style(look.colour, look.marker, dashed[name]) for name, look in looks.items()}


def _line(
    axes: Axes, at: Sequence[Any], rows: pandas.DataFrame, name: str, style: Style, joined: bool
) -> None:
    columns = ("accuracy", "accuracy_low", "accuracy_high")
    value, low, high = (100 * rows[column].to_numpy(float) for column in columns)
    axes.errorbar(
        at,
        value,
        yerr=[(value - low).clip(min=0), (high - value).clip(min=0)],
        color=style.colour,
        linestyle=style.line if joined else "",
        marker=style.marker,
        markeredgecolor="white",
        capsize=2,
        label=name,
    )
    hollow = (rows["out_of_memory"] > 0).to_list()
    if any(hollow):
        cells = [(x, y) for x, y, h in zip(at, value, hollow, strict=True) if h]
        axes.plot(
            *zip(*cells, strict=True), marker=style.marker, mfc="white", mec=style.colour, ls=""
        )
