"""A measurement in a process of its own that shares what this one has imported. Imports nothing beyond Python."""

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any


def forked(measure: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What `measure` returns, through JSON.

    Raises:
        RuntimeError: it failed; the child has printed why.
    """
    read, write = os.pipe()
    sys.stdout.flush()
    number = os.fork()
    if number == 0:
        code = 1
        try:
            os.close(read)
            with os.fdopen(write, "w") as pipe:
                json.dump(measure(*arguments, **options), pipe)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)  # what the parent has open is not this process's to end
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    _, status = os.waitpid(number, 0)
    if status:
        raise RuntimeError(f"{measure.__name__}: its process ended with {status}")
    return json.loads(said)
