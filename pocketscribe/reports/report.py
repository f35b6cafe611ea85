"""A report over runs: report.json, report.md, plots of each part, and report.html."""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from pocketscribe.errors import UserError, UserHint, needs_extra
from pocketscribe.files import replacing, write_json, write_text
from pocketscribe.reports.page import page
from pocketscribe.reports.runs import MEASURES, FinishedRun, Measure, Row, results_of
from pocketscribe.reports.sound import embedded
from pocketscribe.reports.tables import markdown
from pocketscribe.reports.words import Utterance, worst
from pocketscribe.search.frontier import frontier

SHOWN = 6  # of a part's utterances
MARKERS = "os^Dv*"
FEW = 30  # models in a plot, up to which each has its name beside it


def write_report(
    runs: list[Path], out: Path, audio: int = 0, root: Path | None = None
) -> list[Path]:
    """Writes report.md, report.json, report.html and, for each scored part, plots of WER against
    bytes, parameters, time and training cost, as far as they are known; returns their paths.

    A run is its folder or its results.json, wherever that lies and whatever it is called. What
    holds no results is skipped with a hint, so that `runs/*` may be said.

    Args:
        audio: how many of each part's worst utterances can be heard on the page.
        root: where the corpora lie that they are in.

    Raises:
        UserError: no folder holds a finished run, a corpus to be heard is not there, or matplotlib
            is missing; nothing is written.
    """
    with needs_extra("report", "report"):
        import matplotlib.figure  # noqa: F401
    done = [run for run in runs if results_of(run).is_file()]
    if not done:
        missing = "no such results" if runs[0].suffix == ".json" else "no results.json in it"
        more = ", nor in any other of these" if len(runs) > 1 else ""
        raise UserError(f"{runs[0]}: {missing}{more}; `pocketscribe run` writes them")
    for run in runs:
        if run not in done:
            warnings.warn(f"{run} is no finished run and was skipped", UserHint, stacklevel=2)
    read = [FinishedRun(run) for run in done]
    rows = [row for run in read for row in run.rows]
    parts = {t: [r for r in rows if r.data == t] for t in dict.fromkeys(row.data for row in rows)}
    utterances = {title: worst(part, max(SHOWN, audio)) for title, part in parts.items()}
    sounds = _sounds(parts, utterances, audio, root) if audio else {}
    text = page(read, parts, utterances, sounds)
    plain = [row.plain() for row in rows]
    paths = [out / "report.json", out / "report.md", out / "report.html"]
    write_json(paths[0], plain)
    write_text(paths[1], markdown(plain))
    write_text(paths[2], text)
    for title, part in parts.items():
        name = re.sub(r"[^\w.-]+", "_", title.replace("=", "-"))
        for measure in MEASURES:
            if shown := {row: value for row in part if (value := measure.of(row))}:
                paths.append(out / f"{name}-{measure.name}.png")
                _plot(shown, measure, title, paths[-1])
    return paths


def _sounds(
    parts: Mapping[str, Sequence[Row]],
    utterances: Mapping[str, Sequence[Utterance]],
    most: int,
    root: Path | None,
) -> dict[str, dict[str, str]]:
    """The worst utterances of each part as data: URIs, by id."""
    found = {}
    for title, rows in parts.items():
        corpora = (run.parts().get(title) for run in dict.fromkeys(row.run for row in rows))
        corpus = next(filter(None, corpora), None)
        if corpus is None:
            raise UserError(f"--audio: no recipe.json of these runs says what {title!r} is")
        found[title] = embedded(corpus, {u.id for u in utterances[title][:most]}, root)
    return found


def _plot(across: Mapping[Row, float], measure: Measure, title: str, path: Path) -> None:
    """WER with its interval against a measure, a point a model, a colour and shape a method."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    named = list(across)
    if len(named) > FEW:
        named = frontier({row: (value, row.result["wer"]) for row, value in across.items()})
    for number, method in enumerate(dict.fromkeys(row.method for row in across)):
        own = {row: value for row, value in across.items() if row.method == method}
        wers, lows, highs = (
            [100 * row.result[key] for row in own] for key in ("wer", "ci_low", "ci_high")
        )
        spread = [
            [max(wer - low, 0) for wer, low in zip(wers, lows, strict=True)],
            [max(high - wer, 0) for wer, high in zip(wers, highs, strict=True)],
        ]
        mark, colour = MARKERS[number // 10 % len(MARKERS)], f"C{number % 10}"
        axes.errorbar(
            list(own.values()), wers, spread, None, mark, color=colour, capsize=3, label=method
        )
    for row in named:
        place = across[row], 100 * row.result["wer"]
        axes.annotate(row.model, place, (6, 3), textcoords="offset points", size=7)
    axes.set(xlabel=measure.label, ylabel="WER, % (95% interval)", title=title)
    if max(across.values()) > 4 * min(across.values()):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.12)  # room for the names
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)  # where it covers no point
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120)
