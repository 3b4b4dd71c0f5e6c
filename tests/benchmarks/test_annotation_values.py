"""Every field of every annotation layout with values of a wrong kind, folders linked into themselves, and BOMs."""

import copy
import json
import math
import os

import pytest

from tests import layouts
from x2l.benchmarks.annotation_row import Row
from x2l.benchmarks.base import DatasetError
from x2l.benchmarks.dataset_folder import Folder, Source
from x2l.benchmarks.longvideobench import longvideobench
from x2l.benchmarks.lvbench import lvbench
from x2l.benchmarks.mlvu import mlvu
from x2l.benchmarks.needle.benchmark import Needle
from x2l.benchmarks.videomme import videomme
from x2l.benchmarks.vnbench import vnbench

WRONG = (None, True, -3, 1.5, math.nan, [], ["x", None], {}, "", "\ud800", "a\0b")
# layout -> what writes it, what reads it. As .json: a table of .parquet has one type a column.
SETS = {
    "videomme": (layouts.videomme, videomme),
    "mlvu dev": (layouts.mlvu_dev, mlvu),
    "mlvu test": (layouts.mlvu_test, lambda root: mlvu(root, "test")),
    "longvideobench": (lambda root: layouts.longvideobench(root, form="json"), longvideobench),
    "vnbench": (lambda root: layouts.vnbench(root, types=("ret_edit1",)), vnbench),
    "lvbench": (layouts.lvbench, lvbench),
}


def places(value, at=()):
    """Where in nested values something stands."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items if isinstance(value, dict | list) else ():
        yield (*at, key)
        yield from places(inner, (*at, key)) if isinstance(inner, dict | list) else ()


def changed(value, at, wrong):
    value = copy.deepcopy(value)
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = wrong
    return value


def plain(samples):
    """Whether every word of a question is a word, and every span one in time."""
    for sample in samples:
        words = (sample.id, sample.question, sample.task, *sample.choices, *sample.tags.values())
        assert all(isinstance(word, str) and word.encode() for word in words)
        assert not {"None", "nan", "True", "[]", "{}"} & set(words)
        assert all(0 <= start <= end < math.inf for start, end in sample.spans or ())


@pytest.mark.parametrize("name", SETS)
def test_a_value_of_a_wrong_kind_is_refused_by_file_row_and_field_or_not_used(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr(layouts, "video", lambda *_: None)
    write, read = SETS[name]
    write(tmp_path)
    rows, kept, change = Folder.rows, {}, None

    def changed_rows(self, *names):
        if names not in kept:
            kept[names] = rows(self, *names)
        found = kept[names]
        if change is None or names != next(iter(kept)):
            return found
        return [Row(changed(dict(found[0]), *change), found[0].path, 0), *found[1:]]

    monkeypatch.setattr(Folder, "rows", changed_rows)
    plain(read(str(tmp_path)).samples())
    first = next(iter(kept.values()))[
        0
    ]  # of the first file; where there are several they are alike
    path, refused = first.path, 0
    for at in places(dict(first)):
        for wrong in WRONG:
            change = (at, wrong)
            try:
                plain(read(str(tmp_path)).samples())
            except DatasetError as error:
                assert str(path.name) in str(error) or "benchmark.root=" in str(error), error
                assert "\n" not in str(error) and str(error).isprintable()
                refused += 1
    assert refused > 40


def test_needles_own_annotations_are_checked_and_made_again(tmp_path):
    benchmark = Needle(str(tmp_path), videos=1, seconds=16)
    benchmark.prepare()
    path, before = benchmark.folder / "00000.json", benchmark.samples()
    whole = json.loads(path.read_text())
    for at in places({**whole, "needles": [], "questions": whole["questions"][:1]}):
        for wrong in WRONG:
            path.write_text(json.dumps(changed(whole, at, wrong)))
            try:
                plain(benchmark.samples())
            except DatasetError as error:
                assert "remove it, and it is made again" in str(error)
    path.unlink()
    benchmark.prepare()
    assert benchmark.samples() == before


def test_folders_linked_into_themselves_and_files_of_two_names_are_no_second_video(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "film.mp4").write_bytes(b"x")
    os.symlink(tmp_path, tmp_path / "deep" / "again")
    os.symlink(tmp_path / "deep", tmp_path / "other")
    os.symlink("nowhere", tmp_path / "broken.mp4")
    os.symlink("loop.mp4", tmp_path / "loop.mp4")
    folder = Folder("set", tmp_path, Source("a/b"))
    assert folder.video("film", ("videos",)).samefile(tmp_path / "deep" / "film.mp4")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "film.mp4").write_bytes(b"x")
    with pytest.raises(DatasetError, match="is there twice"):
        Folder("set", tmp_path, Source("a/b")).video("film", ("videos",))


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    (tmp_path / "a.json").write_text('[{"a": 1}]', encoding="utf-8-sig")
    (tmp_path / "b.jsonl").write_text('{"a": 1}\n', encoding="utf-8-sig")
    folder = Folder("set", tmp_path, Source("a/b"))
    assert [dict(row) for name in ("a.json", "b.jsonl") for row in folder.rows(name)] == [
        {"a": 1}
    ] * 2
