"""What a run tells its tracker: accuracy while it lasts; in the end every cell, task and stage. Pure."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable

from x2l.analysis.points import Point, points
from x2l.analysis.scoring import ALL_TASKS, outcomes
from x2l.engine.stages import STAGES
from x2l.runs.records import Record

_OF_A_CELL = ("accuracy", "low", "high", "n", "parse_failures", "recall", "precision", "hit")
_COMPUTE = ("kv_share", "kv_bytes_resident", "flops", "flops_next", "seconds", "seconds_next")
_OF_A_TASK = ("accuracy", "low", "high", "n")


def running(records: Collection[Record]) -> dict[str, float]:
    """Accuracy of every cell so far (`accuracy/CELL`), over the number of answers (`answers`)."""
    own: dict[str, list[Record]] = defaultdict(list)
    several = _several_settings(records)
    for record in records:
        own[_label(record, several)].append(record)
    metrics: dict[str, float] = {"answers": float(len(records))}
    for label, members in own.items():
        values = [outcome.value for outcome in outcomes(members)]
        if values:
            metrics[f"accuracy/{label}"] = sum(values) / len(values)
    return metrics


def final(records: Collection[Record]) -> dict[str, float]:
    """Everything that is known of every cell in the end; what is not a number is left out.

    Returns:
        `final/CELL/FIELD` with fields of `Point`, FLOPs and seconds by stage among them, and
        `task/TASK/CELL/FIELD`.
    """
    several = _several_settings(records)
    stages = [f"{unit}_{stage}" for unit in ("flops", "seconds") for stage in STAGES]
    values: dict[str, float] = {}
    for point in points(records, by_task=True):
        name = _label(point, several)
        whole = point.task == ALL_TASKS
        fields = (*_OF_A_CELL, *_COMPUTE, *stages) if whole else _OF_A_TASK
        place = f"final/{name}" if whole else f"task/{point.task}/{name}"
        values |= {f"{place}/{field}": float(getattr(point, field)) for field in fields}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _several_settings(records: Iterable[Record]) -> set[str]:
    """The selectors that a folder holds with more than one configuration."""
    configs: dict[str, set[str]] = defaultdict(set)
    for record in records:
        configs[record.selector].add(record.selector_config)
    return {selector for selector, own in configs.items() if len(own) > 1}


def _label(of: Record | Point, several: Collection[str]) -> str:
    name = f"{of.selector} {of.selector_config}" if of.selector in several else of.selector
    return name if of.top_k is None else f"{name} k={of.top_k}"
