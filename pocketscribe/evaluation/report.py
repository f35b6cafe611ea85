"""What results say, for people; pocketscribe/reports lays runs side by side."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.markup import escape
from rich.table import Table

from pocketscribe.config import Config, FileName
from pocketscribe.errors import UserError
from pocketscribe.evaluation.evaluate import summary
from pocketscribe.files import read_json

Count = Annotated[int, Field(ge=0, le=2**63)]


class Errors(Config, extra="ignore"):
    """Of a whole part or of a group; shares, not percent."""

    wer: float
    ci_low: float
    ci_high: float
    substitutions: Count
    deletions: Count
    insertions: Count
    words: Count
    utterances: Count


class Hypothesis(Config, extra="ignore"):
    """What was said, and what was heard."""

    id: str
    reference: str
    hypothesis: str


class Score(Errors, extra="ignore"):
    """What tables say of one scored part."""

    rtf: float
    parameters_stored: Count
    bytes: Count
    emission_delay: float | None
    groups: dict[str, Errors]
    hypotheses: tuple[Hypothesis, ...] = ()


class Scored(Config, extra="ignore"):
    """Scores by the titles of the parts, and the file in the run's folder that was scored.

    Attributes:
        methods: the systems that made it; none is a plain model. Older results do not tell them.
    """

    file: FileName | None = None
    methods: tuple[str, ...] | None = None
    scores: dict[str, Score]


class Results(Config, extra="ignore"):
    """A run's results.json: what every reader of it may count on.

    Attributes:
        changed: what `--set` changed in the recipe.
        command: what makes the run, where `run` with these changes does not.
    """

    recipe: str
    command: str | None = None
    changed: tuple[str, ...] = ()
    beam: int = 1
    models: dict[str, Scored]


def read_results(path: Path) -> dict[str, Any]:
    """The results of a run as plain data; UserError where the file holds anything else."""
    results = read_json(path)
    Results.read(results, f"{path}: not the results of a run")
    return results


def results_table(results: dict[str, Any]) -> Table:
    """One section a model, one row a scored part, with a row below for each of its groups."""
    table = Table("data", "WER [95% CI]", "words", "RTF", title=escape(results["recipe"]))
    for stage, model in results["models"].items():
        for first in list(model["scores"].values())[:1]:  # a recipe may score on nothing
            size = f"{first['parameters_stored'] / 1e6:.2f}M parameters"
            table.add_section()
            table.add_row(f"{escape(stage)}: {size}, {first['bytes'] / 1e6:.2f} MB", "", "", "")
        for title, result in model["scores"].items():
            row = str(summary(result)), str(result["words"]), f"{result['rtf']:.3f}"
            table.add_row(f"  {escape(title)}", *row)
            for name, group in result["groups"].items():
                table.add_row(f"    {escape(name)}", str(summary(group)), str(group["words"]), "")
    return table


def score_lines(title: str, result: dict[str, Any]) -> list[str]:
    """One evaluation for people."""
    errors = ", ".join(f"{result[k]} {k}" for k in ("substitutions", "deletions", "insertions"))
    lines = [
        f"{title}: WER {summary(result)}",
        f"  {result['words']} words in {result['utterances']} utterances: {errors}",
        f"  {result['audio_seconds']:.0f} s of audio, real-time factor {result['rtf']:.4f}, "
        f"model {result['bytes'] / 1e6:.2f} MB",
    ]
    if result["peak_rss_bytes"] is not None:
        lines[-1] += f", peak memory {result['peak_rss_bytes'] / 1e6:.0f} MB"
    if result["emission_delay"] is not None:
        lines.append(
            f"  last label {result['emission_delay']:+.2f} s after the speech's end (median)"
        )
    if result["unreadable"]:
        first = "{id}: {reason}".format(**result["refused"][0])
        lines.append(f"  {result['unreadable']} utterances were left out, the first {first}")
    lines += [f"  {name}: WER {summary(group)}" for name, group in result["groups"].items()]
    return lines


def size_table(found: dict[str, Any]) -> Table:
    """A model's bytes by part, the total below."""
    table = Table("part", "bytes", "share")
    for name, count in found["parts"].items():
        table.add_row(name, f"{count:,}", f"{count / found['bytes']:.1%}")
    table.add_section()
    table.add_row("all", f"{found['bytes']:,}", f"{found['bits_per_weight']} bits a parameter")
    table.add_row("parameters stored", f"{found['parameters_stored']:,}", "")
    table.add_row("parameters virtual", f"{found['parameters_virtual']:,}", "")
    if "state_bytes" in found:
        share = found["state_bytes"] / found["layers"]
        table.add_row("a stream's state", f"{found['state_bytes']:,}", f"{share:,.0f} a layer")
    for name, model in found.get("models", {}).items():
        stored, virtual = model["parameters_stored"] / 1e6, model["parameters_virtual"] / 1e6
        counts = f"{stored:.2f}M stored, {virtual:.2f}M virtual"
        table.add_row(f"stage {name}", f"{model['bytes']:,}", counts)
    for point in found.get("frontier", ()):
        sizes, wer = point["candidate"]["sizes"], (point["wer"] + point["confirmed"]["wer"]) / 2
        name = f"{sizes['layers']} x {sizes['width']}, {point['candidate']['formats']}"
        time = f", {point['milliseconds']:.2f} ms a chunk" if point["milliseconds"] else ""
        table.add_row(f"frontier: {name}", f"{point['bytes']:,}", f"WER {wer:.1%} on dev{time}")
    return table


def card_markdown(card: dict[str, Any]) -> str:
    """A model's card as a README.md, with the header that model hubs read.

    Raises:
        UserError: it is not a card that a run wrote.
    """
    lines = [
        "---",
        "pipeline_tag: automatic-speech-recognition",
        "library_name: pocketscribe",
        "metrics: [wer]",
        "---",
    ]
    try:
        lines += [f"# {card.get('recipe', 'A recogniser')}", ""]
        lines += [f"- {k}: {card[k]}" for k in ("parameters", "made", "machine") if k in card]
        for stage in card.get("stages", ()):
            heard = ", ".join(f"{p['corpus']} ({p['hours']} h)" for p in stage["trained_on"])
            lines.append(
                f"- stage {stage['name']}: {stage['audio_hours_heard']} h heard of {heard}; "
                f"{stage['steps']} steps, {stage['wall_minutes']} minutes, seed {stage['seed']}"
            )
        if card.get("scores"):
            lines += ["", "| data | WER [95% CI] | words |", "|---|---|---|"]
        for title, found in card.get("scores", {}).items():
            rate = f"{found['wer']:.2%} [{found['ci_low']:.2%}, {found['ci_high']:.2%}]"
            lines.append(f"| {title} | {rate} | {found['words']} |")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError("this card was not written by a run; --json shows it as it is") from None
    return "\n".join(lines)
