"""Corpora by lhotse: cut sets as they are, and whatever lhotse has a recipe for."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lhotse import CutSet, MonoCut, SupervisionSegment, recipes
from lhotse.cut import Cut, MixedCut

from pocketscribe.errors import UserError
from pocketscribe.speech.features import resampled
from pocketscribe.speech.items import ALL, EmptyPartError, Item, split_up

CUTS = ".jsonl.gz"
SPH, PLAIN = re.compile(r"\.sph$", re.IGNORECASE), re.compile(r"[\w./:+,=@%-]+")


def cut_sets(file: Path, split: str) -> Iterator[Item]:
    """cuts.jsonl.gz, whatever it holds; or beside `file` the cut sets whose names tell the split,
    such as yesno_cuts_train.jsonl.gz.
    """
    if file.name == f"cuts{CUTS}":
        yield from one_cut_set(file, split)
        return
    beside = sorted(file.parent.glob(f"*cuts*{CUTS}"))
    chosen = [f for f in beside if split in (ALL, *re.split("[_.]", f.name.removesuffix(CUTS)))]
    if not chosen:
        names = ", ".join(f.name for f in beside)
        raise EmptyPartError(f"{file.parent}: no cut set is named {split!r} (there: {names})")
    for one in chosen:
        yield from one_cut_set(one, ALL)


def one_cut_set(file: Path, split: str) -> Iterator[Item]:
    """A file of cuts, which need not say what split they are in."""
    yield from split_up(list(items_of(partial(CutSet.from_jsonl_lazy, file), file)), split, file)


def items_of(cuts: Callable[[], CutSet], source: Path) -> Iterator[Item]:
    """An item for each supervision of each cut; cuts without one say nothing."""
    try:
        for cut in cuts():
            parts = [cut]
            if len(cut.supervisions) > 1:
                parts = list(cut.trim_to_supervisions(keep_overlapping=False))
            for part in parts:
                yield _item(part, source)
    except UserError:
        raise
    except Exception as error:  # lhotse and gzip raise many kinds for damaged files
        raise UserError(
            f"{source}: not a lhotse cut set, or a damaged one ({why(error)})"
        ) from None


def why(error: BaseException) -> str:
    """What an error came of: lhotse's own say what to install where a file is not to be had."""
    while error.__context__ is not None and not error.__suppress_context__:
        error = error.__context__
    return " ".join(str(error).split()) or type(error).__name__


def _item(cut: Cut, source: Path) -> Item:
    said = cut.supervisions[0] if cut.supervisions else None
    name = said.id if said else cut.id
    text, speaker = (said.text or "", said.speaker or "") if said else ("", "")
    columns = _columns(said) if said else {}
    files = tuple(_files(cut))
    if len(files) == 1 and _is_whole(cut):
        return Item(name, text, speaker, files[0], columns=columns)
    for command in _commands(cut.to_dict()):
        raise UserError(f"{source}: cut {cut.id} would run a command, {command!r}: none is run")
    made, sources = partial(_load, cut), files or (source,)
    return Item(name, text, speaker, None, made, sources, columns, seconds=cut.duration)


def _columns(said: SupervisionSegment) -> dict[str, str]:
    known = {key: getattr(said, key) for key in ("speaker", "gender", "language")}
    return {k: str(v) for k, v in {**known, **(said.custom or {})}.items() if v is not None}


def _files(cut: Cut) -> Iterator[Path]:
    tracks = [track.cut for track in cut.tracks] if isinstance(cut, MixedCut) else [cut]
    for track in tracks:
        recording = getattr(track, "recording", None)
        for source in recording.sources if recording else ():
            if source.type == "file":
                yield Path(source.source)


def _commands(said: Any) -> Iterator[str]:
    """What lhotse would give to a shell to read a cut: sources that are commands or pipes, and
    names of .sph files.
    """
    if isinstance(said, Mapping):
        source = said.get("source")
        if isinstance(source, str) and (said.get("type") == "command" or is_command(source)):
            yield source
        said = said.values()
    elif not isinstance(said, Sequence) or isinstance(said, str | bytes):
        return
    for part in said:
        yield from _commands(part)


def is_command(name: str) -> bool:
    """Whether lhotse opens a file of that name by a shell, and that may do more than read it."""
    return name.startswith("pipe:") or bool(SPH.search(name) and not PLAIN.fullmatch(name))


def _is_whole(cut: Cut) -> bool:
    """Whether the cut is all of a recording of one channel, unaltered."""
    if not isinstance(cut, MonoCut) or cut.start != 0 or cut.recording.transforms:
        return False
    return cut.recording.num_channels == 1 and abs(cut.duration - cut.recording.duration) < 1e-3


def _load(cut: Cut) -> np.ndarray:
    return resampled(np.asarray(cut.load_audio()).mean(axis=0), cut.sampling_rate)


def recipe(name: str) -> Callable[..., Any] | None:
    """What lhotse prepares the corpus `name` with, if it can."""
    return getattr(recipes, f"prepare_{name}", None)


def by_recipe(name: str, folder: Path, split: str) -> Iterator[Item]:
    """A corpus as it was downloaded and unpacked, by lhotse's recipe of that name.

    Raises:
        UserError: the recipe needs more than the folder, or is not content with it.
    """
    prepare = recipe(name)
    assert prepare is not None
    _, *others = inspect.signature(prepare).parameters.values()
    if needed := [p.name for p in others if p.default is p.empty]:
        raise UserError(
            f"corpus {name!r}: lhotse's recipe also needs {', '.join(needed)}; "
            f"run `lhotse prepare` yourself, and name the folder of its cut set as the corpus"
        )
    parts = any(p.name == "dataset_parts" for p in others) and split != ALL
    try:
        found = prepare(folder, **({"dataset_parts": (split,)} if parts else {}))
    except Exception as error:  # for what is not that corpus, of many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{folder}: not {name} as unpacked ({reason}); {_splits(folder, split)}"
        ) from None
    sets = {"": found} if isinstance(found, Mapping) and "recordings" in found else found
    if not (isinstance(sets, Mapping) and all(_is_set(one) for one in sets.values())):
        raise UserError(
            f"corpus {name!r}: lhotse sorts it in more ways than by split; "
            f"run `lhotse prepare` yourself, and name the folder of its cut set as the corpus"
        )
    if "" in sets:
        yield from split_up(list(_of_set(sets[""], folder)), split, folder)
        return
    chosen = list(sets) if split == ALL else [split]
    if not sets or not set(chosen) <= set(sets):
        raise EmptyPartError(f"corpus {name!r}: {_splits(folder, split, sets)}")
    for part in chosen:
        yield from _of_set(sets[part], folder)


def _splits(folder: Path, split: str, sets: Iterable[str] = ()) -> str:
    there = sorted(sets) or sorted(p.name for p in folder.iterdir() if p.is_dir())
    return f"no part {split!r} in {folder} (there: {', '.join(there) or 'none'})"


def _is_set(one: object) -> bool:
    return isinstance(one, Mapping) and "recordings" in one and "supervisions" in one


def _of_set(one: Mapping[str, Any], folder: Path) -> list[Item]:
    cuts = CutSet.from_manifests(recordings=one["recordings"], supervisions=one["supervisions"])
    spoken = cuts.filter(lambda cut: bool(cut.supervisions))
    return sorted(items_of(lambda: spoken, folder), key=lambda item: item.id)
