"""What the page says of a part, of a searched supernet, and of a run's training."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pocketscribe.evaluation.evaluate import summary
from pocketscribe.reports.curves import learning_curves
from pocketscribe.reports.markup import Markup, join, tag
from pocketscribe.reports.plots import Point, Series, legend, plot
from pocketscribe.reports.runs import MEASURES, FinishedRun, Measure, Row
from pocketscribe.reports.tables import table
from pocketscribe.reports.words import Heard, Utterance, marked
from pocketscribe.search.frontier import Point as SubNetwork

WER = "WER, %"
COSTS: dict[str, Callable[[SubNetwork], float | None]] = {
    "size, MB": lambda network: network.bytes / 1e6,
    "milliseconds a chunk": lambda network: network.milliseconds,
}


def scores(
    rows: Sequence[Row],
    marks: Mapping[str, Series],
    utterances: Sequence[Utterance],
    sounds: Mapping[str, str],
) -> Markup:
    """A part's plots, table and worst utterances; `marks` has how methods are told apart."""
    shown = [marks[method] for method in dict.fromkeys(row.method for row in rows)]
    plots = [_against(measure, rows, marks) for measure in MEASURES]
    return join(
        tag("div", *plots, class_="plots"),
        legend(shown) if len(shown) > 1 else "",
        table(rows, marks),
        _worst(utterances, sounds) if utterances else "",
    )


def frontier(run: FinishedRun) -> dict[str, Markup]:
    """What a search found, against bytes and, where measured, time; by the stages that searched."""
    found = {}
    for stage, card in run.cards.items():
        if card.frontier:
            plots = [_found(x, value, card.frontier) for x, value in COSTS.items()]
            each = (
                tag("li", f"{point.bytes:,} bytes: {point.described}") for point in card.frontier
            )
            found[stage] = join(
                tag("div", *plots, class_="plots"), tag("ul", *each, class_="found")
            )
    return found


def learning(run: Path) -> Markup:
    """Every loss and every dev part of a run's stages against their steps, a plot each."""
    curves = learning_curves(run)
    stages = list(dict.fromkeys(stage for by_stage in curves.values() for stage in by_stage))
    plots = [
        _curves(name, {stages.index(stage): (stage, c) for stage, c in by_stage.items()})
        for name, by_stage in sorted(curves.items(), key=lambda item: item[0].startswith("train"))
    ]
    names = (Series(i, stage, (), line=True) for i, stage in enumerate(stages))
    return join(tag("div", *plots, class_="plots"), legend(names)) if plots else Markup()


def _against(measure: Measure, rows: Sequence[Row], marks: Mapping[str, Series]) -> Markup:
    points: dict[str, list[Point]] = {}
    x = measure.label
    for row in rows:
        at, result = measure.of(row), row.result
        if at is not None:
            wer, low, high = (100 * result[key] for key in ("wer", "ci_low", "ci_high"))
            title = f"{row.name}: WER {summary(result)}; {x}: {at:.4g}"
            points.setdefault(row.method, []).append(Point(at, wer, title, low, high, row.model))
    series = [Series(marks[name].number, name, tuple(found)) for name, found in points.items()]
    label = f"WER against {x}, of {len(rows)} models; the table has the numbers"
    return _figure(plot(series, label, x, WER, log="x", best=True))


def _found(
    x: str,
    value: Callable[[SubNetwork], float | None],
    frontier: Sequence[SubNetwork],
) -> Markup:
    points = []
    for network in frontier:
        if (at := value(network)) is not None:
            wer, low, high = (
                100 * getattr(network.confirmed, k) for k in ("wer", "ci_low", "ci_high")
            )
            title = f"{network.described}; {x}: {at:.4g}"
            points.append(Point(at, wer, title, low, high))
    label = f"WER on one half of dev against {x}, of {len(points)} sub-networks"
    return _figure(
        plot([Series(0, "sub-networks", tuple(points))], label, x, WER, log="x", best=True)
    )


def _curves(name: str, by_number: Mapping[int, tuple[str, list[tuple[float, float]]]]) -> Markup:
    """Shares become percent; losses, which fall by decades, get a logarithmic axis."""
    dev = name.startswith("dev/")
    series = []
    for number, (stage, curve) in by_number.items():
        points = [
            Point(step, 100 * y if dev else y, f"{stage}, step {step:,.0f}: {y:.4g}")
            for step, y in curve
        ]
        series.append(Series(number, stage, tuple(points), line=True, marks=dev))
    title = f"WER on {name.removeprefix('dev/wer ')}" if dev else f"training: {name[6:]}"
    axis = WER if dev else "loss, a frame of 40 ms"
    drawn = plot(series, f"{title}, by steps", "steps", axis, log="" if dev else "y")
    return _figure(drawn, title)


def _figure(drawn: Markup, title: str = "") -> Markup:
    caption = tag("figcaption", title) if title else ""
    return tag("figure", caption, drawn) if drawn else Markup()


def _worst(utterances: Sequence[Utterance], sounds: Mapping[str, str]) -> Markup:
    words = (
        tag("del", tag("i", "−"), "left out"),
        ", ",
        tag("ins", tag("i", "+"), "put in"),
        ", ",
        tag("span", tag("del", "said"), tag("i", "→"), tag("ins", "heard"), class_="sub"),
    )
    return join(
        tag("h3", f"The {len(utterances)} utterances with the most errors"),
        tag("p", "Of all models together; the best model's words come first. ", *words),
        tag("ol", *(_utterance(u, sounds.get(u.id)) for u in utterances), class_="worst"),
    )


def _utterance(utterance: Utterance, sound: str | None) -> Markup:
    first, *others = (_heard(utterance, heard) for heard in utterance.heard)
    count = f"{len(others)} other model" + ("s" if len(others) > 1 else "")
    return tag(
        "li",
        tag("p", tag("q", utterance.reference), tag("small", utterance.id), class_="said"),
        tag("audio", controls="", preload="metadata", src=sound, aria_label=utterance.reference)
        if sound
        else "",
        first,
        tag("details", tag("summary", count), *others) if others else "",
    )


def _heard(utterance: Utterance, heard: Heard) -> Markup:
    many = "1 error" if heard.errors == 1 else f"{heard.errors} errors"
    name = tag("small", f"{heard.row.name}, {many}")
    return tag("p", name, marked(utterance.reference, heard.hypothesis), class_="heard")
