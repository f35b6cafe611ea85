"""A tiny corpus and a tiny model, and trainings of one on the other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from pocketscribe.models import ChunkConfig, ConformerConfig, ModelConfig, Recogniser
from pocketscribe.speech.augment import AugmentConfig
from pocketscribe.speech.batches import Trainable, TrainingBatches, feature_statistics, trainable
from pocketscribe.speech.corpora import CorpusConfig
from pocketscribe.speech.prepare import Prepared, prepare
from pocketscribe.speech.units import Units, UnitsConfig
from pocketscribe.training.fabric import make_fabric
from pocketscribe.training.loop import Training, TrainingConfig
from pocketscribe.training.objectives import Objective, Plain

CORPUS = CorpusConfig(corpus="synthetic", kind="digits", count=24)


@pytest.fixture(scope="session")
def prepared(made_once: Callable[..., Path]) -> Prepared:
    out = made_once("prepared-digits", lambda path: prepare(CORPUS, None, path))
    return prepare(CORPUS, None, out)


@pytest.fixture(scope="session")
def units(prepared: Prepared) -> Units:
    texts = [cut.supervisions[0].text for cut in prepared.cuts]
    return Units.learn(texts, UnitsConfig(kind="char"))


@pytest.fixture(scope="session")
def usable(prepared: Prepared, units: Units) -> Trainable:
    return trainable(prepared, units, max_seconds=20.0)


@pytest.fixture
def tiny(usable: Trainable, units: Units) -> Callable[..., Recogniser]:
    """Builds the same small model each time."""

    def build(head: str = "transducer", dropout: float = 0.0) -> Recogniser:
        torch.manual_seed(0)
        config = ModelConfig(
            encoder=ConformerConfig(width=16, layers=1, heads=2, kernel=4, dropout=dropout),
            head=head,
            chunks=ChunkConfig(sizes=(4, "full"), left=8),
            predictor=16,
            joiner=16,
            subsampling=8,
        )
        model = Recogniser(config, len(units))
        mean, std = feature_statistics([usable])
        model.mean.copy_(mean)
        model.inverse_std.copy_(1 / std)
        return model

    return build


@pytest.fixture
def batches(usable: Trainable, units: Units) -> Callable[..., TrainingBatches]:
    """Batches of about five utterances, the same ones each time."""

    def build(augment: AugmentConfig | None = None, batch_seconds: float = 10.0) -> TrainingBatches:
        augment = augment or AugmentConfig()
        return TrainingBatches([usable], units, augment, batch_seconds=batch_seconds, seed=3)

    return build


@pytest.fixture
def train(usable: Trainable) -> Callable[..., Training]:
    """Trains a model, for 20 steps or so unless told otherwise; one thread, so to the same bits."""

    def run(
        model: Recogniser,
        batches: TrainingBatches,
        folder: Path,
        validate: Callable[[Recogniser], dict[str, float]] = lambda model: {},
        objective: Objective | None = None,
        trained: bool = False,
        **changes: Any,
    ) -> Training:
        stage = {"audio_hours": 160 / 3600, "precision": "float32", "seed": 3, "validations": 0}
        config = TrainingConfig(**{**stage, **changes})
        objective = objective or Plain(model, config.loss)
        fabric = make_fabric(config.precision, folder)
        training = Training(fabric, model, objective, config, folder, validate, trained=trained)
        training.run(batches, Progress(console=Console(quiet=True)), usable.seconds)
        return training

    return run
