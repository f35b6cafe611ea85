"""Training batches: the same global batches whatever the number of processes, from seed and step.

Dimensions: B batch, T feature frames (10 ms), F mel bins, U labels.
"""

import math
import random
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float, Int
from lhotse import CutSet, MonoCut
from lhotse.dataset.sampling.dynamic_bucketing import DynamicBucketer, estimate_duration_buckets
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, IterableDataset

from pocketscribe.errors import UserError
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.augment import AugmentConfig, augment
from pocketscribe.speech.features import MELS
from pocketscribe.speech.noise import NoiseBank
from pocketscribe.speech.prepare import Prepared
from pocketscribe.speech.units import Units

BUCKETS = 30  # of similar durations
IN_MEMORY = 300_000  # utterances of a part: 960 hours of LibriSpeech, a gigabyte
SHUFFLED = 20_000  # of a larger part, at a time


@dataclass  # not frozen: in mixed precision Fabric rebuilds it, field by field
class Batch:
    """One process' part of a global batch; `ids` tell versions of utterances apart, if asked to."""

    features: Float[Tensor, "B T F"]
    frames: Int[Tensor, " B"]
    targets: Int[Tensor, "B U"]
    labels: Int[Tensor, " B"]
    seconds: float  # of audio in the whole global batch
    total_frames: int  # feature frames in the whole global batch, before augmentation
    ids: tuple[str, ...] = ()  # where the versions of an utterance are counted
    idle: bool = False  # fewer utterances than processes: this one stands in and counts for nothing

    def to(self, device: torch.device) -> "Batch":
        return replace(
            self,
            features=self.features.to(device),
            frames=self.frames.to(device),
            targets=self.targets.to(device),
            labels=self.labels.to(device),
        )


@dataclass(frozen=True)
class Trainable:
    """One prepared part with the utterances that can be learnt from.

    Attributes:
        cuts: in memory, or of a large part read from disk whenever they are asked for.
        count, seconds: of these.
        refused: id and reason of each that cannot; `bad` of them are not merely too long.
    """

    prepared: Prepared
    cuts: CutSet
    count: int
    seconds: float
    refused: tuple[tuple[str, str], ...]
    bad: int = 0


def trainable(prepared: Prepared, units: Units, max_seconds: float) -> Trainable:
    """Leaves out what these units cannot spell, what is too long, and labels longer than frames."""
    in_memory = prepared.summary["utterances"] <= IN_MEMORY
    kept, count, long, bad, seconds = [], 0, [], [], 0.0
    for cut in prepared.cuts:
        words = cut.supervisions[0].text
        if cut.duration > max_seconds:
            long.append((cut.id, f"longer than {max_seconds:g} s"))
        elif not units.can_spell(words):
            bad.append((cut.id, "these units cannot spell it"))
        elif len(units.encode(words)) > cut.num_frames // FACTOR:
            bad.append((cut.id, "more labels than encoder frames"))
        else:
            count += 1
            seconds += cut.duration
            if in_memory:
                kept.append(cut)
    if not count:
        raise UserError(f"corpus {prepared.config.title!r}: nothing in it can be trained on")
    refused = (*bad, *long)
    others = _OtherThan(frozenset(name for name, _ in refused))
    cuts = CutSet(kept) if in_memory else prepared.cuts.filter(others)
    return Trainable(prepared, cuts, count, seconds, refused, len(bad))


@dataclass(frozen=True)
class _OtherThan:
    """A class: whoever loads batches in another process pickles it."""

    refused: frozenset[str]

    def __call__(self, cut: MonoCut) -> bool:
        return cut.id not in self.refused


