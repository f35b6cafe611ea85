"""The speech of a run: prepared, held back where it is scored, and spelt in the run's units."""

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import Progress as Bar

from pocketscribe.decoding.offline import with_tail
from pocketscribe.errors import UserError
from pocketscribe.evaluation.dev import Heard, dev_errors
from pocketscribe.files import write_json
from pocketscribe.models import Recogniser
from pocketscribe.recipes.recipe import SpeechConfig, StageConfig
from pocketscribe.speech.augment import AugmentConfig
from pocketscribe.speech.batches import Trainable, TrainingBatches, trainable
from pocketscribe.speech.corpora import CorpusConfig, items, locate
from pocketscribe.speech.held_out import HeldOut
from pocketscribe.speech.prepare import Prepared, prepare
from pocketscribe.speech.units import Units

DEV_BATCH_SECONDS, LONGEST_SECONDS = 60.0, 20.0
VALIDATION_UTTERANCES = 100  # of each dev part, during training


class Speech:
    """What a recipe's [speech] and its stages name, as a run below `folder` hears it."""

    def __init__(
        self,
        config: SpeechConfig,
        folder: Path,
        root: Path | None,
        fabric: Fabric,
        console: Console,
        bar: Bar,
    ) -> None:
        """`root` is where the corpora lie; what is prepared is shared by all runs beside this."""
        self.config, self.folder, self.root = config, folder, root
        self.fabric, self.console, self.bar = fabric, console, bar
        self._prepared: dict[str, Path] = {}

    def of(self, config: SpeechConfig, folder: Path) -> "Speech":
        """The speech of another run beside this one."""
        return Speech(config, folder, self.root, self.fabric, self.console, self.bar)

    def prepare(self, corpus: CorpusConfig, transcribed: bool = True) -> Prepared:
        """One part, prepared now or before; processes come here together."""
        key = f"{transcribed} {corpus.model_copy(update={'weight': 1.0}).model_dump_json()}"
        if key not in self._prepared:
            self._prepared[key] = self._prepare(corpus, transcribed).folder
        return Prepared(self._prepared[key], corpus)

    def _prepare(self, corpus: CorpusConfig, transcribed: bool) -> Prepared:
        out, share = self.folder.parent / "prepared", self.config.bad_share
        with self.fabric.rank_zero_first():
            return prepare(
                corpus,
                self.root,
                out,
                share,
                self.bar,
                held_out=self._held_out,
                transcribed=transcribed,
            )

    @cached_property
    def _held_out(self) -> HeldOut:
        """What dev and test say; looking for it also tells early where a part is missing."""
        parts = (*self.config.dev, *self.config.test)
        scored = [part for part in parts if part.corpus != "synthetic"]
        found = (item.text for part in scored for item in items(part, locate(part, self.root)))
        return HeldOut(found)

    def units(self, corpora: Iterable[CorpusConfig], brought: Callable[[], Units] | None) -> Units:
        """The run's text units: those of a model that it starts from, else learnt from all texts.

        `corpora` are all that any stage hears; `brought` tells that model's, if there is one.
        """
        path = self.folder / "units.json"
        if self.fabric.broadcast(path.is_file()):  # to be asked by all processes or by none
            return Units.read(path)
        # Both are meetings themselves, so not within the one below.
        units = brought() if brought is not None else None
        parts = [self.prepare(corpus) for corpus in corpora] if units is None else []
        with self.fabric.rank_zero_first():
            if path.is_file():
                return Units.read(path)
            if units is None:
                texts = [cut.supervisions[0].text for part in parts for cut in part.cuts]
                units = Units.learn(texts, self.config.units)
            units.write(path)
            return units

    def trainable(self, stage: StageConfig, units: Units) -> list[Trainable]:
        """The parts that a stage hears, without what cannot be learnt from: that is listed.

        Raises:
            UserError: more of a part is bad than speech.bad_share allows.
        """
        chosen = stage.train or self.config.train
        parts = [trainable(self.prepare(part), units, stage.max_seconds) for part in chosen]
        refused: dict[str, dict[str, str]] = {}
        for part in parts:
            if part.refused:
                refused.setdefault(part.prepared.config.title, {}).update(part.refused)
        listed, share = self.folder / stage.name / "refused.json", self.config.bad_share
        if refused and self.fabric.is_global_zero:
            count = sum(len(r) for r in refused.values())
            self.console.print(f"{count} utterances cannot be trained on: {listed}", markup=False)
            write_json(listed, refused)
        for part in parts:
            found = part.bad + part.count
            if part.bad > share * found:
                raise UserError(
                    f"corpus {part.prepared.config.title!r}: {part.bad} of {found} utterances "
                    f"cannot be trained on, more than {share:.0%}; mend those listed in {listed}; "
                    f"the first: {': '.join(part.refused[0])}"
                )
        return parts

    def noise(self, stage: StageConfig) -> Prepared | None:
        """The recordings of noise that a stage mixes in, if it names some."""
        return None if stage.noise is None else self.prepare(stage.noise, False)

    def dev_batches(self, units: Units) -> TrainingBatches:
        """Dev speech as it is, in batches: for choices by its loss."""
        parts = [trainable(self.prepare(part), units, LONGEST_SECONDS) for part in self.config.dev]
        plain = AugmentConfig(strength=0.0)
        return TrainingBatches(parts, units, plain, batch_seconds=DEV_BATCH_SECONDS, seed=0)

    def heard(self, count: int) -> list[Heard]:
        """The first utterances of each dev part, to be searched by."""
        return [
            heard._replace(part=index)
            for index, part in enumerate(self.config.dev)
            for heard in self._heard(part, count)
        ]

    def _heard(self, part: CorpusConfig, count: int) -> list[Heard]:
        """Raises UserError where nothing in it can be scored."""
        prepared = self.prepare(part)
        if not prepared.summary["utterances"]:
            listed = prepared.folder / "bad.tsv"
            raise UserError(f"speech.dev: nothing in {part.title!r} can be scored; see {listed}")
        return [
            Heard(
                cut.id,
                with_tail(torch.from_numpy(cut.load_features())),
                cut.supervisions[0].text,
                cut.supervisions[0].speaker or "",
            )
            for cut in prepared.cuts.subset(first=count)
        ]

    def validation(self, units: Units) -> Callable[[Recogniser], dict[str, float]]:
        """Greedy WER of the first utterances of each dev part, under the streaming chunking."""
        parts = {p.title: self._heard(p, VALIDATION_UTTERANCES) for p in self.config.dev}

        def validate(model: Recogniser) -> dict[str, float]:
            return {f"wer {t}": dev_errors(model, heard, units).wer for t, heard in parts.items()}

        return validate
