"""The command line: one function a command, all the work elsewhere."""

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pocketscribe.errors import UserError, UserHint, one_line
from pocketscribe.files import check_no_input, check_place, write_json
from pocketscribe.options import (
    Beam,
    Chunk,
    Device,
    Hotword,
    HotwordScore,
    HotwordsFile,
    LabelBonus,
    Lm,
    LmScale,
    Model,
    Root,
    RuntimeName,
    decoding_config,
    opened,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Trains streaming speech recognisers, shrinks them, and ships them.",
)
UsageError: Any = typer.BadParameter.__base__  # typer does not say where click's own is
INTERRUPTED = 130


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped recipe.")],
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; runs/RECIPE if not given.")
    ] = None,
    set: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE on top of the recipe; may be repeated.")
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="Only this stage, and those it stands on; may be repeated."),
    ] = None,
    device: Device = "auto",
    root: Root = None,
) -> None:
    """Run every stage of a recipe that is not done yet, then score and print a table."""
    from pocketscribe.recipes.reading import RUNS, read_recipe
    from pocketscribe.recipes.run import Run

    read = read_recipe(recipe, set or (), out.parent if out else RUNS)
    Run(read, out or RUNS / read.name, root, Console(), device).go(stage or ())


@app.command()
def fit(
    folder: Annotated[str, typer.Argument(help="A folder of speech, or a corpus' name.")],
    budget: Annotated[str, typer.Option(help="Bytes of the recogniser, such as 1.5MB.")],
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, max=1e6, help="Train about so long; else by the speech."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; runs/fit-FOLDER if not given.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            help="A trained model to start from, or none; models/english.safetensors if there."
        ),
    ] = None,
    set: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of recipe fit to fix; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look and plan, no more.")] = False,
    device: Device = "auto",
    root: Root = None,
) -> None:
    """From a folder of speech and a number of bytes to a recogniser that fits."""
    from pocketscribe.fit.fit import fit
    from pocketscribe.recipes.reading import RUNS

    fit(
        folder,
        budget,
        out or RUNS / f"fit-{Path(folder).absolute().name}",
        root,
        Console(),
        minutes=minutes,
        start=start,
        changes=set or (),
        dry_run=dry_run,
        device=device,
    )


@app.command()
def prepare(
    corpus: Annotated[str, typer.Argument(help="A corpus' name, or a folder of your own.")],
    out: Annotated[Path, typer.Option(help="Where cuts and features go.")] = Path("runs/prepared"),
    split: Annotated[str, typer.Option(help="all, train, dev, test, …")] = "all",
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
        + (f": {prepared.folder / 'bad.tsv'}" if summary["bad"] else "")
    )


@app.command()
def evaluate(
    model: Model,
    corpus: Annotated[str, typer.Option(help="A corpus' name, or a folder of your own.")],
    split: Annotated[str, typer.Option(help="train, dev, test, …")] = "test",
    streaming: Annotated[bool, typer.Option("--streaming", help="Chunk by chunk.")] = False,
    chunk: Chunk = None,
    beam: Beam = None,
    lm: Lm = None,
    lm_scale: LmScale = None,
    label_bonus: LabelBonus = None,
    hotword: Hotword = None,
    hotwords: HotwordsFile = None,
    hotword_score: HotwordScore = None,
    device: Device = "cpu",
    runtime: RuntimeName = None,
    where: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE of the manifest; may be repeated.")
    ] = None,
    group: Annotated[str | None, typer.Option(help="Also score each value of a column.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all numbers there.")
    ] = None,
    root: Root = None,
) -> None:
    """Score a model on a corpus: word error rate with its confidence interval, speed, size."""
    from pocketscribe.evaluation.evaluate import evaluate, peak_rss_bytes
    from pocketscribe.evaluation.report import score_lines
    from pocketscribe.speech.corpora import CorpusConfig
    from pocketscribe.speech.prepare import progress_bar

    if json_file is not None:
        check_place(json_file)
        check_no_input(json_file, [model])
    pairs = [pair.partition("=") for pair in where or ()]
    if any(not equals for _, equals, _ in pairs):
        raise UserError("--where: write COLUMN=VALUE, such as age_group=child")
    columns = {key: value for key, _, value in pairs}
    asked = {"corpus": corpus, "split": split, "where": columns, "group": group}
    part = CorpusConfig.read(asked, "--corpus")
    search = decoding_config(beam, lm, lm_scale, label_bonus, hotword, hotwords, hotword_score)
    found = opened(model, search, chunk, device, runtime)
    with progress_bar(Console(stderr=True, quiet=not sys.stderr.isatty())) as bar:
        result = evaluate(found, part, root, streaming=streaming, progress=bar)
    result["peak_rss_bytes"] = peak_rss_bytes()  # of a process that did nothing else
    print("\n".join(score_lines(part.title, result)))
    if json_file is not None:
        write_json(json_file, result)


