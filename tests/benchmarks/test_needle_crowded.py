"""Crowded scenes of the needle benchmark: what is in view, what is asked, and that nothing marks it."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest

from x2l.benchmarks.needle.benchmark import Needle
from x2l.benchmarks.needle.crowded import (
    EMPTY,
    LEAST_STEPS,
    OFTEN,
    SINGLES,
    crowd_questions,
    draw_crowd,
)
from x2l.benchmarks.needle.drawing import RGB
from x2l.benchmarks.needle.scene import SHAPES
from x2l.video import read_frames

SMALL = {"scene": "crowded", "videos": 2, "seconds": 40, "fps": 1.0}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    made = Needle(str(tmp_path_factory.mktemp("crowded")), **SMALL)
    made.prepare()
    return made


def annotation(sample):
    with open(sample.video.removesuffix(".mp4") + ".json") as file:
        return json.load(file)


@pytest.mark.parametrize("in_view", [1, 2, 3, 4])
def test_every_step_shows_as_many_objects_as_asked_in_different_quadrants(in_view):
    for seed in range(20):
        crowd = draw_crowd(np.random.default_rng(seed), LEAST_STEPS + seed, in_view)
        seen = crowd.shape != EMPTY
        assert (seen.sum(1) == in_view).all()
        assert ((crowd.colour != EMPTY) == seen).all()
    if in_view < 4:
        assert len({tuple(row) for row in seen.tolist()}) > 1  # not always the same quadrants


def test_asked_shapes_occur_once_or_a_known_few_times_each_at_a_moment_of_its_own():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        wanted = tuple(int(count) for count in rng.integers(1, 5, 2))
        crowd = draw_crowd(rng, LEAST_STEPS, 4, wanted)
        count = np.bincount(crowd.shape[crowd.shape != EMPTY], minlength=len(SHAPES))
        assert len(crowd.single) == SINGLES and (count[crowd.single] == 1).all()
        assert count[crowd.often].tolist() == list(crowd.counts)
        assert set(wanted) <= {1, *crowd.counts} and len(set(crowd.counts)) == OFTEN
        asked = np.isin(crowd.shape, [*crowd.single, *crowd.often])
        assert (asked.sum(1) <= 1).all()


def test_nothing_marks_what_may_be_asked():
    """Colour, quadrant and moment of askable objects are spread as everything else's; parts are drawn anew."""
    colour, place = np.zeros((2, 8)), np.zeros((2, 4))
    part, moment = np.zeros(len(SHAPES)), []
    for seed in range(400):
        crowd = draw_crowd(np.random.default_rng(seed), 40, 3)
        asked = np.isin(crowd.shape, [*crowd.single, *crowd.often])
        for row, which in enumerate((asked, (crowd.shape != EMPTY) & ~asked)):
            colour[row] += np.bincount(crowd.colour[which], minlength=8)
            place[row] += which.sum(0)
        moment += np.argwhere(asked)[:, 0].tolist()
        part[[*crowd.single, *crowd.often]] += 1
    for values in (*colour, *place):
        assert abs(values / values.mean() - 1).max() < 0.1
    assert abs(np.mean(moment) / 19.5 - 1) < 0.03
    assert abs(part / 400 - (SINGLES + OFTEN) / len(SHAPES)).max() < 0.1


def test_a_chunk_holds_many_different_things():
    """Eight seconds with four in view are 16 objects, nearly all of them different; no look-alike is asked."""
    different = []
    for seed in range(20):
        crowd = draw_crowd(np.random.default_rng(seed), 64, 4)
        things = crowd.shape * 8 + crowd.colour
        different += [len(set(chunk)) for chunk in things.reshape(16, 16).tolist()]
    assert np.mean(different) > 11


@pytest.mark.parametrize("number", [1, 2, 3])
def test_first_or_last_tells_nothing_about_the_letter(number):
    seen = set()
    for video in range(60):
        rng = np.random.default_rng(video)
        crowd = draw_crowd(rng, 64, 4)
        answers = tuple((video + place) % 4 for place in range(number))
        for asked in crowd_questions(rng, crowd, 2, "ordering", answers, (1,) * number):
            seen.add(("first" in asked.text, asked.answer))
    assert len(seen) == 8


