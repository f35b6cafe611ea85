"""Tables of scores: for report.md, and for the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from pocketscribe.evaluation.evaluate import summary
from pocketscribe.reports.markup import Markup, join, tag
from pocketscribe.reports.plots import Series, key
from pocketscribe.reports.runs import Row

HEADS = (
    ("model", "run and stage"),
    ("method", "the systems that made it"),
    ("WER, %", "word error rate, with its 95% interval"),
    ("words", "in the references"),
    ("parameters", "that are stored"),
    ("bytes", "of the file"),
    ("RTF", "real-time factor: seconds of computing a second of audio"),
    ("delay", "in the median, from the end of the speech to the last label"),
    ("hours × M", "of training: audio hours times millions of parameters"),
    ("made by", "the command"),
)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of report.json as a Markdown table."""
    lines = [
        "| run | model | data | WER [95% CI] | words | parameters | bytes | RTF | delay |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['run']} | {row['model']} | {row['data']} | {summary(row)} | {row['words']} "
            f"| {row['parameters_stored'] / 1e6:.2f}M | {row['bytes']:,} "
            f"| {row['rtf']:.4f} | {_delay(row)} |"
        )
        for name, group in row["groups"].items():
            lines.append(f"| | | {name} | {summary(group)} | {group['words']} | | | | |")
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Row], marks: Mapping[str, Series]) -> Markup:
    """A part's rows, each with its groups below it; `marks` has how methods are told apart."""
    best = min(row.result["wer"] for row in rows)
    heads = tag("tr", *(tag("th", name, scope="col", title=what) for name, what in HEADS))
    body = [line for row in rows for line in _lines(row, marks[row.method], best)]
    found = tag("table", tag("thead", heads), tag("tbody", *body))
    return tag("div", found, class_="wide", tabindex=0, role="region", aria_label="all numbers")


def _lines(row: Row, series: Series, best: float) -> list[Markup]:
    result = row.result
    cells = (
        series.name,
        _rate(result),
        f"{result['words']:,}",
        f"{result['parameters_stored'] / 1e6:.2f}M",
        f"{result['bytes']:,}",
        f"{result['rtf']:.4f}",
        _delay(result),
        "" if row.cost is None else f"{row.cost / 1e6:,.4g}",
        tag("code", row.run.command),
    )
    name = tag("th", key(series), tag("span", f"{row.run.name} ", tag("b", row.model)), scope="row")
    lowest = "best" if result["wer"] == best else None
    lines = [tag("tr", name, *(tag("td", cell) for cell in cells), class_=lowest)]
    for group, errors in result["groups"].items():
        head = tag("th", group, scope="row")
        rate, words = tag("td", _rate(errors)), tag("td", f"{errors['words']:,}")
        rest = tag("td", colspan=len(HEADS) - 4)
        lines.append(tag("tr", head, tag("td"), rate, words, rest, class_="group"))
    return lines


def _rate(result: dict[str, Any]) -> Markup:
    low, high = 100 * result["ci_low"], 100 * result["ci_high"]
    return join(tag("b", f"{100 * result['wer']:.2f}"), tag("small", f" {low:.2f}–{high:.2f}"))


def _delay(result: dict[str, Any]) -> str:
    return "" if result["emission_delay"] is None else f"{result['emission_delay']:+.2f} s"
