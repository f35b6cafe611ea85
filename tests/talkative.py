"""A tiny model that nobody trained, yet speaks up at speech and is silent in silence."""

from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pocketscribe.decoding.offline import decode
from pocketscribe.models import ModelConfig, Recogniser
from pocketscribe.models.saved import Saved, save_packed
from pocketscribe.speech.features import SAMPLE_RATE, fbank
from pocketscribe.speech.synthetic import SyntheticSpeech
from pocketscribe.speech.units import Units, UnitsConfig
from pocketscribe.training.masks import settle

CHUNK = 4  # encoder frames: 160 ms
WORDS = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE"


@cache
def digits() -> list[np.ndarray]:
    """Spoken digits, 0.8 s to 3 s each, which all tests share and none may write to."""
    spoken = SyntheticSpeech(kind="digits", count=6, split="dev").utterances()
    found = [utterance.samples for utterance in spoken]
    for samples in found:
        samples.setflags(write=False)
    return found


@cache
def characters() -> Units:
    return Units.learn([WORDS], UnitsConfig(kind="char"))


def talkative(units: Units | None = None, **changes: Any) -> Saved:
    """The first random transducer that emits many different labels at speech alone."""
    units = units or characters()
    heard = torch.from_numpy(fbank(np.concatenate(digits())))
    noise = np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE, np.float32)
    silences = [torch.from_numpy(fbank(loudness * noise)) for loudness in (0.0, 1e-3)]
    for seed in count(10):
        model = tiny_model("transducer", units, seed, **changes)
        model.mean.copy_(heard.mean(0))
        model.inverse_std.copy_(1 / heard.std(0))
        with torch.no_grad():  # decisions that are clear, and blank where nothing else is
            model.joiner.out.weight.stored.mul_(12)
            model.joiner.encoder.weight.stored.mul_(2)
            model.joiner.out.bias[0] = 8.0
        chunking = model.config.chunks.streaming
        said, *quiet = (decode(model, [x], chunking)[0].labels for x in (heard, *silences))
        if len(set(said)) > 6 and all(len(labels) < 3 for labels in quiet):
            return Saved(model, units.to_json(), {"recipe": "none"})
    raise AssertionError


def tiny_model(head: str, units: Units, seed: int, **changes: Any) -> Recogniser:
    """`changes` are to its config."""
    torch.manual_seed(seed)
    config = {
        "encoder": {"width": 16, "layers": 1, "heads": 2, "kernel": 4},
        "head": head,
        "chunks": {"sizes": ["full", CHUNK, 8], "left": 8},
        "predictor": 16,
        "joiner": 16,
        "subsampling": 8,
        **changes,
    }
    model = Recogniser(ModelConfig.read(config, "test"), len(units)).eval()
    if not changes:  # two tensors with one content: to be in an ONNX file once
        block = model.encoder.blocks[0]
        block.ffn2.up.weight.stored.data.copy_(block.ffn1.up.weight.stored)
    return model


def babbling(path: Path, **changes: object) -> Path:
    """A CTC model of random weights, which writes something in most frames, in a `.pocket` file."""
    units = characters()
    model = tiny_model("ctc", units, 0, **changes)
    with torch.no_grad():
        model.ctc.weight.stored.mul_(6)
        model.mean.fill_(-9.0)
        model.inverse_std.fill_(0.2)
        for name, parameter in model.named_parameters():
            if name.endswith(".scale"):  # which ones would hide
                parameter.uniform_(0.5, 1.5)
    settle(model)
    save_packed(path, Saved(model, units.to_json(), {"recipe": "none"}))
    return path
