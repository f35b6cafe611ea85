"""The page: all of a report in one file, which fetches nothing and runs no script."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from pocketscribe.reports.markup import Markup, tag
from pocketscribe.reports.plots import Series
from pocketscribe.reports.runs import FinishedRun, Row
from pocketscribe.reports.sections import frontier, learning, scores
from pocketscribe.reports.words import Utterance

STYLE = Path(__file__).with_name("page.css")
NOTHING_OUTSIDE = "default-src 'none'; style-src 'unsafe-inline'; media-src data:; img-src data:"
LEAD = (
    "WER is the word error rate, with the 95% interval that comes of drawing speakers anew. "
    "RTF is the real-time factor: seconds of computing for a second of audio, as measured while "
    "the model was scored. Training cost is hours of audio heard times parameters, summed over a "
    "model's stages; its teachers' is not in it. A colour and a shape stand "
    "for what a model was made by. Dashed lines join the models that no other beats "
    "in both respects. Point at anything for its numbers."
)


def page(
    runs: Sequence[FinishedRun],
    parts: Mapping[str, Sequence[Row]],
    utterances: Mapping[str, Sequence[Utterance]],
    sounds: Mapping[str, Mapping[str, str]],
) -> str:
    """The page's text.

    Args:
        parts: the rows of each part, by the part's title.
        utterances: of each part, those that are shown.
        sounds: of each part, utterances as data: URIs, by id.
    """
    methods = dict.fromkeys(row.method for rows in parts.values() for row in rows)
    marks = {method: Series(number, method, ()) for number, method in enumerate(methods)}
    sections = [
        (title, _lowest(rows), scores(rows, marks, utterances[title], sounds.get(title, {})))
        for title, rows in parts.items()
    ]
    for run in runs:
        found = frontier(run)
        sections += [(f"{run.name}: the frontier of {stage}", "", f) for stage, f in found.items()]
        sections.append((f"{run.name}: how it learnt", "", learning(run.folder)))
    sections = [section for section in sections if section[2]]
    links = [
        tag("li", tag("a", title, tag("small", about), href=f"#section-{number}"))
        for number, (title, about, _) in enumerate(sections, 1)
    ]
    body = [
        tag("section", tag("h2", title), content, id=f"section-{number}")
        for number, (title, _, content) in enumerate(sections, 1)
    ]
    given = [str(run.given) for run in runs]
    command = shlex.join(["pocketscribe", "report", *given, "--out", "report"])
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=NOTHING_OUTSIDE),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),  # else a browser asks for one
        tag("title", "Pocketscribe: " + ", ".join(run.name for run in runs)),
        tag("style", Markup(STYLE.read_text(encoding="utf-8"))),
    )
    shown = tag(
        "body",
        tag("header", tag("h1", "Recognisers side by side"), tag("p", LEAD)),
        tag("nav", tag("ul", *links), aria_label="Sections"),
        tag("main", *body),
        tag("footer", tag("p", "Made by ", tag("code", command))),
    )
    return f"<!doctype html>\n{tag('html', head, shown, lang='en')}\n"


def _lowest(rows: Sequence[Row]) -> str:
    best = min(rows, key=lambda row: row.result["wer"])
    return f"{100 * best.result['wer']:.1f}% by {best.name}"
