"""Notebooks under test (pytest-nbmake) write to a folder of their own and look at no sweep that happens to be there."""

import tempfile
from pathlib import Path

import pytest

from tests.fork_server import give_kernels


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """Runs one notebook."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("X2L_OUTPUTS", folder)
        patch.delenv("X2L_SWEEP", raising=False)
        give_kernels(patch, Path(folder))
        return (yield)
