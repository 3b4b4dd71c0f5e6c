"""What differs between the versions of transformers that x2l runs on; docs/versions.md says which were tried."""

import transformers
from packaging.version import Version

running = Version(transformers.__version__)
# Name of a forward's argument for the cache: the old one warns since 5.24.
CACHE = "cache" if running >= Version("5.24") else "past_key_values"
