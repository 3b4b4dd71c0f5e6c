"""Figures of the experiments: records in; figure, tables and one sentence out, whatever the records say."""

import importlib
import json
import re
from dataclasses import replace

import pytest
from matplotlib.colors import to_hex

from experiments import paper
from experiments.paper.figures import paper_efficiency, paper_haystack, paper_hit_rate, paper_main
from experiments.paper.kit.cells import cells, only
from experiments.paper.kit.drawing import GREY
from experiments.paper.kit.output import made, main, write
from experiments.paper.kit.sourced import FILE, sourced
from experiments.paper.kit.tables import Table, latex, markdown
from experiments.paper.kit.words import family
from experiments.paper.page import Shown, page
from tests import paper_records
from tests.synthetic import record
from x2l.runs.records import RecordWriter
from x2l.runs.run_info import RUN

SOURCED = json.loads(FILE.read_text())
DRAWN = (*paper.NAMES, "ladder")


def result(name, records=None):
    module = importlib.import_module(f"experiments.paper.figures.{name}")
    return made(module.make, paper_records.of(name) if records is None else records)


def drawn(figure):
    """(label, line) of everything that a legend would name."""
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            yield label, getattr(handle, "lines", [handle])[0]


@pytest.mark.parametrize("name", DRAWN)
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
        assert (line.get_markerfacecolor(), to_hex(line.get_markeredgecolor())) == ("white", GREY)
        assert line.get_linestyle() in (":", "None")


@pytest.mark.parametrize("name", [n for n in DRAWN if paper_records.told(n)])
def test_a_set_that_does_not_say_where_answers_lie_is_drawn_as_well(name):
    records = paper_records.without_spans(name)
    shown = result(name, records)
    assert all(axes.has_data() for axes in shown.figure.axes)
    told = " ".join([shown.finding, *map(markdown, shown.tables)])
    assert "oracle" not in told and "nan" not in told


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
    at = {
        "selector": "oracle",
        "compressor": "kmeans",
        "top_k": 3,
        "context": "full",
        "sample_id": "needle-128/v0/q0",
    }
    (index,) = [n for n, r in enumerate(records) if all(getattr(r, k) == v for k, v in at.items())]
    records[index] = replace(records[index], correct=0.0)
    assert "kmeans with oracle 87.5 %, +87.5 points" in result("paper_main", records).finding


TESTED = ("main", "hit_rate", "base_ratio", "selectors", "low_ratio", "context")


@pytest.mark.parametrize("name", [f"paper_{name}" for name in TESTED])
def test_p_values_of_a_finding_are_those_of_the_stars_in_its_table(name):
    """One family, whose size both say; a difference stands in both with one verdict."""
    whole = result(name, paper_records.of(name, videos=6))
    tables = "\n".join(map(markdown, whole.tables))
    (size,) = re.findall(r"Holm over the (\d+) of this table", tables)
    assert re.findall(r"Holm over (\d+)", whole.finding) == [size]
    number = r"[+-][\d.]+"
    gap = rf"({number}) points \(95 % interval ({number}) to ({number}), p [<=] ([\d.]+)\)"
    said = re.findall(gap, whole.finding)
    assert said
    for value, low, high, p in said:
        star = "*" if float(p) < 0.05 else ""
        assert f" {value} ({low} to {high}){star} |" in tables


def test_a_difference_outside_the_family_is_not_told():
    found = cells(paper_records.of("paper_hit_rate"))
    tested = family([(found[0], found[1]), (found[0], found[1])])
    assert len(tested.found) == 1 and "points" in tested.difference(found[1], found[0])
    with pytest.raises(ValueError, match="not of the 1 pairs that were corrected together"):
        tested.difference(found[2], found[0])


def test_a_line_of_runs_of_two_sizes_is_refused():
    records = paper_records.of("paper_efficiency")
    first = [r for r in records if r.video_id.endswith("/v0")]
    records += [replace(r, run_id=f"{r.run_id}-small") for r in first]
    with pytest.raises(
        ValueError, match=r"2 cells of full KVs at 32 frames \(8 questions, .* and 2 "
    ):
        paper_efficiency.make(records)


def test_a_map_of_several_settings_is_refused():
    records = paper_records.of("paper_haystack")
    chosen = [r for r in records if r.selector == "attention"]
    (k,) = {r.top_k for r in chosen}
    with pytest.raises(ValueError, match=rf"attention of several values of top_k \({k}, {k + 1}\)"):
        paper_haystack.make([*records, *(replace(r, top_k=k + 1) for r in chosen)])
    with pytest.raises(ValueError, match="answers 32 questions more than once"):
        paper_haystack.make([*records, *(replace(r, run_id=f"{r.run_id}-again") for r in records)])


