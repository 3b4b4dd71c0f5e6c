import warnings

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import AxesImage, imread
from matplotlib.patches import Rectangle

from x2l.analysis.figure_style import style_of_level
from x2l.cli.ask.contact_sheet import (
    BAR,
    DPI,
    LINES,
    MOST_THUMBNAILS,
    WIDTH,
    SheetChunk,
    draw_sheet,
    save_sheet,
)

QUESTION = "Who opens the door?"


def chunks(count, reloaded=(), shape=(36, 64, 3), rated=True):
    """Chunks of 8 seconds; each thumbnail has a grey of its own, relevance rises and falls."""
    return [
        SheetChunk(
            seconds=(8.0 * index, 8.0 * index + 8),
            thumbnail=np.full(shape, 40 + index % 150, np.uint8),
            relevance=float(1 + index % 5) if rated else None,
            reloaded=index in reloaded,
        )
        for index in range(count)
    ]


def draw(shown, question=QUESTION, answer="The cat.", facts=("film.mp4",)):
    return draw_sheet(question, answer, shown, ("low 2x", "high 32x"), "attention", facts)


def named(figure, prefix):
    """Artists by the number behind a prefix, e.g. `bar-3`."""
    (axes,) = figure.axes
    found = [a for a in axes.get_children() if str(a.get_gid() or "").startswith(f"{prefix}-")]
    return {int(a.get_gid().split("-")[1]): a for a in found}


def box(artist):
    """(left, bottom, right, top) in inches."""
    if isinstance(artist, AxesImage):
        left, right, bottom, top = artist.get_extent()
        return left, bottom, right, top
    if isinstance(artist, Rectangle):
        (left, bottom), width, height = artist.get_xy(), artist.get_width(), artist.get_height()
        return left, bottom, left + width, bottom + height
    corners = artist.get_xy()
    return (*corners.min(axis=0), *corners.max(axis=0))


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def pixels(figure, path):
    save_sheet(figure, path)
    image = imread(path)[:, :, :3]
    assert image.shape[1] == WIDTH * DPI
    assert image.shape[0] == pytest.approx(figure.get_figheight() * DPI, abs=1)
    return image


def at(image, x, y):
    """The pixel at a place in inches from the lower left corner."""
    return image[image.shape[0] - 1 - round(y * DPI), round(x * DPI)]


