"""`pocketscribe fit`: speech and a number of bytes in, a recogniser out."""

import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pocketscribe.config import read_bytes
from pocketscribe.errors import UserError, UserHint
from pocketscribe.evaluation.report import card_markdown
from pocketscribe.export.export import export
from pocketscribe.export.open import model_file
from pocketscribe.files import read_json, write_json, write_text
from pocketscribe.fit.look import Look, look
from pocketscribe.fit.plan import ENOUGH_STEPS, Plan, fewest_steps, plan
from pocketscribe.fit.speed import Speed
from pocketscribe.models.saved import sketch
from pocketscribe.recipes.reading import read_recipe
from pocketscribe.recipes.recipe import Recipe
from pocketscribe.recipes.run import Run
from pocketscribe.reports.report import write_report
from pocketscribe.speech.corpora import locate
from pocketscribe.speech.prepare import progress_bar

ALSO = ("sherpa-onnx", "executorch")  # runtimes that it is exported for
START = Path("models/english.safetensors")  # where a checkout of this project has it
NOTHING = Path("none")  # as --start


def fit(
    folder: str,
    budget: str,
    out: Path,
    root: Path | None,
    console: Console,
    *,
    minutes: float | None = None,
    start: Path | None = None,
    changes: Sequence[str] = (),
    dry_run: bool = False,
    device: str = "auto",
) -> dict[str, Any] | None:
    """Looks, plans, prints the plan and, unless it is a `dry_run`, goes; returns the results.

    The run goes on from where it was stopped. It leaves OUT/fit.pocket, which is within the budget,
    the same for sherpa-onnx and ExecuTorch where those are installed, a README.md (the model's
    card) and a report.

    Raises:
        UserError: nothing to train on, or a budget that no sub-network fits.
    """
    limit = read_bytes(budget, "--budget")
    if start is None and START.is_file():
        start = START
    elif start == NOTHING:
        start = None
    elif start is not None:
        start = model_file(start)
    for change in changes:
        if change.startswith(("name", "evaluate.stages")):
            raise UserError(f"--set {change}: fit leaves fit.pocket, whatever else is set")
    told = [c for c in changes if c.startswith(("model", "speech.units")) or "=" not in c]
    own = read_recipe("fit", told)
    with progress_bar(console) as bar:
        seen = look(folder, root, out.parent / "prepared", bar)
    for line in seen.lines():
        console.print(line, highlight=False, markup=False)
    kept = out / "speed.json"
    before = Speed.read(read_json(kept), str(kept)).x_real_time if kept.is_file() else None
    planned = plan(seen, budget, minutes, start, own, before, device, changes)
    for change in changes:
        if planned.started and change.startswith("model"):
            raise UserError(
                f"--set {change}: {start}, which it starts from, has a shape of its own; "
                "--start none starts from nothing"
            )
    named = ["name=fit", *planned.changes, *changes]  # whichever recipe it is, it leaves fit.pocket
    recipe = read_recipe(planned.way.recipe, named, out.parent)
    for corpus in (*recipe.corpora, *recipe.speech.dev, *recipe.speech.test):
        locate(corpus, root)
    _show(planned, recipe, seen, changes, console)
    if dry_run:
        return None
    run = Run(recipe, out, root, console, device)
    write_json(kept, {"x_real_time": planned.speed})
    results = run.go()
    shipped = out / "fit.pocket"
    if (size := shipped.stat().st_size) > limit:
        raise UserError(
            f"{shipped}: {size:,} bytes, over the budget by its card; give a little more"
        )
    asked = ["pocketscribe", "fit", folder, "--budget", budget, "--out", str(out)]
    asked += [] if minutes is None else ["--minutes", f"{minutes:g}"]
    asked += [] if start == START else ["--start", str(start or NOTHING)]
    asked += [] if root is None else ["--root", str(root)]
    asked += [] if device == "auto" else ["--device", device]
    asked += [word for change in changes for word in ("--set", change)]
    results["command"] = shlex.join(asked)
    write_json(out / "results.json", results)
    _export(shipped, out)
    write_text(out / "README.md", card_markdown(sketch(shipped).card) + "\n")
    try:
        write_report([out], out / "report")
    except UserError as error:
        warnings.warn(f"no report: {error}", UserHint, stacklevel=2)
    console.print(f"{shipped}: {size:,} bytes of {limit:,}", highlight=False)
    for line in planned.words:
        console.print(line, highlight=False, markup=False)
    return results


def _show(
    planned: Plan, recipe: Recipe, seen: Look, changes: Sequence[str], console: Console
) -> None:
    table = Table(
        "recipe key",
        "value",
        "because",
        title=f"the plan for {escape(seen.folder.name)}, into recipe {planned.way.recipe}",
    )
    fixed = {change.partition("=")[0] for change in changes}
    for choice in planned.choices:
        if choice.key not in fixed:
            table.add_row(choice.key, escape(choice.value), escape(choice.reason))
    for change in changes:
        key, _, value = change.partition("=")
        table.add_row(escape(key), escape(value), "--set")
    console.print(table)
    minutes = planned.minutes(recipe)
    about = "a minute" if minutes < 1.5 else f"{minutes:.0f} minutes"
    console.print(
        f"training: about {about} on this machine as busy as it is now; searches, scores and "
        "exports besides",
        highlight=False,
    )
    if (few := fewest_steps(recipe)) < ENOUGH_STEPS:
        console.print(
            f"its shortest stage has {few}, and {ENOUGH_STEPS} steps are the least to expect "
            f"anything of: about {minutes * ENOUGH_STEPS / few:.0f} minutes in all",
            highlight=False,
        )
    for line in planned.words:
        console.print(line, highlight=False, markup=False)


def _export(shipped: Path, out: Path) -> None:
    """The same model for other runtimes; one that is not installed is told, and left out."""
    for target in ALSO:
        try:
            export(shipped, target, out / target)
        except UserError as error:
            warnings.warn(f"not exported to {target}: {error}", UserHint, stacklevel=2)