def test_two_levels_or_three_need_runs_of_both():
    records = paper_records.of("ladder")
    finding = result("ladder", [r for r in records if r.selector != "random"]).finding
    assert "with attention three levels" in finding and "random" not in finding
    with pytest.raises(ValueError, match="run `x2l -m experiment=ladder` as well"):
        result("ladder", [r for r in records if not r.between])
    four = {"ratios_between": {"mid": 4.0}, "run_id": "four"}
    others = [replace(r, **four) for r in records if r.between and r.compressor == "tome"]
    with pytest.raises(ValueError, match=r"several levels between \(mid 4x, mid 8x\)"):
        result("ladder", [*records, *others])


def test_differences_are_paired_with_controls_of_the_same_k():
    found = cells(paper_records.of("paper_main"))
    others = paper_main.rivals(found, "tome", "attention", 2)
    assert list(others) == [
        "all-high",
        "random chunks",
        "fewer frames",
        "random pruning",
        "uniform pruning",
    ]
    assert {cell.point.top_k for name, cell in others.items() if name != "all-high"} == {2}
    pruned = others["random pruning"].point
    assert (pruned.selector, pruned.compressor) == ("attention", "random")


def test_records_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"several values of model \(a, b\)"):
        cells([record(model="a"), record(model="b", run_id="other")])
    with pytest.raises(ValueError, match="there are none"):
        cells([])
    with pytest.raises(ValueError, match="2 cells with selector=attention"):
        only(cells([record(), record(run_id="other")]), selector="attention")


@pytest.mark.parametrize("name", SOURCED)
def test_what_others_reported_names_its_model_and_its_source(name):
    series = sourced(name)
    assert "Video-XL" in series.label and re.search("notebook|logs", series.label)
    assert series.source.startswith("github.com/") and re.search(r"cell \d+|/log", series.source)
    assert series.points and series.note
    assert "the paper" not in f"{series.label} {series.source} {series.note}"
    assert f"{series.points[0][1]:g}" in series.told and series.source in series.told


def test_tables():
    table = Table("a < b", ("name_1", "50 %"), (("x|y", "1 ± 2"),))
    assert markdown(table) == "a < b.\n\n| name_1 | 50 % |\n| --- | ---: |\n| x\\|y | 1 ± 2 |\n"
    text = latex(table)
    assert r"name\_1 & 50 \% \\" in text and r"1 $\pm$ 2 \\" in text and r"{lr}" in text
    with pytest.raises(ValueError, match="1 cells, header has 2"):
        Table("short", ("a", "b"), (("x",),))


def test_length_and_depth_are_read_from_records():
    def at(chunk, chunks, duration=64.0):
        return record(gt_chunks=chunk, kept_high=(2,) * chunks, duration=duration)

    assert [paper_haystack.depth(at((n,), 4)) for n in range(4)] == [0, 1, 2, 3]
    assert paper_haystack.depth(at((15,), 16)) == 3 and paper_haystack.depth(at((0, 15), 16)) == 2
    assert paper_haystack.depth(at(None, 16)) is None
    few = [at((0,), 4, seconds) for seconds in (128.0, 32.0, 64.0, 64.2)]
    assert paper_haystack.lengths(few) == [32, 64, 128]
    many = [at((0,), 4, float(seconds)) for seconds in range(1, 61)]
    ends = paper_haystack.lengths(many)
    assert len(ends) == paper_haystack.MOST_LENGTHS and ends[-1] == 60
    assert sum(map(len, paper_haystack.grid(many, ends).values())) == 60


def saved(folder, records):
    """Records as a run's folder holds them."""
    folder.mkdir(parents=True)
    with RecordWriter(folder / "records.jsonl") as writer:
        for each in records:
            writer.append(each)


