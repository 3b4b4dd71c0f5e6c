import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.synthetic import condition, levels, out_of_memory, record, sweep
from x2l.analysis.comparison import compare, pair, read_cells
from x2l.analysis.compute_axes import AXES, front
from x2l.analysis.figure_style import MARKERS, style_of_baseline, style_of_selector
from x2l.analysis.points import points
from x2l.analysis.report import build
from x2l.analysis.report.build import gather, write_report
from x2l.analysis.report.cell_tables import ratios_table
from x2l.cli.report import main
from x2l.engine.stages import STAGES
from x2l.runs.condition import to_json
from x2l.runs.job_status import StatusFile
from x2l.runs.out_of_memory_log import append_out_of_memory
from x2l.runs.records import RecordWriter, append_json
from x2l.runs.run_info import describe

VOID = {"meta", "img", "br", "rect", "line", "input"}
RECORDS = sweep(compressors=("tome",), videos=6, questions=6)


class Page(HTMLParser):
    """Tags, ids and tables of a page; fails where tags do not nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.tables = [], [], {}
        self._rows, self._cell, self._caption = [], None, ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th", "caption"):
            self._cell = []
        elif tag == "title" and self._cell is not None:
            self.open[-1] = "svg title"

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        last = self.open.pop()
        assert last.split()[-1] == tag, f"</{tag}> closes <{last}>"
        if tag in ("td", "th"):
            self._rows[-1].append(" ".join(" ".join(self._cell).split()))
            self._cell = None
        elif tag == "caption":
            self._caption, self._cell = "".join(self._cell), None
        elif tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data):
        if self._cell is not None and "svg title" not in self.open:
            self._cell.append(data)

    def rows(self, caption):
        head, *rows = self.tables[caption]
        return [dict(zip(head, row, strict=True)) for row in rows]

    def attributes(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def write_runs(folder, records):
    for one in records:
        run = folder / one.condition.run_id
        if not run.exists():
            run.mkdir(parents=True)
            StatusFile(run, one.condition.run_id).write("done", records=1, expected=1)
        with RecordWriter(run / "records.jsonl") as writer:
            writer.append(one)
    return folder


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of a sweep with controls and three selectors, and its report."""
    folder = write_runs(tmp_path_factory.mktemp("report") / "sweep", RECORDS)
    return folder, write_report(folder).read_text()


@pytest.fixture(scope="module")
def page(swept):
    return Page(swept[1])


def cell_of(point):
    condition = point.condition
    if condition.baseline:
        return "full" if condition.baseline == "full" else f"tome {condition.baseline}"
    return f"tome {condition.selector} k={condition.top_k}" + " (bound)" * condition.is_bound


def percent(value):
    return f"{100 * value:.1f}"


def test_the_file_loads_nothing_and_every_figure_is_in_it(tmp_path, swept, page):
    panels = write_report(write_runs(tmp_path, many(2, ("attention", "random")))).read_text()
    for text, parsed, pictures in ((swept[1], page, 0), (panels, Page(panels), len(AXES))):
        loading = {"src", "srcset", "href", "data", "poster"}
        ids = {attrs["id"] for _, attrs in parsed.tags if "id" in attrs}
        for attrs in (a for _, a in parsed.tags if loading & a.keys()):
            if "href" in attrs:
                assert attrs["href"][0] == "#" and attrs["href"][1:] in ids
            else:
                data = attrs["src"].removeprefix("data:image/png;base64,")
                assert base64.b64decode(data, validate=True).startswith(b"\x89PNG")
        assert not {"link", "iframe", "object", "embed"} & {tag for tag, _ in parsed.tags}
        assert "@import" not in text and "url(" not in text and "http://" not in text
        figures = parsed.attributes("img")
        assert len(figures) == pictures and all(len(one["alt"]) > 80 for one in figures)


def chart_data(text):
    return json.loads(re.search(r'id="chart-data">(.*?)</script>', text).group(1))


