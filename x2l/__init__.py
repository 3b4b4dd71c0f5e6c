"""x2l: how much accuracy a video language model keeps for a given compute when its KV cache is compressed."""

__version__ = "0.1.0"


class UserError(Exception):
    """What the user can correct; the message says how, in one line."""
