"""What a selector is to the claim. Imports nothing, so that light modules can use it."""

from typing import Literal, get_args

# `method`: sees the question. `control`: does not. `bound`: was told where the answer lies, or spends a bound's bytes.
Role = Literal["method", "control", "bound"]
ROLES: tuple[Role, ...] = get_args(Role)