def test_charts_hold_every_cell_where_it_is_with_what_is_said_of_it(swept, page):
    data = chart_data(swept[1])
    drawn = [attrs for attrs in page.attributes("figure") if "data-chart" in attrs]
    assert [attrs["data-chart"] for attrs in drawn] == list(data["charts"])
    assert len(drawn) == len(AXES) and all(len(attrs["data-alt"]) > 80 for attrs in drawn)
    (group,) = data["groups"]
    rows = {cell_of(p).removesuffix(" (bound)"): p for p in points(RECORDS)}
    assert [cell["name"] for cell in group["cells"]] != sorted(rows)  # in the order of the tables
    assert {cell["name"] for cell in group["cells"]} == rows.keys()
    for index, cell in enumerate(group["cells"]):
        p = rows[cell["name"]]
        shares = (p.accuracy, p.accuracy_low, p.accuracy_high)
        assert cell["accuracy"] == pytest.approx([100 * share for share in shares], abs=0.005)
        interval = f"{percent(p.accuracy_low)} to {percent(p.accuracy_high)}"
        said = f"{percent(p.accuracy)} % ({interval}), {p.questions} questions, {p.videos} videos"
        assert dict(cell["facts"])["accuracy"] == said
        assert dict(cell["facts"])["KV bytes"].endswith(f" kB, {percent(p.kv_share)} %")
        assert cell["bound"] == p.condition.is_bound and cell["command"] is None
        look = group["looks"][cell["look"]]["name"]
        assert look == (p.condition.baseline or p.condition.selector)
        for axis, chart in zip(AXES, data["charts"].values(), strict=True):
            scale = axis.scaled(max(axis.value(q) for q in rows.values()))[0]
            assert chart["at"][index] == pytest.approx(axis.value(p) * scale, rel=1e-5)
            assert chart["low"] < chart["at"][index] < chart["high"]
        low, high = group["accuracies"]
        assert low <= cell["accuracy"][1] and cell["accuracy"][2] <= high
    for axis, chart in zip(AXES, data["charts"].values(), strict=True):
        best = [cell_of(p) for p in front(list(rows.values()), axis)]
        assert [group["cells"][index]["name"] for index in chart["front"]] == best
        assert 3 <= len(chart["ticks"]) <= 6
    assert group["chance"] == [25.0]


def test_a_line_joins_what_differs_in_k_alone(swept):
    (group,) = chart_data(swept[1])["groups"]
    lines = {}
    for cell in group["cells"]:
        lines.setdefault(cell["line"], []).append(cell["name"].rpartition(" k=")[2])
    baselines = lines.pop(None)
    assert sorted(baselines) == ["full", "tome all-high", "tome all-low"]
    assert lines.keys() == {"tome attention", "tome oracle", "tome random"}
    assert all(values == ["0", "1", "2", "4"] for values in lines.values())


def test_every_marker_of_the_figures_can_be_drawn():
    script = (Path(build.__file__).parent / "charts.js").read_text()
    drawn = re.search(r"const MARKERS = \{(.*?)\n  \};", script, re.DOTALL).group(1)
    looks = {style_of_baseline(condition(selector="none", single_level="high")).marker}
    assert {*MARKERS, "*", *looks} == set(re.findall(r'^    "(.)": ', drawn, re.MULTILINE))


def test_colours_are_those_of_what_differs(swept, tmp_path):
    (one,) = chart_data(swept[1])["groups"]  # three selectors with one compressor
    assert [entry["colour"] for entry in one["compressors"]] == [None]
    selectors = {look["name"]: look["colour"] for look in one["looks"]}
    expected = dict.fromkeys(("full", "all-low", "all-high")) | {
        name: style_of_selector(name).colour for name in ("attention", "oracle", "random")
    }
    assert selectors == expected
    for cell in one["cells"]:
        assert cell["colour"] == selectors[one["looks"][cell["look"]]["name"]]
    text = write_report(write_runs(tmp_path, many(2, ("attention", "random")))).read_text()
    (two,) = chart_data(text)["groups"]
    colours = [entry["colour"] for entry in two["compressors"]]
    assert len({*colours, None}) == 3 and {look["colour"] for look in two["looks"]} == {None}
    assert all(cell["colour"] == colours[cell["compressor"]] for cell in two["cells"])


