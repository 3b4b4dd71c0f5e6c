"""Commands that the user is told, so that they run when they are pasted into a shell, whatever folders are called."""

import re
import shlex
from pathlib import Path


def word(text: str | Path) -> str:
    """A path as one word of a shell, which no command takes for an option."""
    path = str(text)
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


def override(key: str, value: str | Path) -> str:
    """`key=value` in Hydra's grammar, for a text that may hold what means something there."""
    text = str(value)
    plain = re.fullmatch(r"[A-Za-z_/.][A-Za-z0-9_/.-]*", text)
    if plain and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return f"{key}={text}"
    quoted = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"{key}='{quoted}'"


def setting(key: str, value: str | Path) -> str:
    """The same as one word of a shell."""
    return shlex.quote(override(key, value))
