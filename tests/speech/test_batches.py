"""Batches follow from seed and step alone, whatever the processes, workers and interruptions."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet, MonoCut
from torch import Tensor

import pocketscribe.speech.batches as speech_batches
from pocketscribe.errors import UserError
from pocketscribe.speech.augment import AugmentConfig
from pocketscribe.speech.batches import (
    Batch,
    Trainable,
    TrainingBatches,
    feature_statistics,
    label_entropy,
    loader,
    trainable,
)
from pocketscribe.speech.corpora import CorpusConfig
from pocketscribe.speech.features import MELS
from pocketscribe.speech.prepare import Prepared, prepare
from pocketscribe.speech.units import Units, UnitsConfig
from small_corpora import write_corpus

BATCH_SECONDS = 12.0


@pytest.fixture(scope="module")
def units() -> Units:
    return Units.learn(["ABCDEFGHIJKLMNOPQRSTUVWXYZ'"], UnitsConfig(kind="char"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> list[Prepared]:
    """Two corpora: 30 utterances of 0.4 to 3.3 s, 20 of half a second."""
    tmp = tmp_path_factory.mktemp("batches")
    long = [(f"long{n:02d}", 0.4 + 0.1 * n, "HELLO") for n in range(30)]
    short = [(f"short{n:02d}", 0.4 + 0.01 * n, "OH") for n in range(20)]
    parts = []
    for name, rows in (("long", long), ("short", short)):
        folder = write_corpus(
            tmp / name,
            [{"id": i, "path": f"{i}.wav", "seconds": s, "transcript": t} for i, s, t in rows],
        )
        parts.append(prepare(CorpusConfig(corpus=str(folder)), None, tmp / "prepared"))
    return parts


@pytest.fixture(scope="module", params=["in memory", "from disk"])
def parts(
    prepared: list[Prepared], units: Units, request: pytest.FixtureRequest
) -> Iterator[list[Trainable]]:
    with pytest.MonkeyPatch.context() as changed:
        if request.param == "from disk":
            changed.setattr(speech_batches, "IN_MEMORY", 19)  # of parts of 30 and 20
            changed.setattr(speech_batches, "SHUFFLED", 7)
        found = [trainable(part, units, 20.0) for part in prepared]
        assert [part.cuts.is_lazy for part in found] == [request.param == "from disk"] * 2
        yield found


def batches(parts: list[Trainable], units: Units, **others: object) -> TrainingBatches:
    arguments = {"augmentation": AugmentConfig(), "batch_seconds": BATCH_SECONDS, "seed": 0}
    return TrainingBatches(parts, units, **{**arguments, **others})  # type: ignore[arg-type]


def rows(batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """Each utterance's features and labels without padding, which is checked to be zeros."""
    found = []
    for x, frames, y, labels in zip(
        batch.features, batch.frames, batch.targets, batch.labels, strict=True
    ):
        assert not x[frames:].any() and not y[labels:].any()
        found.append((x[:frames], y[:labels]))
    return found


def same(a: Batch, b: Batch) -> bool:
    pairs = zip(vars(a).values(), vars(b).values(), strict=True)
    return all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in pairs)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batches_of_one(
    parts: list[Trainable], units: Units, processes: int
) -> None:
    alone = islice(batches(parts, units), 6)
    shares = [
        islice(batches(parts, units, rank=rank, processes=processes), 6)
        for rank in range(processes)
    ]
    for whole, *ranks in zip(alone, *shares, strict=True):
        expected = rows(whole)
        for rank, share in enumerate(ranks):
            assert (share.seconds, share.total_frames) == (whole.seconds, whole.total_frames)
            mine = expected[rank::processes]
            for (x, y), (wanted_x, wanted_y) in zip(rows(share), mine, strict=True):
                assert torch.equal(x, wanted_x) and torch.equal(y, wanted_y)


def test_skipping_resumes_exactly(parts: list[Trainable], units: Units) -> None:
    unbroken = list(islice(batches(parts, units), 8))
    for skip in (1, 5):
        resumed = list(islice(batches(parts, units, skip=skip), 8 - skip))
        assert all(map(same, resumed, unbroken[skip:]))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a single core
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_give_the_same_order(parts: list[Trainable], units: Units, workers: int) -> None:
    wanted = list(islice(batches(parts, units, skip=3), 6))
    loaded = list(islice(loader(batches(parts, units, skip=3), workers), 6))
    assert all(map(same, loaded, wanted))


@pytest.mark.parametrize("workers", [0, 1])
def test_what_fails_in_a_worker_says_the_same(
    parts: list[Trainable], units: Units, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object) -> Batch:
        raise UserError("a.lca: damaged")

    monkeypatch.setattr(TrainingBatches, "_collate", damaged)
    with pytest.raises(UserError, match=r"^a\.lca: damaged$"):
        next(loader(batches(parts, units), workers))