def test_colours_are_left_out_where_they_would_not_tell_apart(tmp_path):
    for count in (5, 12):
        text = write_report(write_runs(tmp_path / str(count), many(count))).read_text()
        colours = [entry["colour"] for entry in chart_data(text)["groups"][0]["compressors"]]
        assert len(colours) == count
        assert len(set(colours)) == (5 if count == 5 else 1) and (None in colours) == (count == 12)


def test_numbers_are_those_of_the_points(page):
    shown = {row["cell"]: row for row in page.rows("Cells")}
    rows = points(RECORDS)
    assert shown.keys() == {cell_of(p) for p in rows}
    for p in rows:
        row = shown[cell_of(p)]
        interval = f"{percent(p.accuracy)} {percent(p.accuracy_low)} to {percent(p.accuracy_high)}"
        assert row["accuracy %"] == interval and row["n"] == str(p.questions)
        assert (
            row["KV %"] == percent(p.kv_share) and row["KV kB"] == f"{p.kv_bytes_stored / 1e3:.3g}"
        )
        assert row["unparsed"] == str(p.parse_failures) and row["s"] == f"{p.seconds_total:.3g}"
        on = [a.name.split("_")[0] for a in AXES if any(p is q for q in front(rows, a))]
        assert row["Pareto front"] == ", ".join(on)
    best = front(rows, AXES[0])
    listed = page.rows("Pareto front over KV bytes stored of what is answered from")
    assert [row["cell"] for row in listed] == [cell_of(p) for p in best]


def test_tasks_selection_and_ratios_are_those_of_the_points(page):
    shown = {row["cell"]: row for row in page.rows("Accuracy by task and tag")}
    for p in points(RECORDS, by_task=True):
        told = shown[cell_of(p)][f"{p.task} %"]
        assert (
            told == f"{percent(p.accuracy)} {percent(p.accuracy_low)} to {percent(p.accuracy_high)}"
        )
    selection = {row["cell"]: row for row in page.rows("Selection")}
    chosen = [p for p in points(RECORDS) if not p.condition.baseline]
    assert selection.keys() == {cell_of(p) for p in chosen}
    assert all(selection[cell_of(p)]["recall %"] == percent(p.recall) for p in chosen)
    ratios = page.rows("Measured against nominal ratios")
    assert {(r["low nominal"], r["high nominal"]) for r in ratios} == {("1", "1"), ("2", "32")}
    assert {(r["low measured"], r["high measured"]) for r in ratios} == {
        ("1.00", "1.00"),
        ("2.00", "32.00"),
    }


def test_ratios_of_every_level_stand_beside_what_was_measured():
    obtained = {"low": 1.9, "mid": 8.0, "high": 30.0}
    three = record(levels=levels(low=2.0, mid=8.0, high=32.0), measured_ratio=obtained)
    dropped = record(levels=levels(low=2.0, high=None), measured_ratio={"low": 2.0, "high": None})
    table = ratios_table(points([three, dropped]))
    names = [column.name for column in table.columns]
    assert names[3::3] == ["low nominal", "mid nominal", "high nominal"]
    rows = {tuple(value.text for value in row[3:]) for row in table.rows}
    assert rows == {
        ("2", "1.90", "-5.0", "8", "8.00", "+0.0", "32", "30.00", "-6.2"),
        ("2", "2.00", "+0.0", "–", "–", "–", "dropped", "–", "–"),
    }


