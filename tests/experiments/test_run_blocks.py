"""The script that executes every block of README and docs."""

import json

from experiments.docs.run_blocks import LEFT_OUT, ROOT, SERVES, Block, blocks, main, run


def test_what_is_left_out_is_there_and_something_is_run():
    found = blocks(ROOT)
    for page, start in [*(entry[:2] for entry in LEFT_OUT), *SERVES]:
        commands = [command for block in found if block.page == page for command in block.commands]
        assert any(command.startswith(start) for command in commands), (page, start)
    runs = [block.python for block in found if block.page == "README.md" and block.script()]
    assert runs.count(False) == 3 and runs.count(True) == 1


def test_blocks_are_found_in_order_with_whole_commands(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("```sh\none \\\n  two\n\n# no command\nthree\n```\n")
    (tmp_path / "README.md").write_text(
        "text\n\n```sh\nfirst\n```\n```python\nx = 'a'\n```\n```py\nno\n```\n"
    )
    first, python, later = blocks(tmp_path)
    assert first == Block("README.md", 3, ("first",))
    assert python.python and python.name == "README.md:6" and "activate" in python.script()
    assert later == Block("docs/a.md", 1, ("one    two", "three"))


def test_each_block_has_a_fresh_shell_and_stops_at_what_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("MINE", "set")
    log = tmp_path / "log"
    good = Block("README.md", 1, ("x=1; export x", "echo [$MINE] > seen"))
    assert run(good.script(), tmp_path, log, 60) == "ok"
    assert (tmp_path / "seen").read_text() == "[]\n"
    assert run(Block("README.md", 2, ('test -z "$x"',)).script(), tmp_path, log, 60) == "ok"
    bad = Block("README.md", 3, ("false | cat", "touch never")).script()
    assert "status 1" in run(bad, tmp_path, log, 60) and not (tmp_path / "never").exists()
    assert "0.1 s" in run(Block("README.md", 4, ("sleep 9",)).script(), tmp_path, log, 0.1)


def test_python_is_run_and_what_serves_is_stopped(tmp_path, monkeypatch):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text('python() { echo "$2"; }\n')
    (tmp_path / "README.md").write_text('```python\nprint("it\'s")\n```\n')
    (block,) = blocks(tmp_path)
    assert run(block.script(), tmp_path, tmp_path / "log", 60) == "ok"
    assert (tmp_path / "log").read_text() == 'print("it\'s")\n\n'
    monkeypatch.setattr("experiments.docs.run_blocks.SERVES", (("README.md", "sleep"),))
    monkeypatch.setattr("experiments.docs.run_blocks.SERVING", 0.2)
    serves = Block("README.md", 1, ("sleep 9   # until it is stopped", "touch after"))
    assert run(serves.script(), tmp_path, tmp_path / "log", 60) == "ok"
    assert (tmp_path / "after").exists()
    ends = Block("README.md", 1, ("sleep -x",))
    assert run(ends.script(), tmp_path, tmp_path / "log", 60) == "FAILED: exit status 1"


def test_what_is_not_wanted_is_told(capsys):
    assert main(["README.md", "--list", "--without", "make test"]) == 0
    shown = capsys.readouterr().out
    assert "README.md:26" in shown and "left out by --without: make test" in shown
    assert "\nmake test" not in shown and "\nmake demo" in shown


def test_what_was_found_of_other_pages_stays(tmp_path, monkeypatch):
    out = tmp_path / "blocks.json"
    lines = [{"block": f"{page}:1", "state": "old"} for page in ("README.md", "docs/a.md")]
    out.write_text(json.dumps({"blocks": lines, "left_out": lines}))
    block = Block("README.md", 7, ("true", "make test"))
    monkeypatch.setattr("experiments.docs.run_blocks.blocks", lambda root: [block])
    monkeypatch.setattr("experiments.docs.run_blocks.copy_of_checkout", lambda root, to: None)
    work = ["--work", str(tmp_path), "--out", str(out), "--without", "make test"]
    assert main(["README.md", *work]) == 0
    found = json.loads(out.read_text())
    assert [(line["block"], line["state"]) for line in found["blocks"]] == [
        ("docs/a.md:1", "old"),
        ("README.md:7", "ok"),
    ]
    assert [line["block"] for line in found["left_out"]] == ["docs/a.md:1", "README.md:7"]
