"""Files that appear under their names only when they are whole."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Inside, the file to write; it takes the place of `path` in one step at the end, or goes where an error ends it.

    A reader sees the old file or the new one, never a half. Several processes may write one `path`: the last one stays.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
