"""`pocketscribe fit`: speech and a number of bytes in, a recogniser out."""

import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pocketscribe.config import read_bytes
from pocketscribe.errors import UserError, UserHint
from pocketscribe.evaluation.report import card_markdown
from pocketscribe.export.export import export
from pocketscribe.export.open import exported_graphs, model_file
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
from pocketscribe.training.fabric import started_processes

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
    if started_processes() > 1:
        raise UserError("fit plans for one process: --dry-run it, and torchrun the recipe fit")
    if start is None and START.is_file():
        start = START
    elif start == NOTHING:
        start = None
    elif start is not None:
        start = model_file(start)
    if start is not None and sketch(start).model.config.formats:
        raise UserError(f"--start {start}: its weights are in few bits; give it before that stage")
    for change in changes:
        if change.startswith("name"):
            raise UserError(f"--set {change}: fit leaves fit.pocket, whatever else is set")
    shaping = [c for c in changes if c.startswith(("model", "speech.units")) or "=" not in c]
    own = read_recipe("fit", shaping)
    with progress_bar(console) as bar:
        seen = look(folder, root, out.parent / "prepared", bar)
    for line in seen.lines():
        console.print(line, highlight=False, markup=False)
    kept = out / "speed.json"
    before = Speed.read(read_json(kept), str(kept)).x_real_time if kept.is_file() else None
    planned = plan(seen, budget, minutes, start, own, before, device, changes)
    named = ["name=fit", *planned.changes, *changes]  # whichever recipe it is, it leaves fit.pocket
    recipe = read_recipe(planned.way.recipe, named, out.parent)
    if "low_bits" not in recipe.scored:
        raise UserError("--set evaluate: fit leaves fit.pocket, which is what low_bits ships")
    for corpus in (*recipe.corpora, *recipe.speech.dev, *recipe.speech.test):
        locate(corpus, root)
    _show(planned, recipe, seen, changes, console)
    if dry_run:
        return None
    run = Run(recipe, out, root, console, device)
    if not kept.is_file():
        write_json(kept, {"x_real_time": planned.speed})
    results = run.go()
    shipped = out / "fit.pocket"
    if (size := shipped.stat().st_size) > limit:
        raise UserError(
            f"{shipped}: {size:,} bytes, over the budget by its card; give a little more"
        )
    options = {
        "--budget": budget,
        "--out": out,
        "--minutes": None if minutes is None else f"{minutes:.15g}",
        "--start": None if start == START else start or NOTHING,
        "--root": root,
        "--device": None if device == "auto" else device,
    }
    results["command"] = _command(folder, options, changes)
    write_json(out / "results.json", results)
    console.print("exporting; for ExecuTorch that takes minutes", highlight=False)
    _export(shipped, out)
    write_text(out / "README.md", card_markdown(sketch(shipped).card) + "\n")
    try:
        write_report([out], out / "report")
    except UserError as error:
        warnings.warn(f"no report: {error}", UserHint, stacklevel=2)
    console.print(f"{shipped}: {size:,} bytes of {limit:,}", highlight=False, markup=False)
    for line in planned.words:
        console.print(line, highlight=False, markup=False)
    return results


def _command(folder: str, options: Mapping[str, object], changes: Sequence[str]) -> str:
    """What was asked, as it can be asked again; an option that is None was not given."""
    given = {name: str(value) for name, value in options.items() if value is not None}
    words = ["pocketscribe", "fit", folder, *(word for item in given.items() for word in item)]
    return shlex.join([*words, *(word for change in changes for word in ("--set", change))])


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
    """The same model for other runtimes, unless that is done; one that is not installed is told,
    and left out.
    """
    for target in ALSO:
        folder = out / target
        if exported_graphs(folder) and folder.stat().st_mtime_ns >= shipped.stat().st_mtime_ns:
            continue
        try:
            export(shipped, target, folder)
        except UserError as error:
            warnings.warn(f"not exported to {target}: {error}", UserHint, stacklevel=2)