def test_differences_are_the_paired_ones(swept, page):
    folder, _ = swept
    full = read_cells(folder, {"baseline": "full"})
    others = read_cells(folder, {"ratio.high": "32"})
    pairs = pair(full, others)
    shown = {row["cell"].removesuffix(" (bound)"): row for row in page.rows("Against full KVs")}
    assert len(shown) == len(pairs) == len(points(RECORDS)) - 1
    for one in compare(pairs):
        row = shown[f"tome {one.b.baseline or f'{one.b.selector} k={one.b.top_k}'}"]
        d = one.headline
        value, low, high = (f"{100 * v:+.1f}" for v in (d.value, d.low, d.high))
        assert row["difference, points"] == f"{value} {low} to {high}"
        assert (row["lost"], row["n"]) == (str(one.micro.lost), str(one.micro.count))
        assert row["KV %"] == f"{percent(one.kv_share_b)} against {percent(one.kv_share_a)}"
        assert row["p (Holm)"] == (f"{one.p_holm:.3f}" if one.p_holm >= 0.001 else "<0.001")
    random = page.rows("Against controls that re-load as many chunks, or bytes")
    assert {row["cell"] for row in random} == {
        f"tome {name}" for k in (1, 2, 4) for name in (f"attention k={k}", f"oracle k={k} (bound)")
    }


def test_bars_add_up_to_the_compute(swept):
    table = gather(swept[0]).stages
    by_cell = {row[0].text: row for row in table.rows}
    rows = points(RECORDS)
    longest = max(p.flops_total for p in rows)
    for p in rows:
        bar = by_cell[cell_of(p).removesuffix(" (bound)")][2].picture
        assert sum(share for _, share, _ in bar.parts) == pytest.approx(
            100 * p.flops_total / longest
        )
        told = {number: words for number, _, words in bar.parts}
        at = STAGES.index("decode")
        assert told[at] == f"decode {100 * p.flops['decode'] / p.flops_total:.3g} %"
        assert STAGES.index("reload") not in told  # takes no FLOPs here


def test_what_came_from_outside_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>"
    records = [
        record(model=evil, question=evil, task=task, sample_id=s, selector=f"a{evil}")
        for s, task in (("1", "t"), ("2", f"u{evil}"))
    ]
    write_runs(tmp_path, records)
    StatusFile(tmp_path / records[0].condition.run_id, "x").write("failed", error=evil)
    text = write_report(tmp_path).read_text()
    assert text.count("<script") == 5 and "&lt;script&gt;alert(1)" in text
    assert any("alert(1)" in row["cell"] for row in Page(text).rows("Cells"))


def test_failures_are_shown(tmp_path):
    folder = write_runs(tmp_path / "sweep", RECORDS[:12])
    assert "None: every run is done" in write_report(folder).read_text()
    for name, state in (("dead", "failed"), ("cut", "interrupted")):
        (folder / name).mkdir()
        error = {"error": "Boom: no & more"} if state == "failed" else {}
        StatusFile(folder / name, name).write(state, records=3, expected=9, **error)
    append_json(
        folder / RECORDS[0].condition.run_id / "errors.jsonl",
        {"run_id": "x", "video_id": "v7", "video": "v7.mp4", "questions": 6, "error": "torn"},
    )
    entry = out_of_memory(RECORDS[0].condition, requested_bytes=2**31, device="cuda", error="fewer")
    append_out_of_memory(folder / RECORDS[0].condition.run_id, entry)
    page = Page(write_report(folder).read_text())
    states = {row["run"]: row for row in page.rows("Runs that are not done")}
    assert states["dead"]["state"] == "failed" and "Boom: no & more" in states["dead"]["why"]
    assert states["dead"]["answers"] == "3 of 9" and states["cut"]["state"] == "interrupted"
    assert "the same command again" in states["cut"]["why"]
    (video,) = page.rows("Videos that were left out")
    assert (video["video"], video["questions"], video["why"]) == ("v7", "6", "torn")
    (short,) = page.rows("Out of memory")
    assert (short["stage"], short["questions"], short["GiB asked for"]) == ("prefill", "1", "2.00")
    assert short["cell"] == "full"
    (full,) = (row for row in page.rows("Cells") if row["cell"] == "full")
    assert full["out of memory"] == "1"


