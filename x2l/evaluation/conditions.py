"""The cells of a run: which selector at which top_k answers a question. Knows nothing of models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from x2l.benchmarks.base import Sample
from x2l.engine.taking import TOP
from x2l.engine.top_k import GT, TASK
from x2l.evaluation.settings import Settings
from x2l.runs.condition import Condition
from x2l.runs.records import RecordKey
from x2l.runs.run_info import checkpoint_digest
from x2l.selectors.base import ChunkSelector, RunFacts
from x2l.selectors.controls import MatchedRandomSelector, SelectNone
from x2l.selectors.from_file import FileSelector, video_key
from x2l.selectors.roles import Role


@dataclass(frozen=True)
class Cell:
    """A condition, and the selector that gives its answers.

    Attributes:
        condition: what records carry.
        selector: of that condition.
        matched_to: another cell whose re-loaded bytes are matched, question by question; top_k is then only its name.
    """

    condition: Condition
    selector: ChunkSelector
    matched_to: Cell | None = None

    def key(self, sample: Sample) -> RecordKey:
        """The key of this cell's record for a sample."""
        return self.condition, sample.id


def cells(
    selectors: Mapping[str, ChunkSelector],
    settings: Settings,
    benchmark: str = "",
    protocol: str = "",
) -> tuple[Cell, ...]:
    """Every (selector, taking rule, top_k) of a run, each once, in the order given.

    Controls of fewer frames have one cell a top_k, whatever the selectors: only the number of re-loaded chunks counts.

    Args:
        selectors: by the names that records give them.
        settings: of the run.
        benchmark: its name.
        protocol: the rules that answers are scored by.

    Raises:
        ValueError: a selector cannot work in this run, or is to be matched to one that the run does not have.
    """
    facts = RunFacts(
        settings.model,
        checkpoint_digest(settings.model),
        settings.evaluated if benchmark else None,
        {level.name: level.ratio is None for level in settings.levels},
    )
    for selector in selectors.values():
        selector.check(facts)

    def cell(
        name: str,
        selector: ChunkSelector,
        config: str,
        top_k: int | str | None,
        pinned: tuple[str, ...],
        matched_to: Cell | None = None,
        taking: str = TOP,
    ) -> Cell:
        condition = Condition(
            model=settings.model,
            benchmark=benchmark,
            protocol=protocol,
            dtype=settings.dtype,
            frames=settings.frames,
            fps=settings.fps,
            chunk_frames=settings.chunk_frames,
            levels=settings.levels,
            context=settings.context,
            positions=settings.positions,
            control=settings.control,
            selector=name,
            single_level=_single_level(selector, settings),
            role=_role(selector, top_k, matched_to),
            top_k=top_k,
            pinned=pinned,
            taking=taking,
            seed=settings.seed,
            selector_config=config,
            run_id=settings.run_id,
        )
        return Cell(condition, selector, matched_to)

    if settings.fewer_frames:
        selectors = {"none": SelectNone()}
    groups: dict[str, list[Cell]] = {}
    for name, selector in selectors.items():
        config, top_ks = _selector_config(selector), dict.fromkeys(settings.top_k)
        if isinstance(selector, MatchedRandomSelector):
            groups[name] = []  # keeps its place in the order
        elif _single_level(selector, settings) is not None:
            groups[name] = [cell(name, selector, config, None, ())]
        else:
            groups[name] = [
                cell(name, selector, config, k, settings.pinned, taking=taking)
                for taking in ((TOP,) if settings.fewer_frames else dict.fromkeys(settings.taking))
                for k in top_ks
            ]
    for name, selector in selectors.items():
        if isinstance(selector, MatchedRandomSelector):
            for other in _partners(name, selector, groups, settings):
                partner = other.condition  # what it is belongs to the settings of its match
                config = _short(f"{selector!r} {partner.selector_config} {partner.pinned}")
                groups[name].append(
                    cell(name, selector, config, partner.top_k, (), other, partner.taking)
                )
    return tuple(cell for group in groups.values() for cell in group)


def _single_level(selector: ChunkSelector, settings: Settings) -> str | None:
    """The level that every chunk has; controls of fewer frames have none, as their chunks are not the method's."""
    if selector.single_level is None or settings.fewer_frames:
        return None
    return settings.level_names[0 if selector.single_level == "finest" else -1]


def _role(selector: ChunkSelector, top_k: int | str | None, matched_to: Cell | None) -> Role:
    spends_bound = matched_to is not None and matched_to.condition.role == "bound"
    return "bound" if top_k == GT or spends_bound else selector.role


def _partners(
    name: str,
    selector: MatchedRandomSelector,
    groups: Mapping[str, Sequence[Cell]],
    settings: Settings,
) -> Sequence[Cell]:
    """The cells whose bytes a selector matches.

    Raises:
        ValueError: there are none, or more than two levels.
    """
    if len(settings.levels) > 2:
        raise ValueError(
            f"selector.{name}: matches the bytes of two levels only; with levels "
            f"{', '.join(settings.level_names)} use selector=random, whose ladders and budgets spend the same"
        )
    if not (partners := groups.get(selector.to)):
        raise ValueError(
            f"selector.{name}.to={selector.to}: must be another selector of the run, with a choice of its own; "
            f"there are {', '.join(n for n in groups if groups[n])}; add it to selector=[...]"
        )
    return partners


def check_samples(samples: Sequence[Sample], cells: Sequence[Cell], settings: Settings) -> None:
    """Checks that every cell can answer every sample.

    Raises:
        ValueError: a cell needs to know where the answer lies and the benchmark does not say; a task has no top_k; or
            a file of chosen chunks lacks a question or is for more chunks than videos have.
    """
    unknown = [sample.id for sample in samples if sample.spans is None]
    for cell in cells:
        condition = cell.condition
        if unknown and condition.role == "bound":
            field = "top_k=gt" if condition.top_k == GT else f"selector={condition.selector}"
            raise ValueError(
                f"{field}: the benchmark does not say where the answer to {unknown[0]} lies "
                f"(nor for {len(unknown) - 1} more questions); leave it out here"
            )
        if isinstance(cell.selector, FileSelector):
            _check_file(cell.selector, samples, settings.most_chunks)
    tasks = {sample.task for sample in samples} - set(settings.top_k_by_task)
    if TASK in settings.top_k and tasks:
        raise ValueError(
            f"selection.top_k_by_task={dict(settings.top_k_by_task)}: has no top_k for {', '.join(sorted(tasks))}; "
            "add them, or choose benchmark.tasks"
        )


def _check_file(selector: FileSelector, samples: Sequence[Sample], most: int | None) -> None:
    missing = [s for s in samples if not selector.knows(s.video, s.question)]
    if missing:
        raise ValueError(
            f"selector.file.path={selector.path}: has no entry {video_key(missing[0].video, missing[0].question)!r} "
            f"(nor for {len(missing) - 1} more questions); make them, or set selector.file.missing=none to re-load "
            "nothing there"
        )
    for s in samples:
        least = selector.least_chunks(s.video, s.question)
        if most is not None and least > most:
            raise ValueError(
                f"selector.file.path={selector.path}: entry {video_key(s.video, s.question)!r} is for {least} chunks "
                f"or more, but videos have {most} at most; video.frames, video.fps, prefill.chunk_frames must be those "
                "of the file"
            )


def _selector_config(selector: ChunkSelector) -> str:
    """Short hash of a selector's class and settings: its repr, as selectors are dataclasses."""
    text = repr(selector)
    if " at 0x" in text:
        raise TypeError(f"selector {text}: must be a frozen dataclass, so that its settings show")
    return _short(text)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