@app.command()
def transcribe(
    model: Model,
    audio: Annotated[
        list[Path] | None,
        typer.Argument(help="Audio files of any format, folders of them, or - for standard input."),
    ] = None,
    microphone: Annotated[bool, typer.Option("--microphone", help="Listen live.")] = False,
    form: Annotated[str, typer.Option("--format", help="text, json, srt or vtt.")] = "text",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="A folder: one file an input, instead of printing.")
    ] = None,
    chunk: Chunk = None,
    beam: Beam = None,
    lm: Lm = None,
    lm_scale: LmScale = None,
    label_bonus: LabelBonus = None,
    hotword: Hotword = None,
    hotwords: HotwordsFile = None,
    hotword_score: HotwordScore = None,
    device: Device = "cpu",
    runtime: RuntimeName = None,
) -> None:
    """Write down what is said in audio files, or live at the microphone."""
    from pocketscribe import api
    from pocketscribe.batch import transcribe_all

    if microphone == bool(audio):
        raise UserError("transcribe: give audio files, folders or -, or else --microphone")
    if as_json and form not in ("text", "json"):
        raise UserError(f"transcribe: --json is --format json; leave it out for {form}")
    if microphone and (as_json or form != "text" or out is not None):
        raise UserError("transcribe: --microphone shows text: leave out --json, --format and --out")
    search = decoding_config(beam, lm, lm_scale, label_bonus, hotword, hotwords, hotword_score)
    found = api.Model(opened(model, search, chunk, device, runtime))
    if microphone:
        from pocketscribe.decoding.microphone import listen

        listen(found.stream())
    elif transcribe_all(found, audio or (), "json" if as_json else form, out, Console()):
        raise typer.Exit(2)  # each bad file was named; the others are done


@app.command()
def card(
    model: Model,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show what a model was trained on and how well it does: a README.md as model hubs want it."""
    from pocketscribe import load
    from pocketscribe.evaluation.report import card_markdown

    found = load(model).card
    print(json.dumps(found, indent=2, ensure_ascii=False) if as_json else card_markdown(found))


@app.command()
def lm(
    model: Model,
    text: Annotated[
        list[str],
        typer.Option(
            help="FILE or FILE:TIMES, whose sentences count several times: one a line, or a table "
            "with a column transcript. Repeatable."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    order: Annotated[int, typer.Option(min=2, max=12, help="Units in the longest n-gram.")] = 8,
    budget: Annotated[str, typer.Option(help="Bytes of the file, such as 500kB or 2MB.")] = "2MB",
    without: Annotated[
        list[str] | None,
        typer.Option(help="CORPUS:SPLIT not to learn from either, besides all dev and test parts."),
    ] = None,
    root: Root = None,
) -> None:
    """Learn a language model for a recogniser's units from text."""
    from pocketscribe.config import read_bytes
    from pocketscribe.export.open import open_model
    from pocketscribe.lm.learn import held_out, make_lm, read_part, read_text

    check_place(out)
    texts = [read_text(file) for file in text]
    check_no_input(out, [model, *(text.path for text in texts)])
    scored = held_out([read_part(part) for part in without or ()], root)
    card = make_lm(
        open_model(model).units, texts, scored, order, read_bytes(budget, "--budget"), out
    )
    print(
        f"{out}: {out.stat().st_size:,} bytes, {card['ngrams']} n-grams "
        f"from {card['sentences']} sentences; left out: {card['left_out']} that are scored "
        f"in dev or test, {card['unspellable']} that the units cannot spell"
    )


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Option(help="The file or folder to write.")],
    to: Annotated[str, typer.Option(help="packed, safetensors, onnx, sherpa-onnx or executorch.")],
    int8: Annotated[bool, typer.Option("--int8", help="Matrices in dynamic int8.")] = False,
    chunk: Chunk = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Bytes, such as 2MB: the best sub-network that a search found for them."),
    ] = None,
    milliseconds: Annotated[
        float | None, typer.Option(help="With --budget: the longest that a chunk may take.")
    ] = None,
) -> None:
    """Write a model for a runtime: all that a device must hold, and nothing more."""
    from pocketscribe.config import read_bytes
    from pocketscribe.export.export import export
    from pocketscribe.search.deploy import export_under

    if milliseconds is not None and budget is None:
        raise UserError("export: --milliseconds goes with --budget")
    if milliseconds is not None and not milliseconds > 0:
        raise UserError(f"--milliseconds {milliseconds}: give a time above 0")
    with Console(stderr=True).status(f"writing {out} (for ExecuTorch that takes minutes)"):
        if budget is None:
            size = export(model, to, out, int8=int8, chunk=chunk)
        else:
            limit = read_bytes(budget, "--budget")
            point, size = export_under(
                model, limit, to, out, int8=int8, chunk=chunk, milliseconds=milliseconds
            )
            print(point.described)
    print(f"{out}: {size / 1e6:.2f} MB")


