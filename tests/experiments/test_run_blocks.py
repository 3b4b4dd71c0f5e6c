"""The script that executes every block of README and docs."""

from experiments.docs.run_blocks import LEFT_OUT, ROOT, Block, blocks, run


def test_what_is_left_out_is_there_and_something_is_run():
    found = blocks(ROOT)
    for page, start, _ in LEFT_OUT:
        commands = [command for block in found if block.page == page for command in block.commands]
        assert any(command.startswith(start) for command in commands), (page, start)
    runs = [block.name for block in found if block.script()]
    assert len([name for name in runs if name.startswith("README.md")]) == 3


def test_blocks_are_found_in_order_with_whole_commands(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("```sh\none \\\n  two\n\n# no command\nthree\n```\n")
    (tmp_path / "README.md").write_text("text\n\n```sh\nfirst\n```\n```python\nx\n```\n")
    assert blocks(tmp_path) == [
        Block("README.md", 3, ("first",)),
        Block("docs/a.md", 1, ("one    two", "three")),
    ]


def test_each_block_has_a_fresh_shell_and_stops_at_what_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINE", "set")
    log = tmp_path / "log"
    good = Block("README.md", 1, ("x=1; export x", "echo [$MINE] > seen"))
    assert run(good, tmp_path, log, 60) and (tmp_path / "seen").read_text() == "[]\n"
    assert run(Block("README.md", 2, ('test -z "$x"',)), tmp_path, log, 60)
    bad = Block("README.md", 3, ("false | cat", "touch never"))
    assert not run(bad, tmp_path, log, 60) and not (tmp_path / "never").exists()
    assert not run(Block("README.md", 4, ("sleep 9",)), tmp_path, log, 0.1)
    assert "README.md:3" in (said := capsys.readouterr().out) and "FAILED (1)" in said
