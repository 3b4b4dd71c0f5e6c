"""The console script `x2l`: a TAB of the shell is answered here, without Hydra; all else is `run.py`'s.

Hydra's own completion takes a second where it lists all groups, most of it to import and to compose.
"""

import os
import sys
from collections.abc import Sequence

FLAGS = ("-sc", "--shell-completion")


def main() -> None:
    """Completion, or the application."""
    words = sys.argv[1:]
    action = words[1] if len(words) == 2 and words[0] in FLAGS else ""
    if action in ("install=bash", "install=zsh"):
        from x2l.cli.completion import SCRIPT, SCRIPT_OF_ZSH

        print(SCRIPT if action.endswith("bash") else SCRIPT_OF_ZSH + SCRIPT)
    elif action in ("query=bash", "query=zsh"):
        print(" ".join(_answers()))
    else:
        from x2l.cli.run import main as run

        run()


def _answers() -> Sequence[str]:
    from x2l.cli.completion import suggestions
    from x2l.cli.folders import CONF, CONFIG_DIR

    line = os.environ.get("COMP_LINE", "")
    point = os.environ.get("COMP_POINT", "")
    line = line[: int(point)] if point.isdigit() else line
    words = line.split()[1:]
    return suggestions(
        [*words, ""] if line[-1:].isspace() else words, CONF, os.environ.get(CONFIG_DIR)
    )
