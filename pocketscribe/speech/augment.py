"""Augmentation of cached log-mel features, so that audio is decoded once and heard many ways.

It grows as a network learns to listen: not at all before it has found its first alignments.

Speed and vocal-tract changes resample the features along time and frequency; gain, noise and
silence act on mel energies (powers add). The log-domain readings of speed, gain and noise are ours;
SpecAugment is Park et al. 2019 (arXiv 1904.08779) with time masks that scale with the length.

Dimensions: T feature frames (10 ms), F mel bins.
"""

import math
from functools import cache
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from pocketscribe.config import Config
from pocketscribe.speech.features import LOG_FLOOR, MELS, SAMPLE_RATE
from pocketscribe.speech.noise import NoiseBank

LOW_HZ, HIGH_HZ = 20.0, SAMPLE_RATE / 2 - 400
TELEPHONE_HZ = (3400.0, 4000.0)  # where the band ends


class AugmentConfig(Config):
    """How training features are varied; each `…_share` is the part of utterances it happens to.

    Attributes:
        speed: largest relative change of speed; pitch and formants move with it.
        tract: largest relative stretch of the frequency axis beyond that (vocal-tract length).
        gain_db: largest change of level, up or down.
        noise_share, noise_db: noise, this many dB below the speech: stationary, of random colour.
        noise: a corpus, or a folder of recordings, to take the noise from instead.
        telephone_share: nothing above the telephone's band, so that wide-band speech teaches
            something about 8 kHz recordings.
        silence_share, silence_s: silence before the first word, at most this long, and after the
            last, each for itself.
        frequency_masks, frequency_width: SpecAugment's F masks, in mel bins.
        time_masks, time_share: SpecAugment's T masks, each at most this part of the utterance.
        versions: each utterance is heard in so many augmented versions, and no more; None: in
            another one each time.
        strength: factor on shares and spreads once it has grown; 0 leaves speech as it is.
        grows: where it begins to grow and where it is full-grown: CTC losses a label (where none is
            trained, whole losses), as shares of what guessing labels by their frequency would cost.
            What varies and hides speech also hides the first alignments, which a network has to
            find before it listens at all.
    """

    # Out of 1: each new step of augmentation re-reads the stream of batches.
    STEPS: ClassVar[int] = 4

    speed: float = Field(default=0.1, ge=0, lt=0.5)
    tract: float = Field(default=0.1, ge=0, lt=0.5)
    gain_db: float = Field(default=10.0, ge=0)
    noise_share: float = Field(default=0.3, ge=0, le=1)
    noise_db: tuple[float, float] = (10.0, 40.0)
    noise: str | None = Field(default=None, min_length=1)
    telephone_share: float = Field(default=0.0, ge=0, le=1)
    silence_share: float = Field(default=0.2, ge=0, le=1)
    silence_s: float = Field(default=0.6, ge=0)
    frequency_masks: int = Field(default=2, ge=0)
    frequency_width: int = Field(default=20, ge=0, lt=MELS)
    time_masks: int = Field(default=6, ge=0)
    time_share: float = Field(default=0.04, ge=0, le=1)
    versions: int | None = Field(default=None, ge=1, le=1000)
    strength: float = Field(default=1.0, ge=0, le=1)
    grows: tuple[float, float] = (0.6, 0.3)

    @model_validator(mode="after")
    def _check(self) -> "AugmentConfig":
        if not self.grows[0] >= self.grows[1] >= 0:
            raise ValueError(f"grows = {list(self.grows)}: give a larger loss, then a smaller one")
        return self

    def growth(self, loss: float) -> float:
        """How far augmentation has grown, 0 to 1 in `STEPS` steps, at a CTC loss (see `grows`)."""
        first, last = self.grows
        done = (first - loss) / (first - last) if first > last else float(loss <= last)
        return math.floor(min(max(done, 0.0), 1.0) * self.STEPS) / self.STEPS

    def at(self, growth: float) -> "AugmentConfig":
        """What is in force when augmentation has grown so far (0 to 1)."""
        factor = growth * self.strength
        shrunk = {name: getattr(self, name) * factor for name in _FACTORED}
        return self.model_copy(
            update={**shrunk, "frequency_width": round(self.frequency_width * factor)}
        )


_FACTORED = (
    "speed",
    "tract",
    "gain_db",
    "noise_share",
    "telephone_share",
    "silence_share",
    "time_share",
)


