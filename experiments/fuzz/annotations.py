"""Every field of every annotation layout with wrong values, as the tests have them."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.fuzz.run import Ending, spread
from tests.benchmarks.test_annotation_values import SETS, WRONG, changed, places, plain
from x2l.benchmarks.annotation_row import Row
from x2l.benchmarks.base import DatasetError
from x2l.benchmarks.dataset_folder import Folder


class _Changed:
    """Stands in for `Folder.rows`: the first row of the first file that was read has a value of ours."""

    def __init__(self) -> None:
        self.whole, self.kept = Folder.rows, dict[tuple[str, ...], list[Row]]()
        self.change: tuple[Any, Any] | None = None

    def rows(self, folder: Folder, *names: str) -> list[Row]:
        """The rows, read once."""
        if names not in self.kept:
            self.kept[names] = self.whole(folder, *names)
        found = self.kept[names]
        if self.change is None or names != next(iter(self.kept)):
            return found
        return [Row(changed(dict(found[0]), *self.change), found[0].path, 0), *found[1:]]


def cases(share: float) -> Iterator[Ending]:
    """Every wrong value at every place of a file's first row."""
    for name, (write, read) in SETS.items():
        with tempfile.TemporaryDirectory() as root:
            write(Path(root))
            ours = _Changed()
            Folder.rows = lambda folder, *names, ours=ours: ours.rows(folder, *names)  # type: ignore
            try:
                read(root)
                first = dict(next(iter(ours.kept.values()))[0])
                tries = [(at, wrong) for at in places(first) for wrong in WRONG]
                for at, wrong in spread(tries, share):
                    ours.change = (at, wrong)
                    yield (
                        f"{name} {'.'.join(map(str, at))}={json.dumps(wrong)}",
                        _ending(read, root),
                    )
            finally:
                Folder.rows = ours.whole  # type: ignore[method-assign]


def _ending(read: Any, root: str) -> str:
    try:
        plain(read(root).samples())
    except DatasetError as error:
        return "several lines" if "\n" in str(error) else "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "read"
