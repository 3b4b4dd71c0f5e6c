"""A worker thread that makes items beforehand: same items, bounded, and gone however its block is left."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest

from x2l.engine.ahead import ahead

MANY = 50


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not [one for one in threading.enumerate() if one.name == "x2l-ahead"]


def test_same_items_in_the_same_order_from_another_thread():
    makers = set()

    def items():
        for number in range(100):
            makers.add(threading.get_ident())
            yield number

    with ahead(items()) as made:
        assert list(made) == list(range(100))
        assert list(made) == []  # and it stays at its end
    assert makers.isdisjoint({threading.get_ident()})


class Item:
    pass


def test_no_more_are_made_than_may_wait():
    alive, reached = [], threading.Event()

    def items():
        for number in itertools.count():
            item = Item()
            alive.append(weakref.ref(item))
            if number == 2:
                reached.set()
            yield item
            del item

    with ahead(items(), most=3) as made:
        assert reached.wait(10)
        for _ in range(20):
            item = next(made)
            assert (
                sum(one() is not None for one in alive) <= 3 + 2
            )  # waiting, in the making, and ours
            del item
    assert len(alive) <= 20 + 4


def test_an_error_comes_after_the_items_before_it_and_the_thread_has_ended():
    def items():
        yield 1
        yield 2
        raise KeyError("three")

    for _ in range(MANY):
        with pytest.raises(KeyError, match="three"), ahead(items()) as made:
            assert (next(made), next(made)) == (1, 2)
            next(made)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_leaving_early_ends_the_thread_wherever_it_is(error):
    for taken in range(MANY):
        closed = threading.Event()

        def items(closed=closed):
            try:
                yield from itertools.count()
            finally:
                closed.set()

        with pytest.raises(error), ahead(items()) as made:
            list(itertools.islice(made, taken % 5))
            raise error
        assert closed.is_set()


def test_a_block_that_takes_nothing_ends_too():
    for _ in range(MANY):
        with ahead(iter(range(10))):
            pass


WAITS = """
import itertools, time
from x2l.engine.ahead import ahead
def items():
    yield 0
    while True:
        time.sleep(0.01)
        print("waiting", flush=True)
with ahead(itertools.islice(items(), 1)) as made, ahead(iter(range(9))) as other:
    next(made), next(other)
    print("ready", flush=True)
    import threading; threading.Event().wait()
"""


def test_ctrl_c_ends_a_process_that_waits():
    running = subprocess.Popen(
        [sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout.readline() == "ready\n"
    time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == -signal.SIGINT and "KeyboardInterrupt" in said
    assert not os.path.exists(f"/proc/{running.pid}")
