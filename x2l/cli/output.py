"""What every command says and how it ends: text on its output, one line for an error."""

import os
import sys
from typing import NoReturn


def show(*lines: str) -> bool:
    """Prints lines at once.

    A reader that has seen enough (`| head`) ends the printing, not the command: what it writes to files, and its exit
    status, stay what they are.

    Returns:
        Whether anybody still reads.
    """
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:
        # Python would try to write the rest when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def fail(message: str, code: int = 2) -> NoReturn:
    """Ends the command with one line that says why.

    Args:
        message: names the field or file, the value, the rule and the remedy.
        code: the exit status; 2 is what the user can correct.
    """
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