def test_versions_come_again(parts: list[Trainable], units: Units) -> None:
    """Of each utterance so many and no more, to the bit, however often it is heard."""
    heard: dict[str, Tensor] = {}
    count = 0
    stream = batches(parts, units, augmentation=AugmentConfig(versions=2, speed=0.1))
    for batch in islice(stream, 40):
        for name, (x, _) in zip(batch.ids, rows(batch), strict=True):
            assert torch.equal(heard.setdefault(name, x), x)
            count += 1
    utterances = Counter(name.split()[0] for name in heard)
    assert max(utterances.values()) == 2 and count > 3 * len(heard)


def test_the_seed_decides(parts: list[Trainable], units: Units) -> None:
    def ids(seed: int) -> list[list[str]]:
        cuts = batches(parts, units, seed=seed).global_batches()
        return [[cut.id for cut in batch] for batch in islice(cuts, 5)]

    assert ids(1) == ids(1) != ids(2)
    torch.manual_seed(5)
    first = next(iter(batches(parts, units, seed=1)))
    torch.manual_seed(6)
    assert same(next(iter(batches(parts, units, seed=1))), first)


def test_without_augmentation_batches_hold_what_was_prepared(
    parts: list[Trainable], units: Units
) -> None:
    stored = {cut.id: cut for part in parts for cut in part.cuts}
    made = batches(parts, units, augmentation=AugmentConfig().at(0.0))
    for batch, cuts in islice(zip(made, made.global_batches(), strict=False), 5):
        assert batch.seconds == pytest.approx(sum(cut.duration for cut in cuts))
        assert batch.total_frames == int(batch.frames.sum())
        for (x, y), cut in zip(rows(batch), cuts, strict=True):
            source = stored[cut.id]
            np.testing.assert_array_equal(x.numpy(), source.load_features())
            assert units.decode(y.tolist()) == source.supervisions[0].text


def test_augmentation_is_as_strong_as_it_has_grown(parts: list[Trainable], units: Units) -> None:
    masks = AugmentConfig().at(0.0).model_copy(update={"time_masks": 9, "time_share": 0.5})
    plain = next(iter(batches(parts, units, augmentation=AugmentConfig().at(0.0))))
    made = batches(parts, units, augmentation=masks)
    masked = next(iter(made))
    made.growth = 0.0
    assert same(next(iter(made)), plain) and not same(masked, plain)


def test_two_views_are_aligned_and_cost_twice(parts: list[Trainable], units: Units) -> None:
    once = next(iter(batches(parts, units)))
    twice = next(iter(batches(parts, units, views=2)))
    count = len(twice.frames) // 2
    assert torch.equal(twice.frames[:count], twice.frames[count:])
    assert torch.equal(twice.targets[:count], twice.targets[count:])
    assert not torch.equal(twice.features[:count], twice.features[count:])
    assert twice.seconds <= BATCH_SECONDS
    assert count < len(once.frames), "a batch costs the same with one view and with two"


def test_the_entropy_of_labels_is_that_of_what_is_drawn(
    parts: list[Trainable], units: Units
) -> None:
    counts = torch.zeros(len(units))
    for part in parts:
        for cut in part.cuts:
            for label in units.encode(cut.supervisions[0].text):
                counts[label] += part.prepared.config.weight
    p = counts[counts > 0] / counts.sum()
    assert label_entropy(parts, units) == pytest.approx(float(-(p * p.log()).sum()), rel=1e-5)


def weighted(part: Trainable, cuts: list[MonoCut], weight: float) -> Trainable:
    """Some of a part's utterances as a part with a weight of its own."""
    config = part.prepared.config.model_copy(update={"weight": weight})
    seconds = sum(cut.duration for cut in cuts)
    return Trainable(replace(part.prepared, config=config), CutSet(cuts), len(cuts), seconds, ())


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 4.0), (0.5, 0.25)])
def test_weights_shift_the_mix(
    parts: list[Trainable], units: Units, weights: tuple[float, float]
) -> None:
    cuts = list(parts[0].cuts)
    few = [cut for n, cut in enumerate(cuts) if n % 3 == 2]
    many = [cut for n, cut in enumerate(cuts) if n % 3 < 2]
    mix = [weighted(parts[0], few, weights[0]), weighted(parts[0], many, weights[1])]
    names = {cut.id for cut in few}
    heard: Counter[bool] = Counter()
    for batch in islice(batches(mix, units).global_batches(), 300):
        for cut in batch:
            heard[cut.id in names] += cut.duration
    wanted = [w * part.seconds for w, part in zip(weights, mix, strict=True)]
    # Buckets are drawn evenly, whatever they hold: a small corpus is heard a little unevenly.
    assert heard[True] / sum(heard.values()) == pytest.approx(wanted[0] / sum(wanted), rel=0.2)


def test_one_corpus_alone_is_heard_in_full(parts: list[Trainable], units: Units) -> None:
    drawn: Counter[str] = Counter()
    for cuts in islice(batches(parts[:1], units).global_batches(), 300):
        drawn.update(cut.id for cut in cuts)
    assert len(drawn) == 30
    assert min(drawn.values()) > sum(drawn.values()) / 30 / 4


