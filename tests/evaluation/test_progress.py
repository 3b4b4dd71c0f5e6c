import logging

import pytest

from x2l.evaluation import progress
from x2l.evaluation.progress import Progress


class Screen:
    def __init__(self, tty):
        self.tty, self.text = tty, ""

    def isatty(self):
        return self.tty

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when the test says so."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then_with_the_time_left(monkeypatch, caplog, clock):
    screen = Screen(tty=False)
    monkeypatch.setattr("sys.stderr", screen)
    caplog.set_level(logging.INFO)
    with Progress(10, "questions", every=15) as bar:
        for _ in range(4):
            clock[0] += 10
            bar.advance()
    assert [record.getMessage() for record in caplog.records] == [
        "questions 2/10, about 80 s left",
        "questions 4/10, about 60 s left",
    ]
    assert screen.text == ""


def test_a_terminal_gets_a_bar_and_the_log_nothing(monkeypatch, caplog):
    screen = Screen(tty=True)
    monkeypatch.setattr("sys.stderr", screen)
    caplog.set_level(logging.INFO)
    with Progress(2, "questions", every=0) as bar:
        bar.advance()
        bar.advance()
    assert "questions" in screen.text and "2/2" in screen.text
    assert caplog.records == []


def test_both_numbers_can_be_told(monkeypatch, caplog, clock):
    monkeypatch.setattr("sys.stderr", Screen(tty=False))
    caplog.set_level(logging.INFO)
    with Progress(1, "chunks", every=15) as bar:
        for done in (1, 2, 3):
            clock[0] += 10
            bar.at(done, 6)
    assert [record.getMessage() for record in caplog.records] == ["chunks 2/6, about 40 s left"]
