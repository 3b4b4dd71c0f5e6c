"""Shared by all tests."""

import gc
import os

import pytest

from tests import fork_server


def pytest_collectstart():
    """Not in the process that only hands tests to others, which collects nothing."""
    gc.disable()  # what imports and collection make is not garbage
    import x2l.models  # noqa: F401 - declares torchvision's operators before any test imports transformers


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes():
    """Before the workers start, which inherit it: one server for all of them."""
    os.environ[fork_server.SHARED] = fork_server.address()
