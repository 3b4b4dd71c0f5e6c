"""What others reported of the same models and sets, beside a sweep's own cells: read from published.csv.

Numbers of papers, repositories and issues, each with its source; `read_in` is `primary` where the table itself was
read, `note` where a reading note about it was. Base models' own numbers differ by up to six points between papers, so
the one of the same paper stands beside every row. Pure, but for the file.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from x2l.analysis.cell_names import Names
from x2l.analysis.comparison_table import formatted
from x2l.analysis.compute_axes import drawable
from x2l.analysis.points import Point
from x2l.analysis.units import percent, percent_range

FILE = Path(__file__).with_name("published.csv")
# How the sets are called there -> x2l's names of the same questions. No row is of a model that read subtitles.
_SETS = {
    "Video-MME": ("videomme",),
    "MLVU": ("mlvu_dev", "mlvu_test"),
    "LongVideoBench": ("longvideobench_val_v",),
    "LVBench": ("lvbench",),
}
_PARTS = ("short", "medium", "long", "first 748 samples")  # of a set: no headline number
_BASES = (
    "base",
    "full KV",
    "uniform",
    "none",
    "FlashAttention",
)  # the model without the paper's method


@dataclass(frozen=True)
class Published:
    """One row of the file.

    Attributes:
        frames: as reported; several counts are joined by `/`, words where it does not say.
        accuracy: percent.
        checkpoint: the model's id on the Hub; empty where no model of conf/model is it.
    """

    paper: str
    arxiv: str
    model: str
    benchmark: str
    split: str
    frames: str
    method: str
    budget: str
    accuracy: float
    source: str
    read_in: str
    checkpoint: str

    @property
    def frame_counts(self) -> frozenset[int]:
        """The numbers of frames, where it says so."""
        whole = re.fullmatch(r"\d+(/\d+)*", self.frames)
        return frozenset(map(int, self.frames.split("/"))) if whole else frozenset()

    @property
    def is_base(self) -> bool:
        """Whether it is the model's own number, without a method."""
        return self.method in _BASES

    def is_of(self, point: Point) -> bool:
        """Whether it is about the same model, the whole of the same set and as many frames."""
        condition = point.condition
        return (
            condition.benchmark in _SETS.get(self.benchmark, ())
            and (condition.benchmark == "mlvu_test")
            == (self.benchmark == "MLVU" and self.split == "test")
            and Path(condition.model).name.lower() == Path(self.checkpoint).name.lower() != ""
            and condition.frames in self.frame_counts
            # Sampled at a rate, short videos have fewer than the most.
            and (condition.fps is None or point.frames_sampled > 0.95 * (condition.frames or 0))
            and self.split not in _PARTS
        )


@dataclass(frozen=True)
class Beside:
    """Cells of one model, set and number of frames, and what others reported of these.

    Attributes:
        points: cells, best first.
        rows: of the file, best first, each with the base model's row of the same paper, None where it has none.
    """

    points: tuple[Point, ...]
    rows: tuple[tuple[Published, Published | None], ...]


@cache
def published() -> tuple[Published, ...]:
    """Every row of the file."""
    with FILE.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        return tuple(Published(**{**row, "accuracy": float(row["accuracy"])}) for row in rows)  # type: ignore[arg-type]


def beside(points: Iterable[Point]) -> list[Beside]:
    """What others reported for each model, set and number of frames of some cells; nothing where nobody did."""
    groups: dict[Hashable, list[Point]] = defaultdict(list)
    for point in drawable(points):
        groups[point.condition.setting].append(point)
    found = []
    for group in groups.values():
        rows = [row for row in published() if row.is_of(group[0])]
        if rows:
            ours = sorted(group, key=lambda p: -p.accuracy)
            theirs = sorted(rows, key=lambda row: -row.accuracy)
            found.append(Beside(tuple(ours), tuple((row, base_of(row)) for row in theirs)))
    return found


def base_of(row: Published) -> Published | None:
    """The base model's row of the same paper and set; with as many frames, if it has that."""
    same = [
        other
        for other in published()
        if other.is_base
        and (other.paper, other.arxiv, other.model) == (row.paper, row.arxiv, row.model)
        and (other.benchmark, other.split) == (row.benchmark, row.split)
    ]
    same.sort(key=lambda other: other.frames != row.frames)
    return same[0] if same and not row.is_base else None


def _base_words(row: Published, base: Published | None) -> str:
    """Its accuracy; with its frames where they are not the row's."""
    if base is None:
        return ""
    frames = "" if base.frames == row.frames else f" (frames: {base.frames})"
    return f"{base.accuracy:.1f}{frames}"


def entries(group: Beside, called: Names) -> list[Mapping[str, str]]:
    """One line a cell or row, best first: `who`, `what`, `budget`, `accuracy`, `interval`, `n`, `base`, `source`."""
    lines = [
        (
            100 * p.accuracy,
            {
                "who": "here",
                "what": called.cell(p.condition) + " (bound)" * p.condition.is_bound,
                "budget": f"{percent(p.kv_share)} % of the KV bytes",
                "accuracy": percent(p.accuracy),
                "interval": percent_range(p.accuracy_low, p.accuracy_high),
                "n": str(p.questions),
                "base": "",
                "source": "",
            },
        )
        for p in group.points
    ]
    for row, base in group.rows:
        split = "" if row.split == "not stated" else f" ({row.split})"
        note = " (read in a note)" if row.read_in == "note" else ""
        words = {
            "who": row.paper,
            "what": row.method + split,
            "budget": row.budget,
            "accuracy": f"{row.accuracy:.1f}",
            "interval": "",
            "n": "",
            "base": _base_words(row, base),
            "source": row.source + note,
        }
        lines.append((row.accuracy, words))
    return [words for _, words in sorted(lines, key=lambda line: -line[0])]


def heading(group: Beside) -> str:
    """What cells and rows have in common."""
    condition, row = group.points[0].condition, group.rows[0][0]
    ours = f"{condition.benchmark}, protocol {condition.protocol}"
    return f"{row.model}, {row.benchmark}, {condition.frames} frames; here: {ours}"


def table(groups: Sequence[Beside], called: Names, form: str = "text") -> str:
    """The groups in one of `comparison_table.FORMATS`; `its base`: the base model's own number in the same paper."""
    titles = {"interval": "95 % interval", "base": "its base", "accuracy": "%"}
    tables = []
    for group in groups:
        rows = entries(group, called)
        columns = {titles.get(name, name): [row[name] for row in rows] for name in rows[0]}
        tables.append((heading(group), columns))
    if form != "csv":
        return "\n\n".join(formatted([head], columns, form) for head, columns in tables)
    # One table, since a file has one: what is a heading elsewhere is a column.
    whole: dict[str, list[str]] = defaultdict(list)
    for head, columns in tables:
        for name, values in ({"of": [head] * len(columns["who"])} | columns).items():
            whole[name] += values
    return formatted([], whole, form)
