"""What others reported, beside a sweep's own cells: on the rows of the file itself."""

import json
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.cli.test_compare import write
from tests.synthetic import record
from x2l.analysis.cell_names import names
from x2l.analysis.points import points
from x2l.analysis.published import base_of, beside, entries, published
from x2l.analysis.report.build import gather, render
from x2l.analysis.report.page_data import page_data
from x2l.cli import compare
from x2l.cli.compose import CONF, composed

DOCS = Path(__file__).parents[2] / "docs" / "reproduce.md"

CELL = {
    "model": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "benchmark": "videomme",
    "frames": 8,
    "fps": None,
    "protocol": "lmms_eval",
}


def answered(**changes):
    values = CELL | changes
    return [
        record(**values, video_id=f"v{n}", sample_id=f"v{n}/q", correct=float(n < 5))
        for n in range(8)
    ]


def test_every_row_has_a_number_and_a_source():
    rows = published()
    assert len(rows) == 305 and len(set(rows)) == 305
    assert all(0 < row.accuracy < 100 and row.source and row.paper for row in rows)
    assert {row.read_in for row in rows} == {"primary", "primary (copy)", "note"}
    assert not any(re.search(r"read_file|\bid \d", row.source) for row in rows)


def test_rows_of_the_same_model_set_and_frames_stand_beside_a_cell():
    """BOLT's README has the 7B LLaVA-OneVision at 8 frames of Video-MME: uniform 54.0, BOLT 56.1."""
    (group,) = beside(points(answered()))
    bolt = [
        (row.method[:4], row.accuracy, base and base.accuracy)
        for row, base in group.rows
        if row.paper == "BOLT"
    ]
    assert bolt == [("BOLT", 56.1, 54.0), ("unif", 54.0, None)]
    lines = entries(group, names(p.condition for p in group.points))
    numbers = [float(line["accuracy"]) for line in lines]
    assert numbers == sorted(numbers, reverse=True) and lines[0]["who"] == "here"  # 62.5
    assert {line["source"] == "" for line in lines if line["who"] == "here"} == {True}


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "x2l_tiny"},
        {"model": "Qwen/Qwen2.5-VL-7B-Instruct-other"},
        {"benchmark": "needle"},
        {"benchmark": "mlvu_test"},
        {"benchmark": "videomme_w_subtitle"},
        {"frames": 9},
        {"frames": 8, "fps": 1.0, "frames_sampled": 7},
    ],
)
def test_nothing_stands_beside_another_model_set_or_number_of_frames(changes):
    assert beside(points(answered(**changes))) == []


def test_every_model_of_the_file_that_has_a_yaml_is_found_by_its_checkpoint():
    """Two have none: InternVL2.5, and a checkpoint that was trained for its method."""
    yamls = {OmegaConf.load(path).name_or_path for path in (CONF / "model").glob("*.yaml")}
    assert {row.checkpoint for row in published()} - {""} <= yamls
    without = {row.model for row in published() if not row.checkpoint}
    assert without == {"InternVL2.5-8B", "Video-XL-2-8B (trained)"}
    cell = {"model": "lmms-lab/LLaVA-Video-7B-Qwen2", "frames": 64}
    (group,) = beside(points(answered(**cell)))
    assert {row.paper for row, _ in group.rows} == {"FlexMem"}


def test_a_base_of_other_frames_says_so():
    cell = {"model": "lmms-lab/LLaVA-Video-7B-Qwen2", "benchmark": "lvbench", "frames": 512}
    (group,) = beside(points(answered(**cell)))
    lines = entries(group, names(p.condition for p in group.points))
    assert any(re.search(r"^[\d.]+ \(frames: ", line["base"]) for line in lines)


def test_a_local_copy_of_a_checkpoint_is_the_same_model_and_parts_of_a_set_are_no_headline():
    (group,) = beside(points(answered(model="/models/LLaVA-OneVision-qwen2-7b-ov-hf", frames=32)))
    assert not {row.split for row, _ in group.rows} & {"short", "medium", "long"}


def test_the_base_is_that_of_the_same_paper_and_part():
    for row in published():
        same = [o for o in published() if (o.paper, o.model) == (row.paper, row.model)]
        base = base_of(row)
        assert base is None or base in {
            o for o in same if o.is_base and (o.benchmark, o.split) == (row.benchmark, row.split)
        }
    assert sum(base_of(row) is not None for row in published()) > 100


def test_the_commands_of_the_docs_are_of_the_rows_they_name():
    """Each composes, is of the row's model, set and frames, and compresses nothing."""
    lines = re.findall(r"\| ([\d.]+) \| (.+?) \| (?:`x2l (.*)`|the same) \|", DOCS.read_text())
    assert len(lines) == 10
    command = ""
    for accuracy, paper, told in lines:
        command = told or command
        config = composed(command.split())
        cell = CELL | {"model": config.model.name_or_path, "frames": config.video.frames}
        name = re.search(r"benchmark=(\w+)", command)[1]
        cell["benchmark"] = {"mlvu": "mlvu_dev", "longvideobench": "longvideobench_val_v"}.get(
            name, name
        )
        (group,) = beside(points(answered(**cell)))
        (row,) = [r for r, _ in group.rows if (r.paper, r.accuracy) == (paper, float(accuracy))]
        assert row.is_base and config.levels.low.ratio == config.levels.high.ratio == 1


def page_of(folder):
    report = gather(folder)
    return render(report, page_data(report.questions))


def test_the_command_and_the_report_show_them(tmp_path, capsys):
    folder = write(tmp_path / "sweep", answered())
    compare.main([str(folder), "--published"])
    out = capsys.readouterr().out
    assert "LLaVA-OneVision-7B, Video-MME, 8 frames; here: videomme, protocol lmms_eval" in out
    assert re.search(
        r"\n +2 +BOLT +BOLT \(inverse.* 8 frames +56\.1(.*\n)* +2 +54\.0 +github\.com/sming256/BOLT",
        out,
    )
    page = page_of(folder)
    assert 'class="others"' in page and "github.com/sming256/BOLT" in page
    other = write(tmp_path / "other", answered(frames=9))
    assert 'class="others"' not in page_of(other)
    with pytest.raises(SystemExit) as ended:
        compare.main([str(other), "--published"])
    assert ended.value.code == 2
    assert "nobody reported a number of llava-hf/" in capsys.readouterr().err


def test_the_rows_in_every_form_of_one_folder_alone(tmp_path, capsys):
    folder = str(write(tmp_path / "sweep", answered()))
    compare.main([folder, "--published", "--format", "csv"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("of,who,what") and all("Video-MME, 8 frames" in line for line in lines)
    compare.main([folder, "--published", "--format", "markdown"])
    assert re.search(r"^\| BOLT +\| BOLT", capsys.readouterr().out, re.MULTILINE)
    compare.main([folder, "--published", "--json"])
    (group,) = json.loads(capsys.readouterr().out)["published"]
    assert {row["who"] for row in group["rows"]} >= {"here", "BOLT"}
    compare.main([folder, "--published"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 120
    for more in ([folder], ["--b", "selector=none"]):
        with pytest.raises(SystemExit) as ended:
            compare.main([folder, *more, "--published"])
        assert ended.value.code == 2
        assert "--published: must be of A alone, not of" in capsys.readouterr().err
