"""`transcribe`: files, folders and standard input one by one, in the form that was asked for."""

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pocketscribe.api import Model
from pocketscribe.decoding.streaming import Transcript
from pocketscribe.decoding.subtitles import subtitles
from pocketscribe.errors import UserError
from pocketscribe.files import in_words, write_text
from pocketscribe.speech.manifests import AUDIO_SUFFIXES, is_audio

FORMS = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}
SHOWN = 300  # the last letters of a text that grows


@dataclass(frozen=True)
class Source:
    """Something to listen to, and where its transcript goes below --out, without a suffix."""

    path: Path
    place: Path


def transcribe_all(
    model: Model, given: Sequence[Path], form: str, out: Path | None, console: Console
) -> int:
    """Prints or writes a transcript of each source; returns how many could not be read.

    On a terminal the text is shown while it grows.

    Raises:
        UserError: the form is unknown, a folder holds no audio, or transcripts would be lost.
    """
    if form not in FORMS:
        raise UserError(f"--format {form}: choose {', '.join(FORMS)}")
    sources = [source for path in given for source in _sources(path)]
    if out is None and len(sources) > 1 and form in ("srt", "vtt"):
        raise UserError(f"--format {form}: {len(sources)} files need --out FOLDER")
    if out is not None:
        _check_places(sources, out, FORMS[form])
    bad = 0
    for source in sources:
        try:
            said = _hear(model, source.path, console)
        except UserError as error:
            print(f"pocketscribe: {error}", file=sys.stderr, flush=True)
            bad += 1
            continue
        written = written_as(form, said, source.path)
        if out is not None:
            write_text(out / f"{source.place}{FORMS[form]}", written + "\n")
        elif form == "text" and len(sources) > 1:
            print(f"{in_words(source.path)}: {written}", flush=True)
        else:
            print(written, flush=True)
    return bad


def _check_places(sources: Sequence[Source], out: Path, suffix: str) -> None:
    """Refuses two transcripts in one place, or one in the place of what was really said."""
    taken: dict[Path, Path] = {}
    for source in sources:
        if (other := taken.setdefault(source.place, source.path)) != source.path:
            raise UserError(f"--out: {other} and {source.path} would both be {source.place}")
        lost = out / f"{source.place}{suffix}"
        if lost.exists() and lost.parent.samefile(source.path.parent):
            raise UserError(
                f"--out {out}: {lost} is beside its audio already, and may be what was really "
                "said; choose another folder"
            )


def written_as(form: str, said: Transcript, path: Path) -> str:
    """A transcript in one of `FORMS`; the documented keys of `transcribe --json`."""
    if form == "text":
        return said.text
    if form != "json":
        return subtitles(said.words, form)
    about = {
        "path": in_words(path),
        "text": said.text,
        "tokens": said.tokens,
        "timestamps": said.timestamps,
        "words": [asdict(word) for word in said.words],
    }
    return json.dumps(about, ensure_ascii=False)


def _sources(path: Path) -> list[Source]:
    """A folder's audio, however deep, or the one that was named."""
    if not path.is_dir():
        return [Source(path, Path("stdin" if str(path) == "-" else path.stem))]
    found = sorted(filter(is_audio, path.rglob("*")))
    if not found:
        raise UserError(f"{path}: no audio in this folder ({', '.join(AUDIO_SUFFIXES)})")
    return [Source(p, p.relative_to(path).with_suffix("")) for p in found]


def _hear(model: Model, path: Path, console: Console) -> Transcript:
    audio = io.BytesIO(sys.stdin.buffer.read()) if str(path) == "-" else path
    live = Live(console=console, auto_refresh=False, transient=True)
    if not console.is_terminal:
        return model.transcribe(audio)
    with live:
        return model.transcribe(
            audio, show=lambda text: live.update(Text(text[-SHOWN:]), refresh=True)
        )