class TrainingBatches(IterableDataset):
    """Endless batches of about `batch_seconds` of audio with its padding, similar lengths together.

    With several `views` of each utterance, differently augmented, all of them count as audio.
    `noise` is mixed in where augmentation says so.
    `growth` is how far augmentation has grown: the training loop sets it.

    The k-th global batch and its augmentation depend on `seed` and k alone: skipping to k resumes a
    run, and process r of n takes every n-th utterance of it.
    """

    def __init__(
        self,
        parts: Sequence[Trainable],
        units: Units,
        augmentation: AugmentConfig,
        *,
        batch_seconds: float,
        seed: int,
        views: int = 1,
        noise: Prepared | None = None,
        skip: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.parts = parts
        self.units = units
        self.augmentation = augmentation
        self.batch_seconds = batch_seconds
        self.seed = seed
        self.views = views
        self.noise = None if noise is None else NoiseBank(noise)
        self.growth = 1.0
        self.skip = skip
        self.rank = rank
        self.processes = processes

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        every = worker.num_workers if worker else 1
        first = self.skip + (worker.id if worker else 0)
        for step, cuts in islice(enumerate(self.global_batches()), first, None, every):
            yield self._collate(step, cuts)

    def global_batches(self) -> Iterator[list[MonoCut]]:
        """The utterances of each global batch."""
        # Drawing by weight x count makes each part's audio heard in proportion to weight x seconds.
        weights = [p.prepared.config.weight * p.count for p in self.parts]
        rng = random.Random(self.seed)
        endless = [p.cuts.shuffle(rng, SHUFFLED).repeat(preserve_id=True) for p in self.parts]
        if len(endless) > 1:
            mixed = CutSet.mux(*endless, weights=weights, seed=self.seed)
        else:
            mixed = endless[0]
        count = sum(p.count for p in self.parts)
        mean_seconds = sum(p.seconds for p in self.parts) / count
        # At least two batches a bucket, or small corpora would come in small batches.
        most_seconds = self.batch_seconds / self.views
        two_each = math.ceil(2 * BUCKETS * most_seconds / mean_seconds)
        # Not by lhotse's DynamicBucketingSampler, whose batches differ between loading processes.
        bucketer = DynamicBucketer(
            mixed,
            duration_bins=estimate_duration_buckets(islice(mixed, 10_000), BUCKETS),
            world_size=1,
            max_duration=most_seconds,
            buffer_size=max(min(20_000, count), two_each),
            shuffle=True,
            rng=random.Random(self.seed),
            bucket_rng=random.Random(1234),
        )
        for cuts in bucketer:
            yield list(cuts)

    def _collate(self, step: int, cuts: list[MonoCut]) -> Batch:
        versions, targets, ids = [], [], []
        augmentation = self.augmentation.at(self.growth)
        mine = range(self.rank, len(cuts), self.processes)
        for index in mine or range(1):  # every process has to take part in every step
            cut = cuts[index]
            drawn = hash((self.seed, step, index)) % 2**63
            if (count := self.augmentation.versions) is not None:
                version = drawn % count
                ids.append(f"{_utterance(cut)} {version} {self.growth}")
                drawn = zlib.crc32(f"{self.seed} {_utterance(cut)} {version}".encode())
            generator = torch.Generator().manual_seed(drawn)
            x = torch.from_numpy(cut.load_features())
            target = self.units.encode(cut.supervisions[0].text)
            varied = augment(x, augmentation, generator, self.views, self.noise)
            versions.append([_long_enough(x, len(target)) for x in varied])
            targets.append(torch.tensor(target, dtype=torch.long))
        features = [x for view in zip(*versions, strict=True) for x in view]
        targets = targets * self.views
        return Batch(
            features=pad_sequence(features, batch_first=True),
            frames=torch.tensor([len(x) for x in features]),
            targets=pad_sequence(targets, batch_first=True),
            labels=torch.tensor([len(t) for t in targets]),
            seconds=self.views * sum(c.duration for c in cuts),
            total_frames=self.views * sum(c.num_frames for c in cuts),
            ids=tuple(f"{name} {view}" for view in range(self.views) for name in ids),
            idle=not mine,
        )


def _utterance(cut: MonoCut) -> str:
    """A name that no other utterance has, of this corpus or another."""
    assert cut.features is not None
    return f"{Path(cut.features.storage_path).parent.name}/{cut.id}"


def label_entropy(parts: Sequence[Trainable], units: Units) -> float:
    """Nats a label: what it costs to guess labels by how often each is heard in training."""
    counts = torch.zeros(len(units), dtype=torch.float64)
    for part in parts:
        found = Counter(
            label for cut in part.cuts for label in units.encode(cut.supervisions[0].text)
        )
        for label, count in found.items():
            counts[label] += part.prepared.config.weight * count
    return float(torch.distributions.Categorical(counts).entropy())


def _long_enough(x: Float[Tensor, "T F"], labels: int) -> Float[Tensor, "T2 F"]:
    """Faster speech may have become too short for its labels: its last frame is held."""
    missing = max(labels, 1) * FACTOR - x.shape[0]
    return torch.cat([x, x[-1:].expand(missing, -1)]) if missing > 0 else x


def loader(batches: TrainingBatches, workers: int) -> Iterator[Batch]:
    """Batches in order, loaded ahead by `workers` processes (0: in this one).

    Raises:
        UserError: as the batches do, wherever they are loaded.
    """
    # An iterator at once: PyTorch draws a seed for it, which is not to happen within a step.
    return map(
        _raised, iter(DataLoader(_WithErrors(batches), batch_size=None, num_workers=workers))
    )


def _raised(found: Batch | UserError) -> Batch:
    if isinstance(found, UserError):
        raise found
    return found


class _WithErrors(IterableDataset):
    """Batches, and the error that ends them: raised in a worker, its line would be a traceback."""

    def __init__(self, batches: TrainingBatches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch | UserError]:
        try:
            yield from self.batches
        except UserError as error:
            yield error


def feature_statistics(parts: Sequence[Trainable], most: int = 1000) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each mel bin over every part's first utterances, `[F]`."""
    count, total, square = 0, torch.zeros(MELS).double(), torch.zeros(MELS).double()
    for part in parts:
        for cut in islice(part.cuts, most):
            x = torch.from_numpy(cut.load_features()).double()
            count, total, square = count + len(x), total + x.sum(0), square + (x**2).sum(0)
    mean = total / count
    return mean.float(), (square / count - mean**2).clamp(min=1e-4).sqrt().float()
