"""Where yaml files are: x2l's own, and the variable that names a folder of the user's."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# Inside the package in a wheel, where a `conf` beside it is somebody else's; top level in a checkout.
# Absolute: a relative path would not be found from a console script.
CONF = next(path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if path.is_dir())
CONFIG_DIR = "X2L_CONFIG_DIR"
