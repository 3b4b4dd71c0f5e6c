"""Figures of the experiments: records in; figure, tables and one sentence out, whatever the records say."""

import json
import re
import shutil
from dataclasses import replace
from itertools import combinations

import pytest
from matplotlib.colors import to_hex

from experiments.paper import make
from experiments.paper.answers import Answers, load, read_sweep, save
from experiments.paper.figures import paper_haystack
from experiments.paper.kit.cells import cells_of
from experiments.paper.kit.output import result_of, write
from experiments.paper.kit.pairs import Pair, family
from experiments.paper.kit.remarks import REMARK
from experiments.paper.kit.spec import SOURCED, Reported
from experiments.paper.kit.tables import Table, latex, markdown
from experiments.paper.page import Shown, page
from tests import paper_records
from tests.synthetic import record
from x2l.analysis.figure_style import OTHERS
from x2l.runs.records import RecordWriter
from x2l.runs.run_info import RUN


def result(name, records=None):
    return result_of(make.spec_of(name), paper_records.of(name) if records is None else records)


def drawn(figure):
    """(label, line) of everything that a legend would name."""
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            yield label, getattr(handle, "lines", [handle])[0]


@pytest.mark.parametrize("name", make.NAMES)
def test_an_experiment_becomes_a_figure_tables_and_a_sentence(name):
    records = paper_records.of(name)
    whole = result(name, records)
    assert all(axes.has_data() for axes in whole.figure.axes)
    assert whole.tables and all(table.rows for table in whole.tables)
    for text in (whole.finding, *map(markdown, whole.tables), *whole.notes):
        assert "nan" not in text and "None" not in text, text
    assert whole.finding.endswith(".") and re.search(r"\d", whole.finding)
    for label, line in drawn(whole.figure):
        if "Video-XL" not in label:
            continue
        assert (line.get_markerfacecolor(), to_hex(line.get_markeredgecolor())) == ("white", OTHERS)
        assert line.get_linestyle() in (":", "None")


def by_label(figure):
    """Panels over one thing: (label of the lower axis, the panels)."""
    labels = sorted({axes.get_xlabel() for axes in figure.axes} - {""})
    return [(x, [axes for axes in figure.axes if axes.get_xlabel() == x]) for x in labels]


