"""What every command says and how it ends: text on its output, one line for an error."""

import errno
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from typing_extensions import override

from x2l import UserError

# Of the system: what the user can correct, and how.
_REMEDIES = {
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.EROFS: "name another place",
    errno.ENOSPC: "make room, then run it again",
    errno.EDQUOT: "make room, then run it again",
    errno.ENOTDIR: "name a folder",
    errno.EISDIR: "name a file",
    errno.EEXIST: "name another place",
    errno.ELOOP: "remove the link that leads to itself",
    errno.ENAMETOOLONG: "use a shorter name",
}


@contextmanager
def command() -> Iterator[None]:
    """Around all of a command: streams that can be used, and an end with one line whatever the user can correct."""
    _open_streams()
    # A line of the log that cannot be written is told once, at the end, not each with a traceback.
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
        if (lost := getattr(sys.stdout, "lost", None)) is not None:
            raise lost
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except UserError as error:
        fail(str(error))
    except OSError as error:
        if (line := system_error(error)) is None:
            raise
        fail(line)
    finally:
        logging.raiseExceptions = before


def system_error(error: OSError) -> str | None:
    """File, what the system says of it, and the remedy, in a line; None where it is no matter of the user's."""
    if (remedy := _REMEDIES.get(error.errno or 0)) is None:
        return None
    name = os.fspath(error.filename) if error.filename is not None else "output"
    return f"{os.fsdecode(name)}: {(error.strerror or '').lower()}; {remedy}"


def _open_streams() -> None:
    """Closed ones lead nowhere; a character that cannot be shown is shown by its number; a reader may go."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            # At once: its number would go to the next file, and whatever a library prints would be in that.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif mode == "w" and type(stream) is io.TextIOWrapper:
            setattr(sys, name, _Output(stream))


class _Output(io.TextIOWrapper):
    """Standard output or error. A reader that has seen enough (`| head`) ends the printing, not the command. Final.

    Attributes:
        gone: whether nobody reads any more.
        lost: why text was lost that somebody would have read (a full disk).
    """

    gone = False
    lost: OSError | None = None

    def __init__(self, stream: io.TextIOWrapper) -> None:
        """Takes the place of a stream, which must stay open."""
        self._stream = stream
        buffering = stream.line_buffering
        super().__init__(
            stream.buffer, stream.encoding, "backslashreplace", line_buffering=buffering
        )

    @override
    def write(self, text: str) -> int:
        with self._left():
            super().write(text)
        return len(text)

    @override
    def flush(self) -> None:
        with self._left():
            super().flush()

    @contextmanager
    def _left(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # Python would try to write the rest when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            self.gone = True
            if not isinstance(error, BrokenPipeError):
                self.lost = error
                raise


def show(*lines: str) -> bool:
    """Prints lines at once.

    Where nobody reads any more, what the command writes to files, and its exit status, stay what they are.

    Returns:
        Whether anybody still reads.
    """
    print(*lines, sep="\n", flush=True)
    return not getattr(sys.stdout, "gone", False)


def fail(message: str, code: int = 2) -> NoReturn:
    """Ends the command with one line that says why.

    Args:
        message: names the field or file, the value, the rule and the remedy.
        code: the exit status; 2 is what the user can correct.
    """
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