def augment(
    x: Float[Tensor, "T F"],
    config: AugmentConfig,
    generator: torch.Generator,
    views: int = 1,
    bank: NoiseBank | None = None,
) -> list[Float[Tensor, "T2 F"]]:
    """One utterance's features, varied, in `views` versions that are aligned frame by frame.

    They share speed, vocal tract and silence, and differ in level, noise and masks. Noise comes
    from the `bank` if there is one. All randomness comes from `generator`.
    """
    x = _stretch(x, config, generator)
    return [_disguise(x, config, generator, bank) for _ in range(views)]


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _stretch(
    x: Float[Tensor, "T F"], config: AugmentConfig, generator: torch.Generator
) -> Float[Tensor, "T2 F"]:
    """What moves speech in time: speed, and silence around it; with it the vocal tract."""
    if config.speed or config.tract:
        speed = _uniform(1 - config.speed, 1 + config.speed, generator)
        tract = _uniform(1 - config.tract, 1 + config.tract, generator)
        x = resample(x, speed, speed * tract)
    for before in (True, False):
        if _uniform(0.0, 1.0, generator) < config.silence_share:
            count = int(_uniform(0.0, config.silence_s, generator) * 100)
            silence = x.new_full((count, x.shape[1]), LOG_FLOOR)
            x = torch.cat([silence, x] if before else [x, silence])
    return x


def _disguise(
    x: Float[Tensor, "T F"],
    config: AugmentConfig,
    generator: torch.Generator,
    bank: NoiseBank | None,
) -> Float[Tensor, "T F"]:
    """What leaves every frame in its place: noise, level, telephone, masks."""
    if _uniform(0.0, 1.0, generator) < config.noise_share:
        snr_db = _uniform(*config.noise_db, generator)
        level = x.exp().mean().clamp(min=1e-10).log() - snr_db * math.log(10) / 10
        noise = bank.draw(len(x), generator) if bank else _stationary(x.shape, generator)
        x = torch.logaddexp(x, level + noise)
    if config.gain_db:
        gain = _uniform(-config.gain_db, config.gain_db, generator) * math.log(10) / 10
        x = (x + gain).clamp(min=LOG_FLOOR)
    if config.telephone_share and _uniform(0.0, 1.0, generator) < config.telephone_share:
        band = int(torch.searchsorted(_bin_hertz(), _uniform(*TELEPHONE_HZ, generator)))
        x = torch.cat([x[:, :band], x.new_full((len(x), MELS - band), LOG_FLOOR)], dim=1)
    return _spec_augment(x, config, generator)


def resample(x: Float[Tensor, "T F"], speed: float, stretch: float) -> Float[Tensor, "T2 F"]:
    """Features of the audio played `speed` times as fast, its spectrum stretched by `stretch`."""
    length = max(1, round(x.shape[0] / speed))
    time = (torch.arange(length) * speed).clamp(max=x.shape[0] - 1)
    x = _interpolate(x, time)
    return _interpolate(x.T, _warped_bins(stretch)).T


def _interpolate(x: Float[Tensor, "N M"], at: Float[Tensor, " K"]) -> Float[Tensor, "K M"]:
    """Rows of `x` at fractional positions."""
    low = at.floor().long()
    high = (low + 1).clamp(max=x.shape[0] - 1)
    return torch.lerp(x[low], x[high], (at - low).unsqueeze(1))


def _warped_bins(stretch: float) -> Float[Tensor, " F"]:
    """For each mel bin, the (fractional) bin whose frequency times `stretch` lands on it."""
    source = 1127 * torch.log1p(_bin_hertz() / stretch / 700)
    mels = _bin_mels()
    return ((source - mels[0]) / (mels[1] - mels[0])).clamp(0, MELS - 1)


@cache
def _bin_mels() -> Float[Tensor, " F"]:
    """Centres of Kaldi's mel bins, on its mel scale 1127 ln(1 + f / 700)."""
    low, high = (1127 * math.log1p(f / 700) for f in (LOW_HZ, HIGH_HZ))
    return low + (high - low) * torch.arange(1, MELS + 1) / (MELS + 1)


def _bin_hertz() -> Float[Tensor, " F"]:
    return 700 * (torch.exp(_bin_mels() / 1127) - 1)


def _stationary(shape: torch.Size, generator: torch.Generator) -> Float[Tensor, "T F"]:
    """Noise of power about 1 with a random tilt; a mel bin of noise is roughly chi-square."""
    tilt = torch.randn(2, generator=generator)
    position = torch.linspace(-1, 1, MELS)
    colour = tilt[0] * position + 0.5 * tilt[1] * (3 * position**2 - 1)
    return colour + 0.5 * torch.randn(shape, generator=generator)  # log of a few averaged bins


def _spec_augment(
    x: Float[Tensor, "T F"], config: AugmentConfig, generator: torch.Generator
) -> Float[Tensor, "T F"]:
    """Masks bands and spans with each bin's mean over the utterance.

    After normalisation only that is neutral: one number for all bins is a spectrum of its own.
    """
    if not config.frequency_masks and not config.time_masks:
        return x
    length = x.shape[0]
    hidden = torch.zeros(x.shape, dtype=torch.bool)
    for axis, masks, widest in (
        (1, config.frequency_masks, config.frequency_width),
        (0, config.time_masks, int(config.time_share * length)),
    ):
        for _ in range(masks if widest else 0):
            width = int(torch.randint(widest + 1, (), generator=generator))
            start = int(torch.randint(x.shape[axis] - width + 1, (), generator=generator))
            hidden.narrow(axis, start, width).fill_(True)
    return torch.where(hidden, x.mean(0), x)