def test_panels_over_one_thing_have_one_range_and_the_same_ticks():
    """Whatever each shows: kmeans with the oracle takes a tenth of the others' bytes."""
    records = [
        replace(r, answer=replace(r.answer, kv_bytes_stored=r.answer.kv_bytes_stored // 10))
        if (r.condition.compressor, r.condition.selector) == ("kmeans", "oracle")
        else r
        for r in paper_records.of("paper_chunk_size")
    ]
    ((_, panels),) = by_label(result("paper_chunk_size", records).figure)
    assert len(panels) == 6
    assert len({axes.get_xlim() for axes in panels}) == 1
    assert (
        len({tuple(label.get_text() for label in axes.get_xticklabels()) for axes in panels}) == 1
    )
    low, high = panels[0].get_xlim()
    for axes in panels:
        for container in axes.containers:
            assert low < min(container[0].get_xdata()) <= max(container[0].get_xdata()) < high


def test_a_panel_with_one_point_does_not_widen_the_range_of_others():
    """As while a sweep goes on: matplotlib alone gives one point two decades."""
    whole = paper_records.of("ladder")
    started = [r for r in whole if r.condition.compressor == "kmeans" and r.condition.single_level]
    first = [r for r in started if r.condition.run_id == started[0].condition.run_id][:8]
    records = [r for r in whole if r.condition.compressor != "kmeans"] + first
    one, other = (result("ladder", some).figure.axes[-1] for some in (records, whole))
    assert one.get_xlim() == pytest.approx(other.get_xlim(), rel=0.1)


BESIDE = ("main", "hit_rate", "base_ratio", "context", "positions", "selectors")


@pytest.mark.parametrize("name", [f"paper_{name}" for name in BESIDE])
def test_no_two_intervals_lie_on_each_other(name):
    """Of different lines: two cells of one may have the same hit rate."""
    for axes in result(name).figure.axes:
        if "choosing" in axes.get_xlabel():
            continue  # a plane of points: what takes nothing stands at one place
        places = [
            (round(x, 6), min(low, high), max(low, high), line)
            for line, container in enumerate(axes.containers)
            for bars in container[2]
            for (x, low), (other, high) in bars.get_segments()
            if x == other
        ]
        for one, two in combinations(places, 2):
            apart = one[0] != two[0] or one[1] >= two[2] or two[1] >= one[2]
            assert apart or one[3] == two[3], (name, axes.get_title(), one, two)


def test_accuracy_stands_over_what_guessing_reaches():
    figure = result("paper_pinned").figure
    for axes in figure.axes:
        (line,) = [line for line in axes.lines if line.get_label() == "guessing: 25 %"]
        assert list(line.get_ydata()) == [25, 25]
    unknown = [
        replace(r, question=replace(r.question, options=None))
        for r in paper_records.of("paper_pinned")
    ]
    assert not any(
        "guessing" in label for label, _ in drawn(result("paper_pinned", unknown).figure)
    )
    labels = [label for label, _ in drawn(result("paper_efficiency").figure)]
    assert labels and not any("guessing" in label for label in labels)


def test_names_beside_points_lie_on_no_other_and_in_their_panel():
    """Of the answers that are published."""
    answers = load(make.KEPT / "answers" / "paper_selectors.json.xz")
    figure = result("paper_selectors", answers.records).figure
    figure.draw_without_rendering()
    for axes in figure.axes[2:]:
        words = [text for text in axes.texts if text.get_gid() == REMARK]
        assert len(words) >= 15
        boxes = [text.get_window_extent() for text in words]
        room = axes.bbox.padded(10)
        assert all(room.x0 < box.x0 and box.x1 < room.x1 for box in boxes)
        for one, two in combinations(range(len(words)), 2):
            said = words[one].get_text(), words[two].get_text(), axes.get_title()
            assert not boxes[one].overlaps(boxes[two]), said


@pytest.mark.parametrize("name", [n for n in make.NAMES if paper_records.needs_truth(n)])
def test_a_set_that_does_not_say_where_answers_lie_is_drawn_as_well(name):
    records = paper_records.without_spans(name)
    shown = result(name, records)
    assert all(axes.has_data() for axes in shown.figure.axes)
    words = " ".join([shown.finding, *map(markdown, shown.tables)])
    assert "oracle" not in words and "nan" not in words


def test_the_order_of_records_is_no_matter():
    """A resumed run has another one."""
    records = paper_records.of("paper_base_ratio")
    whole, again = (result("paper_base_ratio", some) for some in (records, records[::-1]))
    assert (again.finding, again.tables) == (whole.finding, whole.tables)


def test_findings_are_counted():
    records = paper_records.of("paper_main")
    finding = result("paper_main", records).finding
    assert "kmeans with oracle 100.0 %, +100.0 points" in finding and "against all-high" in finding
    # One of the oracle's eight answers wrong: it is told.
    (index,) = [
        n
        for n, r in enumerate(records)
        if (r.condition.selector, r.condition.compressor) == ("oracle", "kmeans")
        and (r.condition.top_k, r.condition.context) == (3, "full")
        and r.question.sample_id == "needle-128/v0/q0"
    ]
    records[index] = changed(records[index], correct=0.0)
    assert "kmeans with oracle 87.5 %, +87.5 points" in result("paper_main", records).finding


def changed(answer, correct=None, **condition):
    """A record with another answer, or of another condition."""
    answer = replace(answer, condition=replace(answer.condition, **condition))
    return (
        answer
        if correct is None
        else replace(answer, answer=replace(answer.answer, correct=correct))
    )


TESTED = ("main", "hit_rate", "base_ratio", "selectors", "low_ratio", "context")


@pytest.mark.parametrize("name", [f"paper_{name}" for name in TESTED])
def test_p_values_of_a_finding_are_those_of_the_stars_in_its_table(name):
    """One family, whose size both say; a difference stands in both with one verdict."""
    whole = result(name, paper_records.of(name, videos=6))
    tables = "\n".join(map(markdown, whole.tables))
    (size,) = re.findall(r"Holm over the (\d+) of this table", tables)
    assert re.findall(r"Holm over (\d+)", whole.finding) == [size]
    number = r"[+-][\d.]+"
    gap = (
        rf"({number} points|identical) \(95 % interval ({number}) to ({number}), p [<=] ([\d.]+)\)"
    )
    said = re.findall(gap, whole.finding)
    assert said
    for value, low, high, p in said:
        star = "*" if float(p) < 0.05 else ""
        assert f" {value.removesuffix(' points')} ({low} to {high}){star} |" in tables


def test_two_pairs_of_the_same_cells_are_one_difference():
    first, *_, second = cells_of(paper_records.of("paper_hit_rate"))
    tested = family([Pair(first, second), Pair(first, second, "again")])
    assert len(tested) == 1 and len(tested.pairs) == 2
    assert tested.to(second, "again").gap == tested.to(second).gap != "-"
    assert tested.to(first) is None


def test_one_answer_in_two_cells_is_not_tested():
    """At k = 0 every selector re-loads nothing: Holm counts the other pair alone."""
    cells = cells_of(paper_records.of("paper_hit_rate"))
    same = [replace(r, condition=replace(r.condition, selector="x")) for r in cells[0].records]
    (copy,) = cells_of(same)
    tested = family([Pair(cells[0], copy), Pair(cells[0], cells[-1])])
    assert len(tested) == 1 and tested.pairs[0].difference.startswith("identical (95 % interval -")
    assert (tested.pairs[0].p_value, tested.pairs[0].is_clear) == ("not tested", False)
    assert tested.pairs[1].compared.p_holm == tested.pairs[1].compared.headline.p_value


def test_a_line_of_runs_of_two_sizes_is_refused():
    records = paper_records.of("paper_efficiency")
    first = [r for r in records if r.video.video_id.endswith("/v0")]
    records += [changed(r, run_id=f"{r.condition.run_id}-small") for r in first]
    with pytest.raises(ValueError, match=r"2 cells with system=\('full',\), frames=32"):
        result("paper_efficiency", records)


def test_a_trial_of_another_size_in_the_folder_of_an_experiment_is_named():
    """Of a mixed cache, and of all chunks alike, whose repeats are one cell."""
    records = paper_records.of("paper_claim")
    first = [r for r in records if "/v0" in r.video.video_id]
    for selectors in (("keys",), ("all", "none")):
        trial = [
            changed(r, run_id="0trial789abc") for r in first if r.condition.selector in selectors
        ]
        with pytest.raises(
            ValueError, match=r"\*-0trial78 \(1 videos, 2 questions\).*differ in size"
        ):
            result("paper_claim", [*records, *trial])


def test_a_map_of_several_settings_is_refused():
    records = paper_records.of("paper_haystack")
    chosen = [r for r in records if r.condition.selector == "attention"]
    (k,) = {r.condition.top_k for r in chosen}
    others = [changed(r, top_k=k + 1) for r in chosen]
    with pytest.raises(ValueError, match="2 cells with compressor=kmeans, system=attention"):
        result("paper_haystack", [*records, *others])
    again = [changed(r, run_id=f"{r.condition.run_id}-again") for r in records]
    with pytest.raises(ValueError, match=f"{len(records)} questions are answered more than once"):
        result("paper_haystack", [*records, *again])


def test_two_levels_or_three_need_runs_of_both():
    records = paper_records.of("ladder")
    some = [r for r in records if r.condition.selector != "random"]
    finding = result("ladder", some).finding
    assert "with attention three levels" in finding and "random" not in finding
    two = [r for r in records if len(r.condition.levels) == 2]
    with pytest.raises(ValueError, match="none with the coarsest, between that the figure needs"):
        result("ladder", two)


def test_the_controls_of_compressors_are_needed():
    records = paper_records.of("paper_compressors")
    some = [r for r in records if r.condition.compressor != "uniform"]
    with pytest.raises(ValueError, match="none with the compressor that the figure needs"):
        result("paper_compressors", some)


def test_differences_are_paired_with_controls_of_the_same_k():
    cells = cells_of(paper_records.of("paper_main"))
    cell = cells.only(
        compressor="tome", system="attention", top_k=2, context="full", positions="keep"
    )
    pairs = [pair for pairs in make.spec_of("paper_main").pairs for pair in pairs.of(cells)]
    others = {pair.name: pair.before for pair in pairs if pair.after is cell}
    assert list(others) == [
        "all-high",
        "random chunks",
        "fewer frames",
        "random pruning",
        "uniform pruning",
    ]
    assert {other["top_k"] for name, other in others.items() if name != "all-high"} == {2}
    pruned = others["random pruning"]
    assert (pruned["system"], pruned["compressor"]) == ("attention", "random")


def test_records_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"several values of model \(a, b\)"):
        cells_of([record(model="a"), record(model="b", run_id="other")])
    with pytest.raises(ValueError, match="there are none"):
        cells_of([])
    with pytest.raises(ValueError, match="2 cells with selector=attention"):
        cells_of([record(), record(run_id="other")]).only(selector="attention")


@pytest.mark.parametrize("name", json.loads(SOURCED.read_text()))
def test_what_others_reported_names_its_model_and_its_source(name):
    reported = Reported(name)
    entry = reported.entry
    label, source, note = entry["label"], entry["source"], entry["note"]
    assert "Video-XL" in label and re.search("notebook|logs", label)
    assert source.startswith("github.com/") and re.search(r"cell \d+|/log", source)
    assert entry["points"] and note
    assert "the paper" not in f"{label} {source} {note}"
    assert f"{entry['points'][0][1]:g}" in reported.note and source in reported.note


def test_tables():
    table = Table("a < b", ("name_1", "50 %"), (("x|y", "1 ± 2"),))
    caption, _, header, rules, row = markdown(table).splitlines()
    assert caption == "a < b." and re.fullmatch(r"\|:-+\|-+:\|", rules)
    assert header.split() == ["|", "name_1", "|", "50", "%", "|"]
    assert row.split() == ["|", "x\\|y", "|", "1", "±", "2", "|"]
    text = latex(table)
    assert re.search(r"name\\_1 +& +50 \\% +\\\\", text) and r"{lr}" in text
    assert r"\caption{a \ensuremath{<} b.}" in text
    with pytest.raises(ValueError, match="1 cells, header has 2"):
        Table("short", ("a", "b"), (("x",),))


def test_length_and_depth_are_read_from_records():
    def at(chunk, chunks, duration=64.0):
        return record(gt_chunks=chunk, assigned=("high",) * chunks, duration=duration)

    assert [paper_haystack.depth(at((n,), 4)) for n in range(4)] == [0, 1, 2, 3]
    assert paper_haystack.depth(at((15,), 16)) == 3 and paper_haystack.depth(at((0, 15), 16)) == 2
    assert paper_haystack.depth(at(None, 16)) is None
    few = [at((0,), 4, seconds) for seconds in (128.0, 32.0, 64.0, 64.2)]
    assert paper_haystack.lengths(few) == [32, 64, 128]
    many = [at((0,), 4, float(seconds)) for seconds in range(1, 61)]
    ends = paper_haystack.lengths(many)
    assert len(ends) == paper_haystack.MOST_LENGTHS and ends[-1] == 60
    assert {paper_haystack.column(each, ends) for each in many} == set(range(len(ends)))


def saved(folder, records):
    """Records as a run's folder holds them."""
    folder.mkdir(parents=True)
    with RecordWriter(folder / "records.jsonl") as writer:
        for each in records:
            writer.append(each)


def test_the_command_writes_equal_files_for_equal_records(tmp_path, capsys):
    records = paper_records.of("paper_hit_rate")
    saved(tmp_path / "run", records)
    command = ["paper_hit_rate", "--records", str(tmp_path / "run"), "--out", str(tmp_path)]
    assert make.main(command) == 0
    assert "Accuracy against hit rate" in capsys.readouterr().out
    files = [tmp_path / "figures" / f"paper_hit_rate.{kind}" for kind in ("png", "pdf")]
    files += [tmp_path / "tables" / f"paper_hit_rate.{kind}" for kind in ("md", "tex")]
    before = [path.read_bytes() for path in files]
    assert files[0].stat().st_size < 150_000
    write(result("paper_hit_rate", records), "paper_hit_rate", tmp_path)
    assert [path.read_bytes() for path in files] == before
    for words, problem in (
        (["paper_hit_rate", "--records", str(tmp_path / "tables")], "error: folders="),
        (["--records", str(tmp_path)], "give the name of one experiment"),
    ):
        with pytest.raises(SystemExit) as stopped:
            make.main(words)
        assert stopped.value.code == 2 and problem in capsys.readouterr().err


def test_the_page_shows_each_with_its_commands_and_says_what_is_missing(
    tmp_path, monkeypatch, capsys
):
    """And is the same page once the runs are gone: what is published holds their answers."""
    out, kept = tmp_path / "paper", tmp_path / "kept"
    monkeypatch.setattr(make, "OUT", out)
    monkeypatch.setattr(make, "KEPT", kept)
    saved(out / "sweeps" / "paper_pinned" / "run", paper_records.of("paper_pinned"))
    assert make.main(["--draw", "--publish", str(kept)]) == 1
    text = (out / "README.md").read_text()
    (command,) = make.commands("paper_pinned")  # there is no log, so it is the yaml's
    assert " ".join(command.words) in text and "![First and last chunk pinned, on and off](" in text
    assert result("paper_pinned").finding in text
    missing = [name for name in make.NAMES if f"- {name}: not run yet" in text]
    assert missing == [name for name in make.NAMES if name != "paper_pinned"]
    files = {path.relative_to(kept).as_posix(): path for path in kept.rglob("*.*")}
    names = ["answers/paper_pinned.json.xz", "figures/paper_pinned.png", "tables/paper_pinned.md"]
    assert sorted(files) == ["README.md", *names]
    links = re.findall(r"\]\(([\w/.]+)\)", files["README.md"].read_text())
    assert links and all((kept / link).exists() for link in links)
    before = {name: path.read_bytes() for name, path in files.items()}
    shutil.rmtree(out)
    out.mkdir()
    assert make.main(["--draw", "--publish", str(kept)]) == 1
    assert {name: path.read_bytes() for name, path in files.items()} == before


def test_answers_come_back_but_for_what_no_figure_needs(tmp_path):
    records = paper_records.of("paper_pinned")
    seconds = {**records[0].answer.seconds, "decode": 0.0123456}
    records[0] = replace(records[0], answer=replace(records[0].answer, seconds=seconds))
    (tmp_path / "sweep").mkdir()
    saved(tmp_path / "sweep" / "run", records)
    answers = read_sweep(tmp_path / "sweep", ["x2l -m"])
    assert list(answers.records) == records and answers.problems
    save(answers, tmp_path / "answers.json.xz")
    again = load(tmp_path / "answers.json.xz")
    assert again.commands == ["x2l -m"] and again.problems == answers.problems
    assert again.records[0].answer.seconds["decode"] == 0.01235
    assert [r.key for r in again.records] == [r.key for r in records]
    shown = [result("paper_pinned", some) for some in (records, again.records)]
    assert shown[0].tables == shown[1].tables and shown[0].finding == shown[1].finding


def test_the_page_says_what_made_the_records(tmp_path):
    info = {"dirty": False, "processor": "CPU", "code": "0a1b"}
    config = {
        "model": {"name_or_path": "/somewhere/x2l_tiny"},
        "benchmark": {"_target_": "n.Needle", "videos": 4},
    }
    for number, (commit, torch) in enumerate(
        [("abcdef0123", "2"), ("abcdef0123", "2"), (None, "3")]
    ):
        of_run = {"commit": commit, "cpu_threads": 1 + number // 2}
        of_run["versions"] = {"torch": torch, "transformers": "5"}
        saved(tmp_path / str(number), [record(run_id=str(number))])
        (tmp_path / str(number) / RUN).write_text(json.dumps({**info, **of_run, "config": config}))
    answers = replace(read_sweep(tmp_path, ["x2l -m"]), problems=["0: cut off"])
    shown = Shown("paper_pinned", result("paper_pinned"), answers)
    text = page([shown, replace(shown, answers=Answers([], [], [], []))])
    assert "x2l_tiny on needle" in text and "Runs: 3, 2 at commit abcdef0; 1 outside" in text
    assert "/somewhere" not in text
    assert "no known commit (source files: 0a1b)" in text
    assert "torch 2, 3, transformers 5; CPU; CPU threads a run: 1, 2;" in text
    _, unfinished, finished = text.split("## First and last")
    assert "**Not finished" in unfinished and "- 0: cut off" in unfinished
    assert "Not finished" not in finished


def test_experiments_that_measure_seconds_run_after_the_others_and_alone(tmp_path, monkeypatch):
    calls = []

    def called(words, **_):
        calls.append(words[3:])
        return type("Done", (), {"returncode": 3 if "experiment=paper_pinned" in words else 0})

    monkeypatch.setattr(make.subprocess, "run", called)
    names = ["paper_efficiency", "paper_pinned", "paper_context"]
    assert make.run_all(names, ["benchmark.videos=1"], 1, tmp_path) is False
    experiments = [word for words in calls for word in words if word.startswith("experiment=")]
    assert experiments == [
        "experiment=paper_pinned",
        "experiment=paper_context",
        *["experiment=paper_efficiency"] * 2,
    ]
    assert all(words.count("benchmark.videos=1") == 1 and words[0] == "-m" for words in calls)
    assert [any("prefill.cache=" in word for word in words) for words in calls] == [
        True,
        True,
        False,
        False,
    ]
    lines = [make.ran(command, tmp_path / "logs") for command in make.commands("paper_pinned")]
    assert lines == ["x2l -m experiment=paper_pinned benchmark.videos=1"]


def test_an_unknown_experiment_is_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        make.main(["paper_bogus"])
    assert (
        stopped.value.code == 2
        and "paper_bogus: no such experiment; there are paper_claim" in capsys.readouterr().err
    )


def test_forms_of_storage_stand_in_one_panel_a_compressor():
    whole = result("quantised")
    assert [axes.get_title() for axes in whole.figure.axes] == ["key_diff", "kmeans", "tome"]
    labels = [label for label, _ in drawn(whole.figure) if "guessing" not in label]
    assert labels[:3] == ["as they are", "int8", "int4"]
    assert "of 24 paired" in whole.finding


def test_panels_beside_each_other_have_the_same_rows():
    """The words of the rows are said once; a panel with another order of its own would be read wrongly."""
    records = [
        changed(r, correct=1.0)
        if (r.condition.selector, r.question.tags["kind"]) == ("first_last", "crowded")
        else r
        for r in paper_records.of("paper_selectors")
    ]
    crowded, plain = result("paper_selectors", records).figure.axes[:2]
    rows = [label.get_text() for label in crowded.get_yticklabels()]
    for axes, scene in ((crowded, "crowded"), (plain, "plain")):
        shown = {rows[round(y)]: x for c in axes.containers for x, y in c[0].get_xydata()}
        assert len(axes.containers) == 2  # bounds have a look of their own
        for cell in cells_of(records).where(scene=scene, baseline=None):
            assert shown[cell["label"]] == pytest.approx(100 * cell.point.accuracy)