def test_what_is_missing_is_said_with_what_to_run(swept, tmp_path):
    assert not any("full-KV" in line or "random" in line for line in gather(swept[0]).missing)
    bare = [r for r in RECORDS if r.condition.selector == "attention" and r.condition.top_k == 1]
    told = gather(write_runs(tmp_path / "a", bare)).missing
    assert any(
        "no full-KV run of x2l_tiny on needle" in line
        and "add compressor=key_norm levels.low.ratio=1 levels.high.ratio=1 selector=none" in line
        for line in told
    )
    assert any("add selector=random" in line for line in told)
    one = gather(write_runs(tmp_path / "b", bare[:2])).missing
    assert any("one video" in line for line in one)
    unknown = [record(gt_chunks=None, recall=None), record(selector="random", recall=None)]
    assert any(
        "recall is not known" in n for n in gather(write_runs(tmp_path / "c", unknown)).missing
    )
    kept = gather(write_runs(tmp_path / "d", [record(answer=None, correct=None)]))
    assert any("no accuracy" in line for line in kept.missing) and kept.curves == ()
    assert (
        Page(write_report(tmp_path / "d").read_text())
        .rows("Cells")[0]["accuracy %"]
        .startswith("–")
    )


def test_one_run_is_enough_and_the_same_records_give_the_same_file(tmp_path):
    folder = write_runs(tmp_path, RECORDS[-72:])
    run = folder / RECORDS[-1].condition.run_id
    texts = {re.sub(r"from the records, [^.]*\.", "", write_report(run).read_text()) for _ in "ab"}
    assert len(texts) == 1
    assert (run / "report.html").exists() and not list(run.glob(".report*"))


def many(compressors, selectors=("attention",)):
    return [
        record(
            run_id=f"{c}-{k}",
            compressor=f"c{c}",
            top_k=k,
            selector=selector,
            kv_bytes_stored=1000 + 7 * k + c,
        )
        for c in range(compressors)
        for selector in selectors
        for k in range(1, 4)
    ]


def test_long_tables_are_closed_and_lines_of_one_panel_stand_in_the_overview(tmp_path):
    page = Page(write_report(write_runs(tmp_path, many(25))).read_text())
    assert len(page.rows("Cells")) == 75
    assert not any("open" in attrs for attrs in page.attributes("details"))
    assert len(page.attributes("details")) == 4 and not page.attributes("img")


def test_a_few_panels_are_drawn_and_those_over_bytes_shown_at_once(tmp_path):
    records = many(2, ("attention", "random"))
    page = Page(write_report(write_runs(tmp_path, records)).read_text())
    assert [("open" in attrs) for attrs in page.attributes("details")] == [True, False, False]
    assert sum("panels of lines" in f["alt"].lower() for f in page.attributes("img")) == 3


