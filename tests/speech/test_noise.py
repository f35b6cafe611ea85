"""Noise from a user's recordings: prepared once without words, drawn anywhere, as loud as asked."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from pocketscribe.speech.augment import AugmentConfig, augment
from pocketscribe.speech.batches import TrainingBatches, loader, trainable
from pocketscribe.speech.corpora import CorpusConfig
from pocketscribe.speech.features import LOG_FLOOR, MELS
from pocketscribe.speech.noise import NoiseBank
from pocketscribe.speech.prepare import Prepared, prepare
from pocketscribe.speech.units import Units, UnitsConfig
from small_corpora import MakeCorpus, sound

ONLY_NOISE = AugmentConfig(
    speed=0,
    tract=0,
    gain_db=0,
    noise_share=1,
    noise_db=(20, 20),
    silence_share=0,
    frequency_masks=0,
    time_masks=0,
)


@pytest.fixture
def noise(tmp_path: Path) -> Prepared:
    """A long hiss and a short hum, neither with a transcript."""
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise/hiss.wav", sound(3.0), 16000)
    hum = 0.3 * np.sin(2 * np.pi * 200 * np.arange(3200) / 16000)
    soundfile.write(tmp_path / "noise/hum.wav", hum, 16000)
    part = CorpusConfig(corpus=str(tmp_path / "noise"), split="all")
    prepared = prepare(part, None, tmp_path / "out", transcribed=False)
    assert prepared.summary["utterances"] == 2 and prepared.summary["bad"] == 0
    return prepared


@pytest.fixture
def bank(noise: Prepared) -> NoiseBank:
    return NoiseBank(noise)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("frames", [1, 20, 150, 1000])
def test_pieces_are_as_long_as_asked_and_of_power_one(bank: NoiseBank, frames: int) -> None:
    drawn = [bank.draw(frames, generator(seed)) for seed in range(12)]
    assert all(x.shape == (frames, MELS) for x in drawn)
    assert all(x.exp().mean().item() == pytest.approx(1, rel=0.5) for x in drawn)
    again = [bank.draw(frames, generator(seed)) for seed in range(12)]
    assert all(torch.equal(x, y) for x, y in zip(drawn, again, strict=True))
    assert len({x.sum().item() for x in drawn}) > 1


def test_short_noise_is_repeated(bank: NoiseBank) -> None:
    hums = [
        x for seed in range(12) if torch.equal((x := bank.draw(60, generator(seed)))[:20], x[20:40])
    ]
    assert hums and torch.equal(hums[0][20:40], hums[0][40:])


def test_batches_hear_it_as_seed_and_step_say(
    noise: Prepared, make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    row = {"path": "a.wav", "transcript": "HI", "seconds": 1.0}
    part = CorpusConfig(corpus=str(make_corpus([row])))
    units = Units.learn(["HI"], UnitsConfig(kind="char"))
    parts = [trainable(prepare(part, None, tmp_path / "out"), units, 20.0)]

    def first(noise: Prepared | None) -> torch.Tensor:
        batches = TrainingBatches(parts, units, ONLY_NOISE, batch_seconds=4.0, seed=1, noise=noise)
        return next(loader(batches, workers=1)).features

    assert torch.equal(first(noise), first(noise)) and not torch.equal(first(noise), first(None))


def test_augmentation_mixes_it_in_at_the_level_asked(bank: NoiseBank) -> None:
    speech = torch.full((100, MELS), 3.0)
    [noisy] = augment(speech, ONLY_NOISE, generator(3), bank=bank)
    added = noisy.exp() - speech.exp()
    assert 10 * torch.log10(added.mean() / speech.exp().mean()).item() == pytest.approx(
        -20, abs=0.5
    )
    silence = torch.full((100, MELS), LOG_FLOOR)
    [heard] = augment(silence, ONLY_NOISE, generator(3), bank=bank)
    assert heard.std(dim=0).max() > 0.05  # it moves as the recording does
    [stationary] = augment(speech, ONLY_NOISE, generator(3))
    assert not torch.equal(stationary, noisy)
