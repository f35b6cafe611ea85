"""The command line: one function a command, all the work elsewhere."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pocketscribe.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Trains streaming speech recognisers, shrinks them, and ships them.",
)
Root = Annotated[
    Path | None, typer.Option(help="Folder of the corpora; else POCKETSCRIBE_CORPORA, else ./corpora.")
]


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped recipe.")],
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/RECIPE if not given.")] = None,
    set: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE on top of the recipe; may be repeated.")
    ] = None,
    root: Root = None,
) -> None:
    """Run every stage of a recipe that is not done yet, then score and print a table."""
    from pocketscribe.recipes.recipe import read_recipe
    from pocketscribe.recipes.run import Run

    read = read_recipe(recipe, set or ())
    Run(read, out or Path("runs") / read.name, root, Console()).go()


@app.command()
def prepare(
    corpus: Annotated[str, typer.Argument(help="A corpus' name, or a folder of your own.")],
    out: Annotated[Path, typer.Option(help="Where cuts and features go.")] = Path("runs/prepared"),
    split: Annotated[str, typer.Option(help="train, dev, test, …")] = "train",
    root: Root = None,
) -> None:
    """Check a corpus, write its cuts and features, and list what is bad in it."""
    from pocketscribe.speech.corpora import CorpusConfig
    from pocketscribe.speech.prepare import prepare, progress_bar

    with progress_bar(Console()) as bar:
        prepared = prepare(CorpusConfig(corpus=corpus, split=split), root, out, progress=bar)
    summary = prepared.summary
    print(
        f"{prepared.folder}: {summary['utterances']} utterances, "
        f"{summary['seconds'] / 3600:.2f} h, {summary['bad']} bad"
    )


def main() -> None:
    """Entry point: bad input ends with one line and exit code 2, never a traceback."""
    try:
        app()
    except UserError as error:
        print(f"pocketscribe: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("pocketscribe: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
