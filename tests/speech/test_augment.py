"""Augmentation does what its config says, no more, and the same for the same generator."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pocketscribe.speech import augment as augmentation
from pocketscribe.speech.augment import AugmentConfig, resample
from pocketscribe.speech.features import LOG_FLOOR, MELS, SAMPLE_RATE, fbank, resampled


def only(**changes: object) -> AugmentConfig:
    """Nothing but these changes."""
    return AugmentConfig().at(0.0).model_copy(update=changes)


def augment(x: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """One version of an utterance."""
    [y] = augmentation.augment(x, config, generator)
    return y


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def x(speech: np.ndarray) -> Tensor:
    return torch.from_numpy(fbank(speech))


def test_none_leaves_features_alone(x: Tensor) -> None:
    for seed in range(5):
        assert torch.equal(augment(x, AugmentConfig().at(0.0), rng(seed)), x)


def test_the_generator_alone_decides_and_the_input_stays(x: Tensor) -> None:
    before = x.clone()
    everything = AugmentConfig(noise_share=1.0, silence_share=1.0, telephone_share=1.0)
    first = augment(x, everything, rng(1))
    torch.manual_seed(99)
    assert torch.equal(augment(x, everything, rng(1)), first)
    assert not torch.equal(augment(x, everything, rng(2))[:50], first[:50])
    assert torch.equal(x, before)


def test_speed_changes_the_length_as_asked(x: Tensor) -> None:
    for speed in (0.8, 0.9, 1.0, 1.1, 1.25):
        assert resample(x, speed, 1.0).shape == (round(len(x) / speed), MELS)
    lengths = {len(augment(x, only(speed=0.1), rng(seed))) for seed in range(200)}
    assert len(x) / 1.1 - 1 <= min(lengths) < 0.92 * len(x)
    assert 1.09 * len(x) < max(lengths) <= len(x) / 0.9 + 1
    assert {len(augment(x, only(tract=0.2), rng(seed))) for seed in range(20)} == {len(x)}
    assert resample(x[:1], 1.5, 1.0).shape == (1, MELS)


@pytest.mark.parametrize("speed", [0.85, 0.9, 1.1, 1.15])
def test_resampled_features_are_those_of_resampled_audio(speech: np.ndarray, speed: float) -> None:
    # Audio that is said to have a higher rate than it has is played faster.
    really = fbank(resampled(speech, round(SAMPLE_RATE * speed)))
    features = torch.from_numpy(fbank(speech))

    def likeness(approximation: Tensor) -> float:
        """Correlation over time and frequency of what is above the faintest sounds."""
        length = min(len(approximation), len(really))
        pair = np.stack([approximation.numpy()[:length, :75], really[:length, :75]])
        return float(np.corrcoef(pair.clip(-12).reshape(2, -1))[0, 1])

    warped = likeness(resample(features, speed, speed))
    assert warped > 0.95
    # Time alone, or the right stretch the wrong way round, is less like it.
    assert warped > likeness(resample(features, speed, 1.0)) + 0.02
    assert warped > likeness(resample(features, speed, 1 / speed)) + 0.05
    assert warped > likeness(features) + 0.2


def test_gain_adds_a_constant(x: Tensor) -> None:
    most = 6 * math.log(10) / 10
    gains = []
    for seed in range(100):
        y = augment(x, only(gain_db=6.0), rng(seed))
        assert y.min() >= LOG_FLOOR
        inside = (y > LOG_FLOOR) & (x > LOG_FLOOR)
        difference = (y - x)[inside]
        assert torch.allclose(difference, difference[0].expand_as(difference), atol=1e-4)
        gains.append(difference[0].item())
    assert -most <= min(gains) < -0.9 * most and 0.9 * most < max(gains) <= most


def test_noise_never_lowers_and_is_as_far_below_as_asked(x: Tensor) -> None:
    for seed in range(10):
        y = augment(x, only(noise_share=1.0, noise_db=(20.0, 20.0)), rng(seed))
        assert (y >= x - 1e-5).all()
        assert y.quantile(0.05) > x.quantile(0.05) + 1  # the floor rises
    power = x.exp().mean()
    added = [
        (augment(x, only(noise_share=1.0, noise_db=(db, db)), rng(seed)).exp().mean() - power)
        for db in (10.0, 30.0)
        for seed in range(50)
    ]
    near, far = torch.stack(added).view(2, 50).median(dim=1).values / power
    # The colour and ripple of the noise move its level by some decibels.
    assert 10 ** (-1) / 3 < near < 3 * 10 ** (-1) and 10 ** (-3) / 3 < far < 3 * 10 ** (-3)


def test_the_telephone_ends_between_3400_and_4000_hertz(x: Tensor) -> None:
    bands = set()
    for seed in range(100):
        y = augment(x, only(telephone_share=1.0), rng(seed))
        band = int((y != LOG_FLOOR).any(dim=0).sum())
        assert torch.equal(y[:, :band], x[:, :band]) and (y[:, band:] == LOG_FLOOR).all()
        bands.add(band)
    low, high = (1127 * math.log1p(hertz / 700) for hertz in (20, SAMPLE_RATE / 2 - 400))
    edges = [
        (1127 * math.log1p(hertz / 700) - low) / (high - low) * (MELS + 1) for hertz in (3400, 4000)
    ]
    assert bands == set(range(int(edges[0]), int(edges[1]) + 1))
    heard = [
        torch.equal(augment(x[:9], only(telephone_share=0.5), rng(s)), x[:9]) for s in range(99)
    ]
    assert 35 < sum(heard) < 64


def test_silence_before_and_after_is_not_longer_than_asked() -> None:
    x = torch.randn(40, MELS)
    firsts, lasts = [], []
    for seed in range(50):
        y = augment(x, only(silence_share=1.0, silence_s=0.3), rng(seed))
        speech = (y != LOG_FLOOR).any(dim=1).nonzero().flatten()
        first, end = int(speech[0]), int(speech[-1]) + 1
        assert torch.equal(y[first:end], x)
        firsts.append(first)
        lasts.append(len(y) - end)
    for counts in (firsts, lasts):
        assert max(counts) <= 30 and max(counts) > 20 and min(counts) < 10
    assert firsts != lasts


def test_shares_are_shares(x: Tensor) -> None:
    x = x[:20]
    # Each end has its own draw: 1 - 0.8^2 of all have silence at one end or both.
    longer = [len(augment(x, only(silence_share=0.1), rng(s))) > len(x) for s in range(200)]
    louder = [not torch.equal(augment(x, only(noise_share=0.3), rng(s)), x) for s in range(200)]
    assert 0.12 < np.mean(longer) < 0.28 and 0.22 < np.mean(louder) < 0.38


def test_masks_hide_at_most_what_is_asked() -> None:
    x = torch.randn(200, MELS, generator=rng())
    columns, rows = [], []
    for seed in range(50):
        changed = augment(x, only(frequency_masks=2, frequency_width=20), rng(seed)) != x
        assert torch.equal(changed.any(dim=0), changed.all(dim=0))  # whole bands
        columns.append(int(changed.all(dim=0).sum()))
        changed = augment(x, only(time_masks=3, time_share=0.05), rng(seed)) != x
        assert torch.equal(changed.any(dim=1), changed.all(dim=1))  # whole spans
        rows.append(int(changed.all(dim=1).sum()))
    assert 25 < max(columns) <= 40 and 20 < max(rows) <= 30
    masked = augment(x, only(frequency_masks=2, frequency_width=20), rng(3))
    means = x.mean(0).expand_as(x)  # after normalisation nothing else is neutral
    assert torch.equal(masked[masked != x], means[masked != x])


def test_short_utterances_survive_everything() -> None:
    for length in (1, 2, 5):
        x = torch.randn(length, MELS, generator=rng())
        for seed in range(20):
            y = augment(x, AugmentConfig(silence_share=1.0, noise_share=1.0), rng(seed))
            assert len(y) >= 1 and y.isfinite().all()


def test_two_views_are_one_utterance_heard_twice(x: Tensor) -> None:
    config = AugmentConfig(silence_share=1.0, noise_share=1.0)
    first, second = augmentation.augment(x, config, rng(4), views=2)
    assert first.shape == second.shape and not torch.equal(first, second)
    # Speed, tract and silence are common: without what differs, both are the same.
    plain = config.model_copy(
        update={"noise_share": 0.0, "gain_db": 0.0, "frequency_width": 0, "time_share": 0.0}
    )
    first, second = augmentation.augment(x, plain, rng(4), views=2)
    assert torch.equal(first, second) and len(first) != len(x)


def test_augmentation_grows_as_the_loss_falls() -> None:
    config = AugmentConfig(grows=(0.75, 0.25))
    losses = (1.5, 0.75, 0.626, 0.625, 0.5, 0.375, 0.251, 0.25, 0.0)
    assert [config.growth(x) for x in losses] == [0, 0, 0, 0.25, 0.5, 0.75, 0.75, 1, 1]
    at_once = AugmentConfig(grows=(0.5, 0.5))
    assert [at_once.growth(loss) for loss in (0.51, 0.5)] == [0, 1]
    with pytest.raises(ValueError, match="grows = "):
        AugmentConfig(grows=(0.2, 0.6))


def test_half_grown_is_half_of_everything(x: Tensor) -> None:
    config = AugmentConfig(telephone_share=0.5)
    half = config.at(0.5)
    assert (half.speed, half.gain_db, half.noise_share) == (0.05, 5.0, 0.15)
    assert (half.telephone_share, half.time_share, half.frequency_width) == (0.25, 0.02, 10)
    assert config.at(1.0) == config
    weak = AugmentConfig(telephone_share=0.5, strength=0.5).at(1.0)
    for seed in range(5):
        assert torch.equal(augment(x, weak, rng(seed)), augment(x, half, rng(seed)))
        assert torch.equal(augment(x, AugmentConfig(strength=0.0).at(1.0), rng(seed)), x)
