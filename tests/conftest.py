"""Shared by all tests."""

import x2l.models  # noqa: F401 - declares torchvision's operators before any test imports transformers
