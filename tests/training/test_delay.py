"""Outputs that training aligns with earlier frames, and what they have heard."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from large import UNITS, large
from pocketscribe.models import Chunking
from pocketscribe.speech.batches import Batch
from pocketscribe.speech.features import LOG_FLOOR
from pocketscribe.training.delay import encode_late
from pocketscribe.training.objectives import LossConfig, Plain, StepContext
from pocketscribe.training.teacher import DistilConfig, Teacher

CHUNKING = Chunking(4, 8)
FAMILIES: list[dict[str, Any]] = [{}, {"family": "mhssm", "modes": 4}]


def speech() -> Batch:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(3, 50, 80, generator=generator)
    frames = torch.tensor([50, 36, 43])  # not all of them whole frames of 40 ms
    targets = torch.randint(1, UNITS, (3, 4), generator=generator)
    return Batch(features, frames, targets, torch.tensor([4, 2, 3]), 1.29, 129)


@pytest.mark.parametrize("family", FAMILIES, ids=["conformer", "mhssm"])
@pytest.mark.parametrize("delay", [0, 3, 10])
def test_an_output_has_heard_the_delay_and_silence_after_speech(
    family: dict[str, Any], delay: int
) -> None:
    """What streaming says `delay` frames later of the utterance alone, and silence."""
    model, batch = large({"encoder": {**family, "delay": delay}}), speech()
    with torch.no_grad():
        encoded, frames = encode_late(model, batch, CHUNKING)
        assert frames.tolist() == [12, 9, 10] and encoded.shape[1] == 12
        for row, (count, out) in enumerate(zip(batch.frames, frames.tolist(), strict=True)):
            alone = batch.features[row : row + 1, :count]
            silence = torch.full((1, 80, 80), LOG_FLOOR)
            heard = torch.cat([alone, silence], dim=1)
            state, said = model.initial_state(1, CHUNKING.left), []
            for start in range(0, 96, 16):
                y, state = model.step(heard[:, start : start + 16], state)
                said.append(y)
            late = torch.cat(said, dim=1)[0, delay : delay + out]
            if not family:  # attention hears the end of its chunk, and the last one is cut off
                out = min(out, (out + delay) // 4 * 4 - delay)
            torch.testing.assert_close(encoded[row, :out], late[:out], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES, ids=["conformer", "mhssm"])
def test_a_delay_changes_what_training_aligns_and_nothing_else(family: dict[str, Any]) -> None:
    late = large({"encoder": {**family, "delay": 3}})
    soon = large({"encoder": {**family, "delay": 0}})
    soon.load_state_dict(late.state_dict())
    batch, context = speech(), StepContext(1_000, CHUNKING)
    with torch.no_grad():
        for a, b in zip(
            late.encode(batch.features, batch.frames, CHUNKING),
            soon.encode(batch.features, batch.frames, CHUNKING),
            strict=True,
        ):
            assert torch.equal(a, b)
        losses = [Plain(model, LossConfig())(batch, context)["loss"] for model in (late, soon)]
    assert losses[0] != losses[1]


def test_a_teacher_without_a_delay_is_asked_of_the_same_frames() -> None:
    student, teacher = large({"encoder": {"delay": 3}}), large({"encoder": {"delay": 0}}, seed=5)
    batch = speech()
    with torch.no_grad():
        outputs = Plain(student, LossConfig()).outputs(batch, StepContext(1_000, CHUNKING))
        assert outputs.pruned is not None
        said = Teacher(teacher, DistilConfig())(batch, CHUNKING, outputs.pruned.contexts)
    assert said.ctc is not None and outputs.ctc_logits is not None
    assert said.ctc.shape == outputs.ctc_logits.shape
    with torch.no_grad():
        heard, frames = teacher.encode(batch.features, batch.frames, CHUNKING)
        expected = teacher.auxiliary["ctc"](heard).log_softmax(-1)
    for row, count in enumerate(frames):
        torch.testing.assert_close(said.ctc[row, :count], expected[row, :count])


def test_padding_says_nothing() -> None:
    model, batch = large({"encoder": {"delay": 3}}), speech()
    padded = torch.nn.functional.pad(batch.features, (0, 0, 0, 40), value=7.0)
    with torch.no_grad():
        encoded, frames = encode_late(model, batch, CHUNKING)
        other, _ = encode_late(model, replace(batch, features=padded), CHUNKING)
    for row, count in enumerate(frames):
        torch.testing.assert_close(encoded[row, :count], other[row, :count])
