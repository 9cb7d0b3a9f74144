"""Plots: names do not overlap, numbers have their digits, and every form of input is drawn."""

import itertools

import pytest
from matplotlib.text import Text

from train_model import plots

PNG = b"\x89PNG"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.69, "0.690"), (20.94, "20.9"), (99.95, "100"), (1234.5, "1234"), (5, "5.00")],
)
def test_three_digits(value, text):
    assert plots.three_digits(value) == text


@pytest.mark.parametrize(
    "heights", [[], [5.0], [0, 0, 0], [0, 1, 2, 30], [0, 9, 9.5, 100, 101, 130]]
)
def test_names_do_not_overlap_keep_their_order_and_stay_near(heights):
    places = plots._apart(heights, 10)
    assert len(places) == len(heights)
    assert all(b - a >= 10 - 1e-9 for a, b in itertools.pairwise(places))
    assert all(
        abs(place - height) <= 10 * len(heights)
        for place, height in zip(places, heights, strict=True)
    )
    if all(b - a >= 10 for a, b in itertools.pairwise(heights)):
        assert places == heights


def test_a_line_is_named_once_right_of_the_last_panel(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, title, path: figures.append(figure))
    both, one = [(1, 1.0), (2, 2.0)], [(1, 3.0)]
    panels = [
        plots.Panel("batch 1", {"ort": both, "trt": one}),
        plots.Panel("batch 4", {"ort": both, "torch": both}),
    ]
    plots.lines(tmp_path / "a.png", "title", [("fp32", panels)], "x", "y", ticks=[1, 2])
    first, second = figures[0].axes
    assert not first.texts
    assert sorted(text.get_text() for text in second.texts) == ["ort", "torch", "trt (batch 1)"]
    assert all(text.get_position()[0] > 1 for text in second.texts)  # outside the frame


@pytest.mark.parametrize("log", [True, False])
def test_lines_write_a_png(tmp_path, log):
    long = [(i + 1, 1.0 + i % 3) for i in range(60)]
    rows = [
        ("fp32", [plots.Panel("a", {"x": [(1, 1.0), (2, 2.0)], "y": [(1, 1.0)]})]),
        ("fp16", [plots.Panel("a", {"x": long}), plots.Panel("b", {})]),
    ]
    plots.lines(tmp_path / "a.png", "title", rows, "tokens", "ms", log=log)
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("rows", [[], [("fp32", [])]])
def test_lines_of_nothing_write_a_png(tmp_path, rows):
    plots.lines(tmp_path / "a.png", "title", rows, "tokens", "ms")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_labels_of_near_points_do_not_overlap(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, title, path: figures.append(figure))
    series = {
        "native": {"fp32, beam 1": (195.0, 33.26), "int8, beam 1": (193.0, 33.17)},
        "rival": {"fp32, beam 5": (190.0, 33.2), "far": (10.0, 12.0)},
    }
    plots.points(tmp_path / "a.png", "title", series, "sentences/s", "BLEU")
    (axes,) = figures[0].axes
    figures[0].draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [*series["native"], *series["rival"]]
    assert all(box.count_overlaps(boxes) == 1 for box in boxes)  # itself


def test_dots_write_a_png(tmp_path):
    dots = [plots.Dot("ort fp32", "fp32", 1.0, 1.5), plots.Dot("trt fp16", "fp16", 0.1, 0.1)]
    plots.dots(tmp_path / "a.png", "title", [("1 x 8", dots), ("2 x 8", dots[:1])], "ms")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_dots_of_nothing_write_a_png(tmp_path):
    plots.dots(tmp_path / "a.png", "title", [], "ms")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
