"""Options that several commands take, and what becomes of them."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pocketscribe.errors import UserError

Root = Annotated[
    Path | None,
    typer.Option(help="Folder of the corpora; else POCKETSCRIBE_CORPORA, else ./corpora."),
]
Model = Annotated[
    Path, typer.Argument(help="A run's folder, a checkpoint, or an exported file or folder.")
]


def _chunk(text: str) -> int | str:
    try:
        return text if text == "full" else int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number of frames nor full") from None


Chunk = Annotated[
    Any,
    typer.Option(
        parser=_chunk,
        metavar="N|full",
        help="Latency in frames of 40 ms, out of those trained for.",
    ),
]
Beam = Annotated[
    int | None,
    typer.Option(help="Width of the beam; 1 is greedy; 16 with --lm or hotwords."),
]
Lm = Annotated[Path | None, typer.Option(help="A language model's file, made by lm.")]
LmScale = Annotated[
    float | None, typer.Option(min=0, help="With --lm: its weight; 0.4 if not given.")
]
LabelBonus = Annotated[
    float | None, typer.Option(help="With --lm: added for each label; 0.4 if not given.")
]
Hotword = Annotated[
    list[str] | None, typer.Option(help="A word or phrase to prefer; may be repeated.")
]
HotwordsFile = Annotated[Path | None, typer.Option("--hotwords", help="A file of them, by lines.")]
HotwordScore = Annotated[
    float | None,
    typer.Option(min=0, help="Worth of each unit of a hotword, nats; 1.5 if not given."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
RuntimeName = Annotated[
    str | None,
    typer.Option("--runtime", help="torch or engine; if not given, the engine where it can."),
]


def decoding_config(
    beam: int | None,
    lm: Path | None,
    lm_scale: float | None,
    label_bonus: float | None,
    hotword: list[str] | None,
    hotwords: Path | None,
    hotword_score: float | None,
) -> Any:
    """The options of decoding as one config; here, because importing PyTorch takes seconds."""
    from pocketscribe.decoding.searcher import DecodingConfig, read_hotwords

    return DecodingConfig.given(
        "options of decoding",
        beam=beam,
        lm=lm,
        lm_scale=lm_scale,
        label_bonus=label_bonus,
        hotwords=read_hotwords(hotword or (), hotwords),
        hotword_score=hotword_score,
    )


def opened(model: Path, search: Any, chunk: Any, device: str, runtime: str | None) -> Any:
    """The model in the runtime that was asked for; says so where that is the engine.

    Raises:
        UserError: there is no such runtime; or as `open_model`.
    """
    from pocketscribe.export.open import open_model

    if runtime not in (None, "torch", "engine"):
        raise UserError(f"--runtime {runtime}: choose torch or engine")
    engine = None if runtime is None else runtime == "engine"
    found = open_model(model, search, chunk, device, engine)
    if (kernels := getattr(found, "kernels", None)) is not None:
        print(f"pocketscribe: on the engine ({kernels})", file=sys.stderr)
    return found
