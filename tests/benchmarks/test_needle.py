import itertools
import math
from collections import Counter

import numpy as np
import pytest

from x2l.benchmarks.needle.benchmark import SEED_STEP, SEEDS, SPLITS, Needle
from x2l.benchmarks.needle.drawing import draw_needle, shape_mask
from x2l.benchmarks.needle.scene import COLOURS, SHAPES, make_questions, make_scene, partitions
from x2l.benchmarks.needle.scene import Needle as Event
from x2l.video import read_frames

SMALL = {"videos": 2, "seconds": 24, "fps": 1.0}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    made = Needle(str(tmp_path_factory.mktemp("needle")), **SMALL)
    made.prepare()
    return made


def test_files_are_videos_of_the_asked_length_and_size(benchmark):
    frames = read_frames(benchmark.samples()[0].video, None, 1.0)
    assert frames.pixels.shape == (24, 64, 64, 3)
    assert frames.seconds.tolist() == list(range(24))


def test_preparing_again_writes_nothing(benchmark):
    before = {p.name: p.stat().st_mtime_ns for p in benchmark.folder.glob("0*")}
    benchmark.prepare()
    assert {p.name: p.stat().st_mtime_ns for p in benchmark.folder.glob("0*")} == before


def test_same_values_give_the_same_bytes_and_a_longer_set_begins_with_the_shorter(
    benchmark, tmp_path
):
    again = Needle(str(tmp_path), **(SMALL | {"videos": 3}))
    again.prepare()
    for path in benchmark.folder.glob("0*"):
        assert (again.folder / path.name).read_bytes() == path.read_bytes()
    ids = [sample.id for sample in benchmark.samples()]
    assert [sample.id for sample in again.samples()][: len(ids)] == ids


def test_a_stopped_preparation_goes_on(tmp_path):
    class Stop(Exception):
        pass

    def stop(done, total):
        raise Stop

    with pytest.raises(Stop):
        Needle(str(tmp_path), **SMALL).prepare(progress=stop)
    benchmark = Needle(str(tmp_path), **SMALL)
    assert sorted(p.name for p in benchmark.folder.glob("*.mp4")) == ["00000.mp4"]
    with pytest.raises(FileNotFoundError, match="prepare"):
        benchmark.samples()
    benchmark.prepare()
    assert len(benchmark.samples()) == 12


def test_other_values_get_another_folder(benchmark):
    root = str(benchmark.root)
    folders = {
        Needle(root, **SMALL | change).folder
        for change in (
            {},
            {"seed": 1},
            {"split": "dev"},
            {"needles": 8},
            {"fps": 2.0},
            {"seconds": 25},
            {"questions": 3},
            {"width": 96},
            {"kinds": ("edit",)},
        )
    }
    assert len(folders) == 9
    assert Needle(root, **SMALL | {"tasks": ("counting",)}).folder == benchmark.folder


def test_split_seed_ranges_never_meet():
    ranges = sorted((first, first + SEEDS * SEED_STEP) for first in SPLITS.values())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ranges))


def test_splits_hold_different_scenes(benchmark):
    root = str(benchmark.root)
    other = Needle(root, **SMALL, split="dev")
    other.prepare()
    mine = [(s.question, s.choices, s.spans) for s in benchmark.samples()]
    assert mine != [(s.question, s.choices, s.spans) for s in other.samples()]


def test_answers_follow_from_the_annotated_needles(benchmark):
    import json

    for sample in benchmark.samples():
        path = sample.video.removesuffix(".mp4") + ".json"
        with open(path) as file:
            needles = json.load(file)["needles"]
        right = sample.choices["ABCD".index(sample.answer)]
        shape = [word.strip("?") for word in sample.question.split() if word.strip("?") in SHAPES]
        if sample.task == "retrieval":
            (only,) = [n for n in needles if n["shape"] == shape[0]]
            assert only["colour"] == right
        elif sample.task == "counting":
            assert str(sum(n["shape"] == shape[0] for n in needles)) == right
        else:
            seen = [n["shape"] for n in needles if n["shape"] in sample.choices]
            assert sorted(seen) == sorted(sample.choices)
            assert seen[0 if "first" in sample.question else -1] == right
        asked = set(sample.choices if sample.task == "ordering" else shape)
        assert sample.spans == tuple(
            (n["start"], n["start"] + 2) for n in needles if n["shape"] in asked
        )


