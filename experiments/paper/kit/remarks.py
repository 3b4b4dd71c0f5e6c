"""Words beside points, moved so that none lies on another, on a mark, or beyond its panel."""

from __future__ import annotations

from itertools import product

from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

REMARK = "remark"  # the gid of such words
# Where words may stand, from their point, in points: near it first, and to the right before to the left.
STEPS = (3, -9, 11, -17, 19, -25, 27, -33, 35)
PLACES = tuple(product(STEPS, ("left", "right")))
MARK = 3.0  # half of a mark, points


def spread(figure: Figure) -> None:
    """Moves the remarks of every panel; after the figure has its size."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        _spread(axes)


def _spread(axes: Axes) -> None:
    remarks = [text for text in axes.texts if text.get_gid() == REMARK]
    if not remarks:
        return
    pixels = axes.figure.dpi / 72
    marks = [
        Bbox.from_bounds(x - MARK * pixels, y - MARK * pixels, 2 * MARK * pixels, 2 * MARK * pixels)
        for container in axes.containers
        if isinstance(container, ErrorbarContainer)
        for x, y in axes.transData.transform(container[0].get_xydata())
    ]
    taken: list[Bbox] = []
    for remark in sorted(remarks, key=lambda text: -axes.transData.transform(text.xy)[1]):
        boxes = {place: _moved(remark, place) for place in PLACES}
        room = axes.bbox.padded(4 * pixels)
        inside = [p for p in PLACES if all(map(room.containsx, boxes[p].intervalx))]
        crossed = {p: sum(boxes[p].overlaps(box) for box in (*taken, *marks)) for p in inside}
        best = min(inside or PLACES[:1], key=lambda p: crossed.get(p, 0))  # the first of equals
        taken.append(_moved(remark, best))


def _moved(remark: Annotation, place: tuple[int, str]) -> Bbox:
    """Puts the words to a place; where they stand then, in pixels."""
    up, side = place
    remark.set_ha(side)
    remark.xyann = (5 if side == "left" else -5, up)
    return remark.get_window_extent()
