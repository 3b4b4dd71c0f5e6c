"""Strange values in place of each value of a config.json."""

import json
from typing import Any

VALUES = (None, "x", [1], -1, 0, 10**9)


def paths(values: dict, above: tuple = ()) -> list[tuple]:
    """Where each value stands, those of mappings inside too, and the mappings themselves."""
    inner = [(*above, key) for key in values]
    for key, value in values.items():
        if isinstance(value, dict):
            inner += paths(value, (*above, key))
    return inner


def replaced(values: dict, path: tuple, value: Any) -> dict:
    """A copy with another value there."""
    copied = json.loads(json.dumps(values))
    holder = copied
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return copied


def accepted(values: dict, load, start: str) -> dict[str, list]:
    """By name of each value, which strange ones `load(values)` takes; all others it must refuse in one line.

    Args:
        values: of a config.json; a strange value that stands there already is left out.
        load: of such values.
        start: of the line.
    """
    taken: dict[str, list] = {}
    for path in paths(values):
        for value in VALUES:
            changed = replaced(values, path, value)
            if changed == values:
                continue
            try:
                load(changed)
            except (ValueError, OSError) as error:
                said = str(error)
                assert said.startswith(start) and len(said.splitlines()) == 1, (path, value, said)
            else:
                taken.setdefault(".".join(path), []).append(value)
    return taken