def test_commands_versions_and_hardware_are_told(tmp_path):
    folder = write_runs(tmp_path, RECORDS[:6])
    run = folder / RECORDS[0].condition.run_id
    made_by = describe(RECORDS[0].condition.run_id, {"a": 1}, "cpu", "Abacus 9", 3, "feed")
    made_by.save(run, [to_json(RECORDS[0].condition)], None)
    (run / ".hydra").mkdir()
    (run / ".hydra" / "overrides.yaml").write_text("- compressor=tome\n- top_k=[1,2]\n")
    task = {"task": ["experiment=demo"], "hydra": ["hydra.mode=MULTIRUN", "hydra/launcher=joblib"]}
    (folder / "multirun.yaml").write_text(json.dumps({"hydra": {"overrides": task}}))
    found = gather(folder)
    assert found.command == "x2l -m experiment=demo hydra/launcher=joblib"
    assert ("hardware", "Abacus 9 (cpu, 3 threads)") in found.facts
    text = write_report(folder).read_text()
    page = Page(text)
    (told,) = page.rows("Runs")
    (group,) = chart_data(text)["groups"]
    assert [group["commands"][c["command"]] for c in group["cells"]] == [told["command"]]
    assert told["command"] == "x2l compressor=tome 'top_k=[1,2]'"
    assert told["hash of the configuration"] == RECORDS[0].condition.run_id
    (made,) = page.rows("Code, versions and machines")
    assert "torch" in made["versions"] and made["weights"] == "feed" and made["sessions"] == "1"


def test_each_cell_has_the_command_that_asked_for_it_where_several_went_to_one_folder(tmp_path):
    """Hydra keeps the overrides of the last call alone."""
    records = [record(selector=name) for name in ("attention", "random", "oracle")]
    (run,) = {tmp_path / r.condition.run_id for r in records}
    write_runs(tmp_path, records)
    known = [{"overrides": ["selector=attention"]}, {"overrides": ["selector=[random,none]"]}]
    for one, asked in zip(records[1::-1], known[::-1], strict=True):
        described = describe(one.condition.run_id, {}, "cpu", "p", 1, **asked)
        described.save(run, [to_json(one.condition)], None)
    text = write_report(tmp_path).read_text()
    (group,) = chart_data(text)["groups"]
    told = {
        cell["name"]: cell["command"] is not None and group["commands"][cell["command"]]
        for cell in group["cells"]
    }
    assert told == {
        "tome attention k=1": "x2l selector=attention",
        "tome random k=1": "x2l 'selector=[random,none]'",
        "tome oracle k=1": False,
    }
    (shown,) = Page(text).rows("Runs")
    assert shown["command"] == "x2l 'selector=[random,none]'; x2l selector=attention"


def test_runs_of_one_name_in_two_sweeps_are_told_apart(tmp_path):
    for day, machine, one in zip("ab", ("Abacus 9", "Abacus 10"), RECORDS[:2], strict=True):
        run = write_runs(tmp_path / day, [one]) / "12-00-00"
        (tmp_path / day / one.condition.run_id).rename(run)
        describe(f"hash-{day}", {"a": 1}, "cpu", machine, 3, "feed").save(run, [], None)
    page = Page(write_report(tmp_path).read_text())
    assert [row["run"] for row in page.rows("Runs")] == ["12-00-00"] * 2
    assert [row["hash of the configuration"] for row in page.rows("Runs")] == ["hash-a", "hash-b"]
    machines = {row["machine"] for row in page.rows("Code, versions and machines")}
    assert machines == {"Abacus 9 (cpu)", "Abacus 10 (cpu)"}


def test_nothing_answered_is_one_message_with_a_remedy(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path / "none")])
    assert exit_.value.code == 2 and "no such folder" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    StatusFile(tmp_path / "run", "x").write("failed", error="ValueError: no such model")
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path)])
    told = capsys.readouterr().err
    assert exit_.value.code == 1 and "run x2l first" in told
    assert "run: failed (ValueError: no such model)" in told
    assert not (tmp_path / "report.html").exists()


def test_console_script_writes_where_it_is_told(swept, tmp_path, capsys):
    folder = write_runs(tmp_path / "s", RECORDS[:6])
    main([str(folder), "--out", str(tmp_path / "new" / "r.html")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "new" / "r.html")
    assert Page((tmp_path / "new" / "r.html").read_text()).rows("Cells")
    with pytest.raises(SystemExit) as exit_:
        main([str(folder), "--out", str(tmp_path)])
    assert exit_.value.code == 2 and "is a folder" in capsys.readouterr().err
