"""Which heads find what a question asks about: read from a file that says on what they were found. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Head = tuple[int, int]  # layer, query head; both from 0
FORMAT = 1
SCORES = ("keys", "attention")
PACKAGED = {"x2l_tiny_heads": Path(__file__).with_name("x2l_tiny_heads.json")}


@dataclass(frozen=True)
class Calibration:
    """Scores of a model's heads, and what they were found on.

    Attributes:
        path: of the file.
        model: name or path of the checkpoint.
        checkpoint: hash of its weight files; None for a repository of the Hub.
        layers: of the model; None where the file does not say.
        heads: query heads of a layer; None where the file does not say.
        found_on: `benchmark/split`.
        ranked: heads, best first.
        best: how many of them to use.
        of_heads: score of each head, by layer; () where the file has no such table.
    """

    path: str
    model: str
    checkpoint: str | None
    layers: int | None
    heads: int | None
    found_on: str
    ranked: tuple[Head, ...]
    best: int
    of_heads: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        """Checks the number to use.

        Raises:
            ValueError: none, or more than there are.
        """
        if type(self.best) is not int or not 1 <= self.best <= len(self.ranked):
            raise ValueError(f"best={self.best}: must be 1 to {len(self.ranked)}, its heads")

    def check_run(
        self, model: str, checkpoint: str | None, evaluated: str | None, field: str
    ) -> None:
        """Checks a use of it.

        Args:
            model: name or path of the checkpoint in use.
            checkpoint: hash of its weight files; None for a repository of the Hub.
            evaluated: `benchmark/split`; None for a video of the user's own.
            field: what errors call it.

        Raises:
            ValueError: it was found on another model, or on the split that is evaluated.
        """
        known = self.checkpoint is not None and checkpoint is not None
        same = self.checkpoint == checkpoint if known else _last(self.model) == _last(model)
        if not same:
            reason = (
                "the weights differ" if _last(self.model) == _last(model) else f"not of {model}"
            )
            raise ValueError(
                f"{field}={self.path}: holds heads of the model {self.model}, {reason}; find those of the model in use "
                f"with x2l-calibrate model={model}"
            )
        if self.found_on == evaluated:
            raise ValueError(
                f"{field}={self.path}: its heads were found on {self.found_on}, the split that is evaluated; calibrate "
                "on another one, or evaluate another"
            )


def load_calibration(path: str | Path, score: str, field: str) -> Calibration:
    """Reads what `x2l-calibrate` wrote, or a published head-score file of MMRetHead (arXiv 2605.27243).

    Args:
        path: of the JSON file; or `x2l_tiny_heads`, those of x2l_tiny that are in the package.
        score: of the two that x2l-calibrate writes, `keys` or `attention`; a published file has one.
        field: what errors call it.

    Raises:
        ValueError: no such file, or none of these.
    """
    try:
        file = PACKAGED.get(str(path), Path(path).expanduser())
        values = json.loads(file.read_text(encoding="utf-8-sig"))
        if "head_score_list" in values:
            return _published(str(path), values)
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, this version reads {FORMAT}")
        by_score = values["scores"][score]
        return Calibration(
            path=str(path),
            model=values["model"],
            checkpoint=values["checkpoint"],
            layers=values["layers"],
            heads=values["heads"],
            found_on=values["found_on"],
            ranked=ranked(by_score["of_heads"]),
            best=by_score["best"],
            of_heads=tuple(map(tuple, by_score["of_heads"])),
        )
    except OSError as error:
        raise ValueError(
            f"{field}={path}: cannot be read ({error.strerror}); make it with x2l-calibrate, or give a list of "
            "[layer, head]"
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{field}={path}: is no calibration of heads ({error}); make one with x2l-calibrate, or give a list of "
            "[layer, head]"
        ) from error


def _published(path: str, values: Mapping[str, Any]) -> Calibration:
    """`head_score_list` holds ["layer-head", score], best first; `args` says of which model and how many to use."""
    args = values["args"]
    _check_finite(score for _, score in values["head_score_list"])
    heads = [tuple(map(int, name.split("-"))) for name, _ in values["head_score_list"]]
    return Calibration(
        path=path,
        model=args["model"],
        checkpoint=None,
        layers=None,
        heads=None,
        found_on=" + ".join(args["tasks"]),
        ranked=tuple((layer, head) for layer, head in heads),
        best=min(int(args.get("union_top_k", len(heads))), len(heads)),
    )


def ranked(scores: Sequence[Sequence[float]]) -> tuple[Head, ...]:
    """Heads by score, best first, of `[layer][head]`; of equal ones the earlier first.

    Raises:
        ValueError: a score that is no number, which would have any rank.
    """
    _check_finite(score for row in scores for score in row)
    flat = {(layer, head): s for layer, row in enumerate(scores) for head, s in enumerate(row)}
    return tuple(sorted(flat, key=lambda head: (-flat[head], head)))


def _check_finite(scores: Iterable[float]) -> None:
    if wrong := [score for score in scores if not math.isfinite(score)]:
        raise ValueError(f"a score of {wrong[0]}: must be a finite number")


def heads_of(
    value: Any, score: str, field: str
) -> tuple[tuple[Head, ...] | None, Calibration | None]:
    """Heads as a configuration gives them: null (all), a list of [layer, head], or a calibration file.

    Raises:
        ValueError: none of these.
    """
    if value is None:
        return None, None
    if isinstance(value, str):
        calibration = load_calibration(value, score, field)
        return calibration.ranked[: calibration.best], calibration
    try:
        heads = tuple((layer, head) for layer, head in value)
    except (TypeError, ValueError):
        heads = ()
    if not heads or not all(type(part) is int and part >= 0 for head in heads for part in head):
        raise ValueError(
            f"{field}={value}: must be null (all heads), a list of [layer, head] counted from 0 such as [[0, 3]], or "
            "the path of a file that x2l-calibrate wrote"
        )
    return tuple(dict.fromkeys(heads)), None


def _last(model: str) -> str:
    """The checkpoint's own name, wherever it lies."""
    return Path(model).name.lower()
