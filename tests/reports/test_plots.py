"""Plots put numbers where they belong, whatever the numbers are."""

import re
from itertools import pairwise

import pytest

from document import Document
from pocketscribe.reports.plots import HEIGHT, WIDTH, Axis, Point, Series, legend, plot


def drawn(*points: Point, **options: object) -> Document:
    return Document(plot([Series(0, "a", points)], "label", "x", "y", **options))


def places(document: Document) -> list[tuple[float, float]]:
    marks = [p for p in document.all("path") if (p["class"] or "").startswith("mark")]
    found = [re.findall(r"[-\d.]+", mark["transform"] or "") for mark in marks]
    return [(float(x), float(y)) for x, y in found]


def test_a_linear_plot_begins_at_nought() -> None:
    [(x0, y0), (x1, y1), (x2, y2)] = places(
        drawn(Point(0, 0, "a"), Point(5, 2, "b"), Point(10, 4, "c"))
    )
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11) and y0 - y1 == pytest.approx(
        y1 - y2, abs=0.11
    )
    assert (x0, y0) == (46, HEIGHT - 40) and x2 < WIDTH and y2 > 0


def test_a_logarithm_makes_ratios_distances() -> None:
    [(a, _), (b, _), (c, _)] = places(drawn(*(Point(10.0**i, 1, "") for i in range(3)), log="x"))
    assert b - a == pytest.approx(c - b, abs=0.11)


def test_ticks_are_round_and_within() -> None:
    assert Axis("", 0, 1, 0, 1, False).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Axis("", 0.4, 30, 0, 1, True).ticks() == pytest.approx([0.5, 1, 2, 5, 10, 20])
    for low, high in ((1e-9, 1e15), (1.0, 6.3), (3e5, 2.1e6)):
        ticks = Axis("", low, high, 0, 1, True).ticks()
        assert 2 <= len(ticks) <= 9 and low <= min(ticks) and max(ticks) <= high


def test_the_line_joins_what_none_beats() -> None:
    points = [Point(1, 5, ""), Point(2, 7, ""), Point(3, 3, ""), Point(4, 3, "")]
    document = drawn(*points, best=True)
    [line] = [p["d"] or "" for p in document.all("path") if p["class"] == "pareto"]
    corners = [tuple(map(float, corner.split(","))) for corner in line[1:].split("L")]
    assert corners == [places(document)[0], places(document)[2]]


def test_labels_cover_nothing() -> None:
    document = drawn(*(Point(1, 1 + i / 1000, "", label=f"name {i}") for i in range(50)))
    labels = [t for t in document.all("text") if t.get("class") == "label"]
    assert 1 <= len(labels) < 10
    boxes = sorted((float(t["y"] or 0), float(t["x"] or 0)) for t in labels)
    for (y0, x0), (y1, x1) in pairwise(boxes):
        assert y1 - y0 > 12 or abs(x1 - x0) > 30


def test_series_differ_by_more_than_colour() -> None:
    many = [Series(i, f"run {i}", (), line=True) for i in range(24)]
    document = Document(legend(many))
    marks = [p for p in document.all("path") if (p["class"] or "").startswith("mark")]
    assert len({(p["d"], p["class"]) for p in marks}) == 24
    lines = [p for p in document.all("path") if (p["class"] or "").startswith("line")]
    assert len({(p["stroke-dasharray"], p["class"]) for p in lines}) == 24
    assert document.said("li") == [series.name for series in many]


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-308, 1e308, 1e15])
@pytest.mark.parametrize("log", ["", "x", "y"])
def test_numbers_beyond_measure(value: float, log: str) -> None:
    for point in (Point(value, 1, ""), Point(1, value, ""), Point(1, 1, "", -value, value)):
        for _, attributes in drawn(point, Point(1, 1, ""), log=log, best=True).elements:
            assert not re.search("nan|inf", " ".join(filter(None, attributes.values())))
    assert plot([], "label", "x", "y") == plot([Series(0, "", ())], "", "", "", log=log) == ""