def test_the_needle_is_on_screen_during_its_span_only(benchmark):
    sample = next(s for s in benchmark.samples() if s.task == "retrieval")
    ((start, end),) = sample.spans
    colour = sample.choices["ABCD".index(sample.answer)]
    pixels = read_frames(sample.video, None, 1.0).pixels.numpy().astype(int)
    from x2l.benchmarks.needle.drawing import RGB

    near = np.abs(pixels - np.array(RGB[colour])).max(-1) < 40
    seen = near.sum((1, 2)) > 40
    assert seen[int(start) : int(end)].all()


def test_truths_are_balanced(tmp_path):
    benchmark = Needle(str(tmp_path), videos=8, seconds=40, fps=1.0)
    benchmark.prepare()
    samples = benchmark.samples()
    for task in ("retrieval", "ordering", "counting"):
        letters = Counter(s.answer for s in samples if s.task == task)
        assert letters == dict.fromkeys("ABCD", 4)
    counting = [s for s in samples if s.task == "counting"]
    counts = Counter(s.choices["ABCD".index(s.answer)] for s in counting)
    assert counts == dict.fromkeys("1234", 4)


def test_circular_asks_each_question_with_its_options_turned(benchmark):
    circular = Needle(str(benchmark.root), **SMALL, circular=True)
    plain, four = benchmark.samples(), circular.samples()
    assert len(four) == 4 * len(plain)
    for sample, tries in zip(plain, zip(*[iter(four)] * 4, strict=True), strict=True):
        assert {circular.group(each) for each in tries} == {sample.id}
        assert sorted(each.answer for each in tries) == list("ABCD")
        rights = {each.choices["ABCD".index(each.answer)] for each in tries}
        assert rights == {sample.choices["ABCD".index(sample.answer)]}
    assert benchmark.group(plain[0]) is None
    assert len({sample.id for sample in four}) == len(four)


def test_scores_right_wrong_and_unreadable(benchmark):
    sample = benchmark.samples()[0]
    wrong = "ABCD".replace(sample.answer, "")[0]
    assert benchmark.score(sample, sample.answer).value == 1.0
    assert benchmark.score(sample, f"({wrong})").value == 0.0
    unread = benchmark.score(sample, "hm")
    assert math.isnan(unread.value) and unread.parsed is None


def test_short_videos_have_as_many_needles_as_slots(tmp_path):
    benchmark = Needle(str(tmp_path), videos=1, seconds=10, fps=1.0)
    benchmark.prepare()
    assert len(benchmark.samples()) == 6


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 1000), ("seed", -1), ("videos", 0), ("seconds", 9), ("seconds", 3601),
        ("tasks", ()), ("tasks", ("naming",)), ("kinds", ("edit", "edit")), ("split", "valid"),
        ("needles", 3), ("needles", 29), ("fps", 0.5), ("width", 65), ("questions", 0),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_rule(tmp_path, field, value):
    with pytest.raises(ValueError, match=rf"benchmark\.{field}=.*must be .*[;:]"):
        Needle(str(tmp_path), **{field: value})


def test_every_scene_has_four_single_shapes_and_no_two_needles_in_a_slot():
    for needles in (5, 8, 12, 28):
        assert partitions(needles)
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = make_scene(rng, 14, 12, "edit", (4,))
        counts = Counter(needle.shape for needle in scene)
        assert sum(count == 1 for count in counts.values()) >= 4
        assert max(counts.values()) == 4
        assert len({needle.start for needle in scene}) == 12


def test_shapes_look_different_from_each_other():
    masks = [shape_mask(shape, 28, 0.0, 64, 32.0, 32.0) for shape in SHAPES]
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            assert np.abs(mask - other).sum() > 100


def test_an_edited_needle_stays_in_its_quadrant():
    image = np.full((64, 64, 3), 100, np.float32)
    for shape in SHAPES:
        for shift in (-0.03, 0.03):
            event = Event(0, shape, COLOURS[0], "edit", 2, (shift, shift), 0.45)
            changed = np.abs(draw_needle(image, event, np.zeros(3)) - image).max(-1) > 60
            assert changed.sum() > 100
            assert not changed[:29].any() and not changed[:, 35:].any()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_first_or_last_tells_nothing_about_the_letter(number):
    """With one question a video, `first` once meant A or C, always."""
    seen = set()
    for video in range(60):
        rng = np.random.default_rng(video)
        scene = make_scene(rng, 64, 12, "edit", (1,) * number)
        answers = tuple((video + place) % 4 for place in range(number))
        for asked in make_questions(rng, scene, "ordering", answers, (1,) * number):
            seen.add(("first" in asked.text, asked.answer))
    assert len(seen) == 8