@app.command()
def size(
    model: Annotated[str, typer.Argument(help="A model, or a recipe, which need not be trained.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Count a model's bytes by part: of a file, to its size; of a recipe, as it will ship."""
    from pocketscribe.evaluation.report import size_table
    from pocketscribe.recipes.size import size

    found = size(model)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        Console().print(size_table(found))
        if "note" in found:
            print(found["note"])


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of finished runs, or results.json of some.")
    ],
    out: Annotated[Path, typer.Option(help="Where tables, plots and the page go.")],
    audio: Annotated[
        int, typer.Option(min=0, help="How many of each part's worst utterances to hear on it.")
    ] = 0,
    root: Root = None,
) -> None:
    """Lay runs side by side: a page to look at and listen to, report.md, report.json, plots."""
    from pocketscribe.reports.report import write_report

    for path in write_report(runs, out, audio, root):
        print(path)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    """Hints as one line each; anything else is some library talking to its developers."""
    if issubclass(category, UserHint):
        print(f"pocketscribe: hint: {message}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno), end="", file=sys.stderr)


def _too_much(error: Exception) -> bool:
    """Whether input asked for more than there is, and not a fault of ours did."""
    torchs_own = "alloc" in str(error)  # a RuntimeError like any other
    return torchs_own or isinstance(error, MemoryError | OverflowError | RecursionError)


def main() -> None:
    """Entry point: bad input ends with one line and exit code 2, never a traceback."""
    warnings.showwarning = _show_warning
    said = ""
    try:
        code = app(standalone_mode=False) or 0
    except UserError as error:
        code, said = 2, str(error)
    except UsageError as error:  # typer would frame it in five lines
        code, said = 2, error.format_message()  # nothing where it has shown the help
        said = said and f"{said} (--help tells more)"
    except OSError as error:  # no permission, no space, a folder where a file should be
        where = f"{error.filename}: " if error.filename else ""
        code, said = 2, where + (error.strerror or one_line(str(error)))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except typer.Abort as error:  # what typer makes of Ctrl-C, and of a file that ends too early
        early = isinstance(error.__cause__, EOFError)
        code, said = (2, one_line(str(error.__cause__))) if early else (INTERRUPTED, "")
    except (MemoryError, OverflowError, RuntimeError) as error:
        if not _too_much(error):
            raise
        code, said = 2, f"too much for this machine ({one_line(str(error))})"
    if code == INTERRUPTED:
        goes_on = sys.argv[1:2] in (["run"], ["fit"])  # runs alone have checkpoints
        said = "stopped; the same command goes on from here" if goes_on else "stopped"
    if said:
        print(f"pocketscribe: {said}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
