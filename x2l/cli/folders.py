"""Where yaml files are: x2l's own, and the variable that names a folder of the user's."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# Top level in a checkout, inside the package in a wheel. Absolute: a relative path would not be
# found from a console script.
CONF = next(path for path in (PACKAGE.parent / "conf", PACKAGE / "conf") if path.is_dir())
CONFIG_DIR = "X2L_CONFIG_DIR"
