"""Plots as inline SVG: pure functions from numbers to `Markup`.

A series has a colour and a shape, so that it is told by either; whatever is drawn says its numbers
when it is pointed at. Colours are classes, which the page's style fills in for light and dark.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pocketscribe.reports.markup import Markup, join, tag
from pocketscribe.search.frontier import frontier

WIDTH, HEIGHT = 420, 300  # small, so that a phone's width shrinks the text but little
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 10.0, 40.0
COLOURS = 8  # in page.css
MOST_TICKS = 8
CHARACTER, LINE = 6.2, 13.0  # of a label's 11 pixel text: a mean width, a height
SHAPES = (  # round the origin, 5 pixels wide either way
    "M4.5,0A4.5,4.5 0 1 1 -4.5,0A4.5,4.5 0 1 1 4.5,0Z",
    "M-4,-4H4V4H-4Z",
    "M0,-5L5,4H-5Z",
    "M0,-5.5L5.5,0L0,5.5L-5.5,0Z",
    "M0,5L-5,-4H5Z",
    "M-1.7,-5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5V-1.7H-1.7Z",
)
DASHES = ("none", "7 3", "2 3", "9 3 2 3")
Number = float | int
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Point:
    """`low` and `high`: an interval's ends on the y axis; `label` stands beside it where it can."""

    x: Number
    y: Number
    title: str
    low: Number | None = None
    high: Number | None = None
    label: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one colour and shape, those of `number`; a `line` runs through them, in order."""

    number: int
    name: str
    points: tuple[Point, ...]
    line: bool = False
    marks: bool = True


@dataclass(frozen=True)
class Axis:
    """Pixels of values; `log` shows positive ones alone."""

    label: str
    low: Number
    high: Number
    start: Number
    end: Number
    log: bool

    def at(self, value: Number) -> float:
        low, high, value = (self._even(v) for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self) -> list[Number]:
        """Round numbers, two to `MOST_TICKS`."""
        if not self.log:
            return _multiples(self.low, self.high)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1, 2, 5), (1,)):
            found = [m * 10.0**d for d in decades for m in steps]
            found = [v for v in found if self.low <= v <= self.high]
            if len(found) <= MOST_TICKS:
                return found
        return found[:: math.ceil(len(found) / MOST_TICKS)]

    def _even(self, value: Number) -> Number:
        return math.log10(value) if self.log else value


def plot(
    series: Sequence[Series], label: str, x: str, y: str, *, log: str = "", best: bool = False
) -> Markup:
    """A plot; empty where no point can be drawn.

    Args:
        label: what is told to those who do not see it.
        x, y: the axes' labels.
        log: which axes are logarithmic: "", "x", "y".
        best: also draws a line through the points that none to the left of them is below.
    """
    series = [_drawable(s, log) for s in series]
    points = [p for s in series for p in s.points]
    if not points:
        return Markup()
    across = _axis(x, [p.x for p in points], LEFT, WIDTH - RIGHT, "x" in log)
    heights = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    up = _axis(y, heights, HEIGHT - BOTTOM, TOP, "y" in log)
    return tag(
        "svg",
        _frame(across, up),
        _best(points, across, up) if best else "",
        *(_drawn(s, across, up) for s in series),
        *_labels(points, across, up),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=label,
    )


def legend(series: Iterable[Series]) -> Markup:
    """The names of series, each beside its mark."""
    return tag("ul", *(tag("li", key(s), s.name) for s in series), class_="legend")


def key(series: Series) -> Markup:
    inside = join(
        _path([(-14, 0), (14, 0)], series) if series.line else "",
        _mark(series.number, 0, 0) if series.marks else "",
    )
    return tag(
        "svg",
        inside,
        class_="key",
        viewBox="-15 -7 30 14" if series.line else "-8 -7 16 14",
        aria_hidden="true",
    )


def _drawable(series: Series, log: str) -> Series:
    def fits(p: Point) -> bool:
        up = [v for v in (p.y, p.low, p.high) if v is not None]
        positive = [*(up if "y" in log else ()), *([p.x] if "x" in log else ())]
        # What is further out is no measurement.
        return all(abs(v) < 1e15 for v in (p.x, *up)) and all(v > 1e-9 for v in positive)

    points = tuple(p for p in series.points if fits(p))
    return Series(series.number, series.name, points, series.line, series.marks)


def _axis(label: str, values: Sequence[Number], start: float, end: float, log: bool) -> Axis:
    """From nought to somewhat above the values; of logarithms, to either side of them."""
    low, high = min(values), max(values)
    if not log:
        return Axis(label, 0, 1.06 * high if high > 1e-9 else 1, start, end, log)
    spread = max(1.15, 2.5 * math.sqrt(low / high))  # two ticks at the least
    return Axis(label, low / spread, high * spread, start, end, log)


def _multiples(low: Number, high: Number) -> list[Number]:
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    return [low + i * step for i in range(int((high - low) / step) + 1)]


def _number(value: Number) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _frame(x: Axis, y: Axis) -> Markup:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in y.ticks():
        at = y.at(value)
        parts.append(tag("line", x1=LEFT, x2=right, y1=at, y2=at, class_="grid"))
        parts.append(tag("text", _number(value), x=LEFT - 6, y=at + 4, text_anchor="end"))
    for value in x.ticks():
        at = x.at(value)
        parts.append(tag("line", x1=at, x2=at, y1=TOP, y2=bottom, class_="grid"))
        parts.append(tag("text", _number(value), x=at, y=bottom + 16, text_anchor="middle"))
    parts.append(tag("line", x1=LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
    middle = (LEFT + right) / 2
    parts.append(tag("text", x.label, x=middle, y=HEIGHT - 5, text_anchor="middle"))
    turned = f"translate(11 {(TOP + bottom) / 2}) rotate(-90)"
    parts.append(tag("text", y.label, transform=turned, text_anchor="middle"))
    return join(*parts)


def _best(points: Sequence[Point], x: Axis, y: Axis) -> Markup:
    corners = frontier({p: (p.x, p.y) for p in points})
    path = "M" + "L".join(f"{x.at(p.x):.1f},{y.at(p.y):.1f}" for p in corners)
    return tag(
        "path", tag("title", "none is both left of and below these"), d=path, class_="pareto"
    )


def _drawn(series: Series, x: Axis, y: Axis) -> Markup:
    places = [(x.at(p.x), y.at(p.y)) for p in series.points]
    parts = []
    if series.line and series.points:
        last = series.points[-1]
        parts.append(_path(places, series, tag("title", f"{series.name}; last: {last.title}")))
    for p, (a, b) in zip(series.points, places, strict=True):
        inside = [tag("title", p.title)]
        if p.low is not None and p.high is not None:
            low, high = y.at(p.low), y.at(p.high)
            whisker = f"M{a:.1f},{low:.1f}V{high:.1f}m-3,0h6M{a - 3:.1f},{low:.1f}h6"
            inside.append(tag("path", d=whisker, class_="interval"))
        if series.marks:
            parts.append(tag("g", *inside, _mark(series.number, a, b), class_=_colour(series)))
    return join(*parts)


def _path(places: Sequence[tuple[Number, Number]], series: Series, *inside: Markup) -> Markup:
    d = "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in places)
    dash = DASHES[series.number // COLOURS % len(DASHES)]
    return tag("path", *inside, d=d, class_=f"line {_colour(series)}", stroke_dasharray=dash)


def _mark(number: int, x: Number, y: Number) -> Markup:
    where, shape = f"translate({x:.1f} {y:.1f})", SHAPES[number % len(SHAPES)]
    return tag("path", d=shape, transform=where, class_=f"mark s{number % COLOURS}")


def _colour(series: Series) -> str:
    return f"s{series.number % COLOURS}"


def _labels(points: Sequence[Point], x: Axis, y: Axis) -> list[Markup]:
    """Names beside their points; one that would cover something else is left out."""
    taken = [_around(x.at(p.x), y.at(p.y)) for p in points]
    written = []
    for p in (p for p in points if p.label):
        a, b, wide = x.at(p.x), y.at(p.y), CHARACTER * len(p.label)
        for anchor, beside, top in (
            ("start", a + 8, b - LINE / 2),
            ("end", a - 8, b - LINE / 2),
            ("start", a + 5, b - 7 - LINE),
            ("end", a - 5, b - 7 - LINE),
            ("start", a + 5, b + 7),
            ("end", a - 5, b + 7),
        ):
            left = beside - (wide if anchor == "end" else 0)
            box = left, top, left + wide, top + LINE
            inside = left > LEFT and top > TOP and box[2] < WIDTH and box[3] < HEIGHT - BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                at = {"x": beside, "y": top + 10.5}  # the letters' feet
                written.append(tag("text", p.label, text_anchor=anchor, class_="label", **at))
                break
    return written


def _around(x: float, y: float) -> Box:
    return x - 6, y - 6, x + 6, y + 6


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