def test_answers_and_spans_follow_from_the_objects_by_brute_force(benchmark):
    for sample in benchmark.samples():
        objects = annotation(sample)["needles"]
        right = sample.choices["ABCD".index(sample.answer)]
        assert len(set(sample.choices)) == 4
        words = [word.strip("?") for word in sample.question.split()]
        shape = [word for word in words if word in SHAPES]
        if sample.task == "retrieval":
            (only,) = [each for each in objects if each["shape"] == shape[0]]
            assert only["colour"] == right
        elif sample.task == "counting":
            assert str(sum(each["shape"] == shape[0] for each in objects)) == right
        else:
            seen = [e["shape"] for e in objects if e["shape"] in sample.choices]  # in time order
            assert sorted(seen) == sorted(sample.choices)
            assert seen[0 if "first" in words else -1] == right
        asked = set(sample.choices if sample.task == "ordering" else shape)
        assert sample.spans == tuple(
            (each["start"], each["start"] + 2) for each in objects if each["shape"] in asked
        )


def test_objects_of_the_annotation_are_on_screen_in_their_quadrant(benchmark):
    sample = benchmark.samples()[0]
    pixels = read_frames(sample.video, None, 1.0).pixels.numpy().astype(int)
    found = []
    for each in annotation(sample)["needles"]:
        y, x = each["place"] // 2 * 32, each["place"] % 2 * 32
        corner = pixels[each["start"] : each["start"] + 2, y : y + 32, x : x + 32]
        near = np.abs(corner - np.array(RGB[each["colour"]])).max(-1) < 60
        found.append((near.sum((1, 2)) > 25).all())
    assert len(found) == 80 and np.mean(found) > 0.97


def test_truths_are_balanced(tmp_path):
    benchmark = Needle(str(tmp_path), **(SMALL | {"videos": 8, "seconds": 32}))
    benchmark.prepare()
    for task in ("retrieval", "ordering", "counting"):
        letters = Counter(s.answer for s in benchmark.samples() if s.task == task)
        assert letters == dict.fromkeys("ABCD", 4)
    counting = [s for s in benchmark.samples() if s.task == "counting"]
    counts = Counter(s.choices["ABCD".index(s.answer)] for s in counting)
    assert counts == dict.fromkeys("1234", 4)


def test_same_values_give_the_same_bytes(benchmark, tmp_path):
    again = Needle(str(tmp_path), **(SMALL | {"videos": 3}))
    again.prepare()
    for path in benchmark.folder.glob("0*"):
        assert (again.folder / path.name).read_bytes() == path.read_bytes()


def test_other_values_get_another_folder_and_what_does_not_matter_does_not(benchmark):
    root = str(benchmark.root)
    changes = ({}, {"in_view": 2}, {"every": 4, "seconds": 64}, {"seed": 1}, {"split": "dev"})
    changes += ({"scene": "plain"},)
    assert len({Needle(root, **(SMALL | change)).folder for change in changes}) == 6
    assert Needle(root, **SMALL, needles=5, kinds=("edit",)).folder == benchmark.folder


def test_splits_hold_different_scenes(benchmark):
    other = Needle(str(benchmark.root), **SMALL, split="dev")
    other.prepare()
    mine = [(s.question, s.choices, s.spans) for s in benchmark.samples()]
    assert mine != [(s.question, s.choices, s.spans) for s in other.samples()]


def test_objects_stay_as_long_as_asked(tmp_path):
    benchmark = Needle(str(tmp_path), **(SMALL | {"videos": 1, "seconds": 64, "every": 4}))
    benchmark.prepare()
    assert {s[1] - s[0] for sample in benchmark.samples() for s in sample.spans} == {4.0}
    starts = Counter(each["start"] for each in annotation(benchmark.samples()[0])["needles"])
    assert starts == dict.fromkeys(range(0, 64, 4), 4)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("scene", {"scene": "full"}),
        ("in_view", {"in_view": 0}), ("in_view", {"in_view": 9}), ("in_view", {"in_view": 2.5}),
        ("every", {"every": 3}), ("every", {"every": 0}), ("every", {"every": 2.0}),
        ("seconds", {"seconds": 23}), ("seconds", {"every": 8, "seconds": 80}),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_in_one_line_with_rule_and_remedy(tmp_path, field, values):
    with pytest.raises(ValueError, match=rf"^benchmark\.{field}=[^\n]*must be [^\n]*$"):
        Needle(str(tmp_path), **({"scene": "crowded"} | values))


def test_plain_scenes_are_what_they_were(tmp_path):
    """What files say that were made before crowded scenes were there; the encoder's bytes differ between processors."""
    benchmark = Needle(str(tmp_path), videos=2, seconds=24, fps=1.0)
    benchmark.prepare()
    assert benchmark.folder.name == "needle-test-0-24s-db25b3d9"
    digest = hashlib.sha256()
    for path in sorted(benchmark.folder.glob("*.json")):
        digest.update(path.name.encode() + path.read_bytes())
    assert digest.hexdigest()[:16] == "043ffd7a2af1021d"