@pytest.mark.parametrize("batch_seconds", [4.0, 12.0, 60.0])
def test_batches_are_full_and_not_much_more(
    parts: list[Trainable], units: Units, batch_seconds: float
) -> None:
    cuts = batches(parts, units, batch_seconds=batch_seconds).global_batches()
    durations = [[cut.duration for cut in batch] for batch in islice(cuts, 200)]
    padded = np.array([len(batch) * max(batch) for batch in durations])
    # lhotse closes a batch after the utterance that fills it: by so much are lengths unlike.
    assert padded.max() <= 1.15 * batch_seconds
    assert np.mean(padded) > (0.6 if batch_seconds < 2 * 3.3 else 0.85) * batch_seconds
    assert sum(map(sum, durations)) > 0.9 * padded.sum()  # similar lengths together


@pytest.mark.filterwarnings("ignore:We have exceeded the max_duration")  # as it is meant here
def test_a_process_without_an_utterance_stands_in(parts: list[Trainable], units: Units) -> None:
    idle = 0
    # Batches of one utterance to three: longer ones than a batch come alone.
    wholes = list(islice(batches(parts[:1], units, batch_seconds=3.0), 12))
    second = islice(batches(parts[:1], units, batch_seconds=3.0, rank=1, processes=2), 12)
    for whole, share in zip(wholes, second, strict=True):
        assert share.idle == (len(whole.frames) == 1) and not whole.idle
        assert (share.seconds, share.total_frames) == (whole.seconds, whole.total_frames)
        assert len(share.frames) == len(rows(whole)[1::2]) + share.idle
        idle += share.idle
    assert 0 < idle < 12


@pytest.fixture(scope="module")
def picky(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """One utterance for each reason not to train on it, and two good ones."""
    tmp = tmp_path_factory.mktemp("picky")
    texts = {
        "good": (0.4, "GOOD"),
        "letters": (0.4, "ÉCLAIR"),
        "long": (2.5, "LONG"),
        "crowded": (0.4, "TENLETTERS"),  # eleven with the space before them, in ten frames
        "tight": (0.4, "NINELETTE"),
    }
    folder = write_corpus(
        tmp / "mine",
        [
            {"id": name, "path": f"{name}.wav", "seconds": seconds, "transcript": text}
            for name, (seconds, text) in texts.items()
        ],
    )
    return prepare(CorpusConfig(corpus=str(folder)), None, tmp / "out")


@pytest.mark.parametrize("in_memory", [1, 1000])
def test_what_cannot_be_trained_on_is_refused_with_a_reason(
    picky: Prepared, units: Units, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(speech_batches, "IN_MEMORY", in_memory)
    found = trainable(picky, units, 2.0)
    assert [cut.id for cut in found.cuts] == ["good", "tight"] and found.count == 2
    assert found.seconds == pytest.approx(0.8)
    assert dict(found.refused) == {
        "letters": "these units cannot spell it",
        "long": "longer than 2 s",
        "crowded": "more labels than encoder frames",
    }
    assert found.bad == 2, "a long one is not bad"
    with pytest.raises(UserError, match="'mine train': nothing in it can be trained on"):
        trainable(picky, units, 0.1)


def test_fast_speech_stays_long_enough_for_its_labels(picky: Prepared, units: Units) -> None:
    fast = AugmentConfig().at(0.0).model_copy(update={"speed": 0.4})
    made = batches([trainable(picky, units, 2.0)], units, augmentation=fast, batch_seconds=2.0)
    frames, labels = [], []
    for batch in islice(made, 20):
        frames += batch.frames.tolist()
        labels += batch.labels.tolist()
    assert all(f >= 4 * n for f, n in zip(frames, labels, strict=True))
    tight = [f for f, n in zip(frames, labels, strict=True) if n == 10]
    assert min(tight) == 40 < max(tight)


def test_statistics_are_those_of_all_frames(parts: list[Trainable]) -> None:
    stored = [[cut.load_features() for cut in part.cuts] for part in parts]
    for most in (1000, 3):
        frames = np.concatenate([x for part in stored for x in part[:most]]).astype(np.float64)
        mean, std = feature_statistics(parts, most)
        assert mean.shape == std.shape == (MELS,) and mean.dtype == std.dtype == torch.float32
        np.testing.assert_allclose(mean, frames.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(std, frames.std(axis=0), rtol=1e-4)


def test_a_batch_moves_as_a_whole(parts: list[Trainable], units: Units) -> None:
    batch = next(iter(batches(parts, units)))
    moved = batch.to(torch.device("meta"))
    tensors = [x for x in vars(moved).values() if isinstance(x, Tensor)]
    assert len(tensors) == 4 and all(x.device.type == "meta" for x in tensors)
    assert (moved.seconds, moved.total_frames) == (batch.seconds, batch.total_frames)


def test_an_interrupted_run_reads_nothing_but_what_it_needs(
    parts: list[Trainable], units: Units, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Skipped batches are not loaded: a resumed run starts at once."""
    made = batches(parts, units, skip=50)
    loaded: list[int] = []
    monkeypatch.setattr(made, "_collate", lambda step, cuts: loaded.append(step))
    next(iter(made))
    assert loaded == [50]