@pytest.mark.parametrize("shape", [(36, 64, 3), (64, 64, 3), (64, 36, 3), (20, 200, 3)])
def test_every_chunk_has_its_bar_and_enough_of_them_a_readable_thumbnail(shape):
    for count in (1, 4, 16, 48, 49, 120, 300):
        figure = draw(chunks(count, shape=shape))
        pictures, bars = named(figure, "thumbnail"), named(figure, "bar")
        assert sorted(bars) == list(range(count))
        group = -(-count // MOST_THUMBNAILS)
        assert len(pictures) == -(-count // group)
        width, height = figure.get_size_inches()
        assert height < 12
        for artist in (*pictures.values(), *bars.values()):
            left, bottom, right, top = box(artist)
            assert 0 <= left < right <= width and 0 <= bottom < top <= height
        for picture in pictures.values():
            left, bottom, right, top = box(picture)
            assert max(right - left, top - bottom) > 0.65
            assert (right - left) / (top - bottom) == pytest.approx(shape[1] / shape[0])


def overlap(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@pytest.mark.parametrize("count", [4, 16, 120])
def test_nothing_lies_on_a_thumbnail_or_beyond_the_edge(count):
    reloaded = range(0, count, 3)
    figure = draw(chunks(count, reloaded), question="A long question with many words? " * 9)
    figure.canvas.draw()
    inches = figure.dpi_scale_trans.inverted()
    words = [t.get_window_extent().transformed(inches).extents for t in figure.axes[0].texts]
    parts = [box(a) for prefix in ("bar", "mark") for a in named(figure, prefix).values()]
    pictures = [box(a) for a in named(figure, "thumbnail").values()]
    for index, picture in enumerate(pictures):
        assert not any(overlap(picture, other) for other in pictures[:index])
        assert not any(overlap(picture, part) for part in [*words, *parts])
    for index, text in enumerate(words):
        assert text[0] > 0 and text[2] < WIDTH and text[1] > 0 and text[3] < figure.get_figheight()
        assert not any(overlap(text, other) for other in words[:index])


def test_chunks_run_in_rows_and_bars_stand_under_their_thumbnails():
    figure = draw(chunks(16))
    pictures, bars = named(figure, "thumbnail"), named(figure, "bar")
    places = [(-round(box(pictures[i])[3], 6), box(pictures[i])[0]) for i in range(16)]
    assert places == sorted(places) and len({top for top, _ in places}) > 1
    for index in range(16):
        left, bottom, right, _ = box(pictures[index])
        assert left < box(bars[index])[0] and box(bars[index])[2] < right
        assert box(bars[index])[3] < bottom


def test_bars_are_as_tall_as_chunks_are_relevant():
    bars = named(draw(chunks(10)), "bar")
    heights = [bars[index].get_height() for index in range(10)]
    assert heights == pytest.approx([BAR * (1 + index % 5) / 5 for index in range(10)])


def test_relevance_below_zero_has_bars_too():
    shown = [
        SheetChunk((8.0 * i, 8.0 * i + 8), np.zeros((9, 16, 3), np.uint8), value, False)
        for i, value in enumerate((-2.0, 0.0, 2.0, None))
    ]
    bars = named(draw(shown), "bar")
    assert [bars[i].get_height() for i in range(3)] == pytest.approx([0, BAR / 2, BAR])
    assert 3 not in bars


def test_reloaded_chunks_are_marked_by_more_than_colour(tmp_path):
    """A frame around the picture, a triangle below the bar, the bar's colour, and a word."""
    figure = draw(chunks(8, reloaded=(2, 5)))
    frames, marks, bars = (named(figure, prefix) for prefix in ("frame", "mark", "bar"))
    pictures, times = named(figure, "thumbnail"), named(figure, "time")
    assert sorted(frames) == sorted(marks) == [2, 5]
    assert times[2].get_text() == "00:16 re-loaded" and times[3].get_text() == "00:24"
    image = pixels(figure, tmp_path / "sheet.png")
    signal = pytest.approx(to_rgb(style_of_level(0, 2).colour), abs=0.02)
    for index in range(8):
        left, bottom, right, top = box(pictures[index])
        edge, middle = at(image, (left + right) / 2, top), at(image, (left + right) / 2, top - 0.3)
        assert (edge == signal) == (index in (2, 5))
        assert middle == pytest.approx([(40 + index) / 255] * 3, abs=0.01)  # its own thumbnail
        low, foot, high, head = box(bars[index])
        assert (at(image, (low + high) / 2, (foot + head) / 2) == signal) == (index in (2, 5))
        below = at(image, (low + high) / 2, foot - 0.1)
        assert below == (signal if index in (2, 5) else pytest.approx([1, 1, 1]))


def test_where_chunks_share_a_thumbnail_it_shows_the_most_relevant_reloaded_one():
    shown = chunks(120, reloaded=(1, 3, 7, 8))  # three to a thumbnail; 8 is more relevant than 7
    figure = draw(shown)
    frames, marks, pictures = (named(figure, p) for p in ("frame", "mark", "thumbnail"))
    assert sorted(marks) == [1, 3, 7, 8]
    assert sorted(frames) == [1, 3, 8]
    assert sorted(pictures)[:4] == [1, 3, 8, 10]
    assert (np.asarray(pictures[8].get_array()) == shown[8].thumbnail).all()
    assert named(figure, "time")[8].get_text() == "01:04"
    middles = [sum(box(named(figure, "bar")[i])[::2]) / 2 for i in (6, 7, 8)]
    left, _, right, _ = box(pictures[8])
    assert left < middles[0] < middles[1] < middles[2] < right


def test_a_sheet_without_ratings_has_marks_but_no_bars():
    figure = draw(chunks(4, reloaded=(0, 1, 2, 3), rated=False))
    assert named(figure, "bar") == {} and sorted(named(figure, "mark")) == [0, 1, 2, 3]
    assert not any("relevance" in text for text in texts(figure))


def test_question_answer_levels_and_facts_are_written():
    question = "Which one?\nA. a $5_ or $6^ bag\nB. the blue $6_x^2 bag"
    figure = draw(chunks(4, (1,)), question, "B, I think", ("film.mp4, 00:32", "2 of 9 MB"))
    found = texts(figure)
    head = ["Which one?", "A. a $5_ or $6^ bag", "B. the blue $6_x^2 bag", "Answer: B, I think"]
    assert found[:4] == head
    assert "re-loaded: 1 of 4 chunks, low 2x (others high 32x)" in found
    assert "relevance of each chunk (attention), at most 4" in found
    assert found[-2:] == ["film.mp4, 00:32", "2 of 9 MB"]
    figure.canvas.draw()  # dollars are dollars, not formulas


def test_long_texts_are_wrapped_and_very_long_ones_cut(tmp_path):
    answer = " ".join(f"word{number}" for number in range(60))
    lines = texts(draw(chunks(2), answer=answer))
    joined = " ".join(line for line in lines if "word" in line)
    assert joined == f"Answer: {answer}"
    many = texts(draw(chunks(2), answer="word " * 2000 + "x" * 400))
    assert sum("word" in line for line in many) == LINES
    assert [line for line in many if "word" in line][-1].endswith(" … (cut off)")
    wide = "这个视频里的人在做什么？" * 30
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no warning about letters that no font has
        save_sheet(draw(chunks(2), question=wide), tmp_path / "wide.png")
    assert "".join(texts(draw(chunks(2), question=wide))[:-4]).startswith(wide[:40])


def test_equal_answers_give_equal_bytes_and_no_part_is_left(tmp_path):
    for name in "ab":
        save_sheet(draw(chunks(5, (2,))), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_no_chunk_is_an_error():
    with pytest.raises(ValueError, match="at least one chunk"):
        draw([])
