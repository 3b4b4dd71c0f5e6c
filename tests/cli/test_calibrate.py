"""`x2l-calibrate` finds the head of x2l_tiny that finds things, and says where it may be used."""

import json

import pytest

from x2l.cli.calibrate import main
from x2l.selectors.calibration import load_calibration, ranked


@pytest.mark.slow
def test_three_questions_find_the_head(tmp_path, capsys):
    out = tmp_path / "sub" / "heads.json"
    main(
        [
            "--questions",
            "3",
            "--out",
            str(out),
            f"paths.data={tmp_path}",
            "benchmark.seconds=32",
            "video.frames=32",
        ]
    )
    values = json.loads(out.read_text())
    assert ranked(values["scores"]["keys"]["of_heads"])[0] == (0, 3)
    assert values["found_on"] == "needle/train" and values["questions"] == 3
    assert values["checkpoint"] and len(values["fingerprint"]) == 32
    assert out.with_suffix(".png").stat().st_size > 5000
    assert "heads     (0, 3)" in capsys.readouterr().out
    found = load_calibration(out, "keys", "f")
    assert (found.layers, found.heads, found.best) == (6, 4, 1)
    with pytest.raises(ValueError, match="the split that is evaluated"):
        found.check_run("x2l_tiny", values["checkpoint"], "needle/train", "f")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--questions", "0"], "--questions 0: must be at least 1"),
        (["no.such=1"], "no.such: there is no such setting"),
    ],
)
def test_what_cannot_work_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