def test_the_command_writes_equal_files_for_equal_records(tmp_path, capsys):
    records = paper_records.of("paper_hit_rate")
    saved(tmp_path / "run", records)
    main(paper_hit_rate.NAME, paper_hit_rate.make, [str(tmp_path / "run"), "--out", str(tmp_path)])
    assert "Accuracy against hit rate" in capsys.readouterr().out
    files = [
        tmp_path / "figures" / "paper_hit_rate.png",
        tmp_path / "figures" / "paper_hit_rate.pdf",
    ]
    files += [tmp_path / "tables" / "paper_hit_rate.md", tmp_path / "tables" / "paper_hit_rate.tex"]
    before = [path.read_bytes() for path in files]
    assert files[0].stat().st_size < 150_000
    write(result("paper_hit_rate", records), "paper_hit_rate", tmp_path)
    assert [path.read_bytes() for path in files] == before
    with pytest.raises(SystemExit) as stopped:
        main(paper_hit_rate.NAME, paper_hit_rate.make, [str(tmp_path / "tables")])
    assert stopped.value.code == 2 and "error: folders=" in capsys.readouterr().err


def test_the_page_shows_each_with_its_commands_and_says_what_is_missing(
    tmp_path, monkeypatch, capsys
):
    out = tmp_path / "paper"
    monkeypatch.setattr(paper, "OUT", out)
    saved(out / "sweeps" / "paper_pinned" / "run", paper_records.of("paper_pinned"))
    assert paper.main(["--draw", "--publish", str(tmp_path / "kept")]) == 1
    text = (out / "README.md").read_text()
    (command,) = paper.commands("paper_pinned")  # there is no log, so it is the yaml's
    assert " ".join(command.words) in text and "![First and last chunk pinned, on and off](" in text
    assert result("paper_pinned").finding in text
    missing = [name for name in paper.NAMES if f"- {name}: not run yet" in text]
    assert missing == [name for name in paper.NAMES if name != "paper_pinned"]
    kept = sorted(
        path.relative_to(tmp_path / "kept").as_posix() for path in (tmp_path / "kept").rglob("*.*")
    )
    assert kept == ["README.md", "figures/paper_pinned.png", "tables/paper_pinned.md"]
    page_kept = (tmp_path / "kept" / "README.md").read_text()
    links = re.findall(r"\]\(([\w/.]+)\)", page_kept)
    assert links and all((tmp_path / "kept" / link).exists() for link in links)


def test_the_page_says_what_made_the_records(tmp_path):
    info = {"dirty": False, "processor": "CPU", "code": "0a1b"}
    config = {
        "model": {"name_or_path": "x2l_tiny"},
        "benchmark": {"_target_": "n.Needle", "videos": 4},
    }
    runs = []
    for number, (commit, torch) in enumerate(
        [("abcdef0123", "2"), ("abcdef0123", "2"), (None, "3")]
    ):
        own = {"commit": commit, "cpu_threads": 1 + number // 2}
        own["versions"] = {"torch": torch, "transformers": "5"}
        runs.append(tmp_path / str(number))
        runs[-1].mkdir()
        (runs[-1] / RUN).write_text(json.dumps({**info, **own, "config": config}))
    shown = Shown("paper_pinned", result("paper_pinned"), ("x2l -m",), runs, ("0: cut off",))
    text = page([shown, replace(shown, runs=(), problems=())])
    assert "x2l_tiny on needle" in text and "Runs: 3, 2 at commit abcdef0; 1 outside" in text
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

    monkeypatch.setattr(paper.subprocess, "run", called)
    names = ["paper_efficiency", "paper_pinned", "paper_context"]
    assert paper.run_all(names, ["benchmark.videos=1"], 1, tmp_path) is False
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
    told = [paper.ran(command, tmp_path / "logs") for command in paper.commands("paper_pinned")]
    assert told == ["x2l -m experiment=paper_pinned benchmark.videos=1"]


def test_an_unknown_experiment_is_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        paper.main(["paper_bogus"])
    assert (
        stopped.value.code == 2
        and "paper_bogus: no such experiment; there are paper_main" in capsys.readouterr().err
    )


def test_forms_of_storage_stand_in_one_panel_a_compressor():
    records = [
        record(
            run_id=f"{name}{ratio}",
            compressor=name,
            ratio_high=ratio,
            selector="none",
            top_k=None,
            sample_id=f"v{video}/q",
            video_id=f"v{video}",
            correct=float("int4" not in name),
            kv_bytes_resident=int(20000 / ratio),
        )
        for name in ("tome", "tome-int8", "tome-int4", "kmeans", "kmeans-int8", "kmeans-int4")
        for ratio in (4.0, 8.0)
        for video in range(3)
    ]
    whole = result("quantised", records)
    assert [axes.get_title() for axes in whole.figure.axes] == ["kmeans", "tome"]
    assert [label for label, _ in drawn(whole.figure)][:3] == ["as they are", "int8", "int4"]
    assert "100.0 % to 0.0 %, -100.0" in whole.finding and "of 8 paired" in whole.finding
