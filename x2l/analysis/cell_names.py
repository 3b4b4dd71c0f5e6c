"""How cells are called: by what tells them apart among those they stand beside. Pure."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from x2l.runs.condition import FULL, Condition, last_resorts, setting_names, trait_label

ALWAYS_NAMED = ("compressor", "control", "selector", "top_k")


@dataclass(frozen=True)
class Names:
    """Names of the cells of one sweep.

    Attributes:
        varying: traits in which its cells differ, beside those that are always named.
        several: selectors of which cells differ in nothing but their settings.
    """

    varying: tuple[str, ...]
    several: frozenset[str]

    def choice(self, condition: Condition) -> str:
        """What chooses the chunks; with its settings where the selector has several."""
        if condition.selector not in self.several:
            return condition.chosen_by
        settings = trait_label("selector_config", condition.selector_config)
        return f"{condition.chosen_by} {settings}"

    def variant(self, condition: Condition) -> str:
        """What else tells the cell apart; may be empty."""
        traits = condition.traits
        if condition.baseline == FULL:
            traits = {name: traits[name] for name in setting_names()}
        words = [trait_label(name, traits.get(name)) for name in self.varying]
        return " ".join(filter(None, words))

    def line(self, condition: Condition) -> str:
        """The cell without its top_k: what is drawn as one line."""
        words = [condition.compressor, condition.baseline or self.choice(condition)]
        words = words[1:] if condition.baseline == FULL else words
        return " ".join(filter(None, [*words, self.variant(condition)]))

    def cell(self, condition: Condition) -> str:
        """The cell."""
        top_k = None if condition.baseline else trait_label("top_k", condition.top_k)
        return " ".join(filter(None, [self.line(condition), top_k]))


def names(conditions: Iterable[Condition]) -> Names:
    """Names of some cells."""
    cells = list(dict.fromkeys(conditions))
    compressed = [cell for cell in cells if cell.baseline != FULL] or cells
    by_selector: dict[str, list[Condition]] = defaultdict(list)
    for cell in cells:
        if cell.baseline is None:
            by_selector[cell.selector].append(cell)
    several = {name for name, of in by_selector.items() if "selector_config" in varying(of)}
    apart = [name for name in varying(compressed) if name not in ALWAYS_NAMED]
    return Names(tuple(n for n in apart if n != "selector_config"), frozenset(several))


def trait_names(conditions: Iterable[Condition]) -> list[str]:
    """Of all traits that some of the conditions have; levels in the order of those that have most."""
    richest = sorted(conditions, key=lambda condition: -len(condition.levels))
    return list(dict.fromkeys(name for condition in richest for name in condition.traits))


def varying(conditions: Iterable[Condition]) -> list[str]:
    """The traits in which some conditions differ.

    Those of last resort are among them only where no other tells two conditions apart (one selector with several
    settings; runs of other benchmark settings): such cells must never be joined to one line.
    """
    conditions = list(dict.fromkeys(conditions))
    traits = [condition.traits for condition in conditions]
    differing = [
        name
        for name in trait_names(conditions)
        if name not in last_resorts() and len({of.get(name) for of in traits}) > 1
    ]
    for name in last_resorts():
        if _kinds(traits, [*differing, name]) > _kinds(traits, differing):
            differing.append(name)
    return differing


def _kinds(traits: Iterable[Mapping[str, Hashable]], by: Sequence[str]) -> int:
    """How many conditions some traits tell apart."""
    return len({tuple(of.get(name) for name in by) for of in traits})


def value_text(value: Hashable) -> str:
    """A trait's value in a column that bears its name; `-` for None and for nothing pinned."""
    if isinstance(value, tuple):
        return "+".join(map(str, value)) or "-"
    return f"{value:g}" if isinstance(value, float) else "-" if value is None else str(value)
