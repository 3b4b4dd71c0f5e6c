import os
import subprocess
import sys

import pytest

from tests.cli.test_collect import make_sweep
from x2l.cli.output import fail
from x2l.runs.job_status import StatusFile


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["collect", "--tracker", "none"], 1),  # one run is not done: said all the same
        (["compare", "--json", "--a", "selector=random", "--b", "selector=attention"], 0),
        (["status", "--watch", "60"], 1),  # nobody watches
    ],
)
def test_a_reader_that_has_left_ends_nothing_but_the_printing(tmp_path, command, code):
    folder = make_sweep(tmp_path / "sweep", done=False)
    StatusFile(folder / "full", "full").write("running")
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` that has seen enough
    name, *options = command
    done = subprocess.run(
        [sys.executable, "-m", f"x2l.cli.{name}", str(folder), *options],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=50,
    )
    os.close(writer)
    assert done.returncode == code
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
    assert (folder / "points.csv").exists() == (name == "collect")


def test_a_failure_is_one_line_and_a_status(capsys):
    with pytest.raises(SystemExit) as exit_:
        fail("top_k=0: must be above 0", 3)
    assert exit_.value.code == 3
    assert capsys.readouterr().err == "error: top_k=0: must be above 0\n"


@pytest.mark.parametrize("shell", ['"$@" <&- >&- 2>&-', '"$@" >/dev/full', 'LC_ALL=C "$@"'])
def test_streams_that_cannot_be_used_are_no_traceback(tmp_path, shell):
    folder = make_sweep(tmp_path / "数据 a=[b]", done=False)
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        ["bash", "-c", shell, "", sys.executable, "-m", "x2l.cli.status", str(folder)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    if "full" in shell:
        assert (done.returncode, done.stderr) == (
            2, "error: output: no space left on device; make room, then run it again\n",
        )  # fmt: skip
    else:
        assert (done.returncode, done.stderr) == (1, "")


def test_a_log_that_cannot_be_written_is_told_once():
    """As that of a run, which goes to its output."""
    words = (
        "import logging, sys\n"
        "from x2l.cli.output import command\n"
        "with command():\n"
        "    logging.basicConfig(stream=sys.stdout, level='INFO')\n"
        "    logging.info('one'), logging.info('two')\n"
    )
    done = subprocess.run(
        ["bash", "-c", '"$@" >/dev/full', "", sys.executable, "-c", words],
        capture_output=True,
        text=True,
    )
    told = "error: output: no space left on device; make room, then run it again\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_questions_are_utf8_whatever_the_locale():
    from x2l.cli.ask.command import _question
    from x2l.evaluation.settings import ConfigError

    assert _question("caf\udcc3\udca9?\n") == "café?"
    for wrong in ("caf\udce9?", "W\0h\0o\0"):
        with pytest.raises(ConfigError, match="is not UTF-8"):
            _question(wrong)
