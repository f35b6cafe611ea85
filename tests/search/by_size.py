"""Scores that tell candidates apart, as those of a model of seconds do not."""

from collections.abc import Sequence
from dataclasses import replace

from pocketscribe.evaluation.dev import Heard, dev_errors
from pocketscribe.evaluation.wer import WordErrorRate
from pocketscribe.models import ModelConfig, Recogniser
from pocketscribe.models.saved import Saved
from pocketscribe.speech.units import Units


def wer_by_size(config: ModelConfig, confirms: bool) -> float:
    """Fewer with more inside and fewer heads; the half that confirms says: with more bits, too."""
    encoder = config.encoder
    few_bits = config.formats[0].bits == 4
    wer = 0.9 - 0.02 * encoder.width - 0.004 * encoder.insides[0] + 0.001 * encoder.heads
    return round(wer + few_bits * (0.055 if confirms else -0.005), 4)


def errors_by_size(model: Recogniser, dev: Sequence[Heard], units: Units) -> WordErrorRate:
    """In place of `dev_errors`, which runs all the same: of three utterances, one confirms."""
    wer = wer_by_size(model.config, confirms=len(dev) == 1)
    heard = dev_errors(model, dev, units)
    return replace(heard, wer=wer, ci_low=wer - 0.05, ci_high=wer + 0.05)


def milliseconds_by_size(saved: Saved) -> float:
    """In place of `chunk_milliseconds`: narrow is fast, and so are eight bits, which are large."""
    config = saved.model.config
    return config.encoder.width / 4 + 2.0 * (config.formats[0].bits == 4)
