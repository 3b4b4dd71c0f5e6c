"""Which points of the committed figures have another 95 % interval than x2l gave before, and which.

    python -m experiments.coverage.changes   # -> experiments/results/coverage/changes.md

Of every cell of every experiment of the paper whose answers are committed: the interval as it is, beside the one of
`simulate.accuracy_interval_before`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from experiments.coverage.simulate import Sampled, accuracy_interval_before
from experiments.paper.answers import load
from x2l.analysis.cell_names import names
from x2l.analysis.scoring import outcomes
from x2l.analysis.statistics import Outcome, accuracy

ANSWERS = Path(__file__).parents[1] / "results" / "paper" / "answers"
OUT = Path(__file__).parents[1] / "results" / "coverage" / "changes.md"
NOTABLE = 0.02  # an end that moved by more is listed


def cells(path: Path) -> Iterator[tuple[str, list[Outcome]]]:
    """Every cell of an experiment by its name, with its outcomes."""
    by_condition = defaultdict(list)
    for record in load(path).records:
        by_condition[record.condition].append(record)
    called = names(by_condition)
    for condition, records in by_condition.items():
        yield called.cell(condition), outcomes(records)


def before(scored: Sequence[Outcome]) -> tuple[float, float]:
    """The interval that x2l gave before."""
    by_video = defaultdict(list)
    for outcome in scored:
        if not math.isnan(outcome.value):
            by_video[outcome.video].append(outcome.value)
    hits = np.array([[sum(values) for values in by_video.values()]])
    counts = np.array([[float(len(values)) for values in by_video.values()]])
    low, high = accuracy_interval_before(Sampled(hits, hits, counts, np.zeros(1)))
    return float(low[0]), float(high[0])


def percent(low: float, high: float) -> str:
    """An interval."""
    return f"{100 * low:.1f} to {100 * high:.1f}"


def main() -> None:
    """Writes the page."""
    summary, listed = [], []
    for path in sorted(ANSWERS.glob("*.json.xz")):
        name, widths, moved = path.name.removesuffix(".json.xz"), [], 0
        for cell, scored in cells(path):
            now = accuracy(scored)
            low, high = before(scored)
            widths.append((high - low, now.high - now.low))
            shift = max(abs(low - now.low), abs(high - now.high))
            moved += shift > NOTABLE
            if shift > NOTABLE:
                listed.append(
                    {
                        "experiment": name,
                        "cell": cell,
                        "videos": now.videos,
                        "questions": now.count,
                        "accuracy %": f"{100 * now.value:.1f}",
                        "before": percent(low, high),
                        "now": percent(now.low, now.high),
                    }
                )
        was, now_is = np.mean(widths, axis=0)
        summary.append(
            {
                "experiment": name,
                "points": len(widths),
                f"an end moved by > {100 * NOTABLE:g} points": moved,
                "mean width before": f"{100 * was:.1f}",
                "now": f"{100 * now_is:.1f}",
            }
        )
    text = (
        "Written by `python -m experiments.coverage.changes`. 95 % intervals of accuracies, in percent: what they "
        "are, and what x2l gave until it counted videos where answers say little of how alike a video's are.\n\n"
        f"{tabulate(summary, 'keys', tablefmt='pipe', disable_numparse=True)}\n\n"
        f"Points of which an end moved by more than {100 * NOTABLE:g} points:\n\n"
        f"{tabulate(listed, 'keys', tablefmt='pipe', disable_numparse=True)}\n"
    )
    OUT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
