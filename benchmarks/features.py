"""Speed of what feeds a training: python benchmarks/features.py

On a corpus of synthetic speech made in a temporary folder, in seconds of audio a second of
processor time (all threads together: what one core does, and little disturbed by a busy machine):

    features       lhotse's extractor on whole utterances, as preparing uses it, beside
                   kaldi-native-fbank frame by frame in pieces of 0.1 s, as live audio comes
    augmentation   every kind, of features in memory
    loading        utterances from the lilcom cache, one by one
    batches        bucketing, loading, augmentation, text units and padding: all of one loader

The last line beside a training step's audio-seconds a second (training_step.py) tells what share
of a training goes into feeding it.
"""

import platform
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import typer
from torch import Tensor

from pocketscribe.speech.augment import AugmentConfig, augment
from pocketscribe.speech.batches import TrainingBatches, loader, trainable
from pocketscribe.speech.corpora import CorpusConfig
from pocketscribe.speech.features import SAMPLE_RATE, LiveFbank, fbank, read_audio
from pocketscribe.speech.prepare import prepare
from pocketscribe.speech.units import Units, UnitsConfig

PIECE = SAMPLE_RATE // 10
BATCHES = 20
ROUNDS = 3


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def best(*runs: Callable[[], object]) -> list[float]:
    """Seconds of each, taken in turns."""
    times = [[seconds(run) for run in runs] for _ in range(ROUNDS)]
    return [min(column) for column in zip(*times, strict=True)]


def live(samples: np.ndarray) -> np.ndarray:
    extractor = LiveFbank()
    found = []
    for start in range(0, len(samples), PIECE):
        extractor.accept(samples[start : start + PIECE])
        found.append(extractor.take(extractor.ready))
    extractor.finish()
    found.append(extractor.take(extractor.ready))
    return np.concatenate(found)


def show(name: str, audio: float, took: float, more: str = "") -> None:
    print(f"  {name:34} {audio / took:9.0f} x real time  {more}")


def main(utterances: int = 200) -> None:
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        corpus = CorpusConfig(corpus="synthetic", count=utterances)
        took = seconds(lambda: prepare(corpus, None, Path(folder)))
        prepared = prepare(corpus, None, Path(folder))
        cuts = list(prepared.cuts)
        total = sum(cut.duration for cut in cuts)
        print(f"{len(cuts)} utterances, {total:.0f} s of synthetic speech, best of {ROUNDS}")
        show("speaking and preparing it", total, took)

        audio = [read_audio(Path(cut.recording.sources[0].source)) for cut in cuts[:50]]
        heard = sum(map(len, audio)) / SAMPLE_RATE
        differ = max(float(np.abs(fbank(x) - live(x)).max()) for x in audio[:5])
        whole, pieces = best(lambda: list(map(fbank, audio)), lambda: list(map(live, audio)))
        show("features, lhotse", heard, whole)
        more = f"{pieces / whole:.1f} x as long; differ by {differ:.0e} at most"
        show("features, kaldi-native-fbank live", heard, pieces, more)

        features = [torch.from_numpy(cut.load_features()) for cut in cuts]

        def vary() -> list[Tensor]:
            generator = torch.Generator().manual_seed(0)
            return [augment(x, AugmentConfig(), generator) for x in features]

        varied, loaded = best(vary, lambda: [cut.load_features() for cut in cuts])
        show("augmentation", total, varied)
        show("loading", total, loaded)

        units = Units.learn((cut.supervisions[0].text for cut in cuts), UnitsConfig(kind="char"))
        part = trainable(prepared, units, max_seconds=20.0)
        batches = TrainingBatches([part], units, AugmentConfig(), batch_seconds=60, seed=0)
        stream = iter(loader(batches, workers=0))
        next(stream)  # fills the buckets
        fed = 0.0
        start = time.process_time()
        for batch in islice(stream, BATCHES):
            fed += batch.seconds
        show("batches", fed, time.process_time() - start)


if __name__ == "__main__":
    typer.run(main)
