"""Colours and type of every figure."""

from typing import Any

# Okabe and Ito's palette: told apart by colour-blind readers; never the only mark of a difference.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
RC: dict[Any, Any] = {
    "pdf.fonttype": 42,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
