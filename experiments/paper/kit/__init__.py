"""What figures of the paper are made of: a figure's file imports nothing else of the kit."""

from experiments.paper.kit.axes import (
    ACCURACY,
    ALL_BYTES,
    CHOOSING_BYTES,
    CHOOSING_FLOPS,
    KV_BYTES,
    NEXT_FLOPS,
    RECALL,
    Axis,
    over_trait,
)
from experiments.paper.kit.cells import Cell, Cells, all_but, cells_of, percent, two_sizes
from experiments.paper.kit.findings import EachPair, Spread, behind, listed
from experiments.paper.kit.heat_map import Grid, HeatMaps
from experiments.paper.kit.lines import Lines, Panels
from experiments.paper.kit.pairs import LEVEL, Family, Pair, Pairs
from experiments.paper.kit.spec import Beside, FigureSpec, Note, Reported
from experiments.paper.kit.tables import Pivot, Rows, Table, TableSpec
