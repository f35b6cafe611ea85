"""How fast this machine trains a model."""

import time

import torch
from pydantic import Field

from pocketscribe.config import Config
from pocketscribe.device import choose_device
from pocketscribe.models import LETTERS, ModelConfig, Recogniser, stored_parameters
from pocketscribe.speech.batches import Batch
from pocketscribe.speech.features import MELS
from pocketscribe.training.fabric import measured_precision, use_fitting_threads
from pocketscribe.training.objectives import LossConfig, Plain, StepContext

REACHED = 0.55  # of the speed on noise: real batches are loaded and padded, and dev is scored
NOISE_SECONDS = 24.0  # of the batch on which speed is measured


class Speed(Config):
    """What a run was planned with, and goes on with however busy its machine is by then.

    Attributes:
        x_real_time: `measured_speed`.
    """

    x_real_time: float = Field(gt=0)


def measured_speed(config: ModelConfig, device: str = "cpu") -> float:
    """Seconds of audio a second that plain training should reach here, from steps on noise."""
    place = choose_device(device)
    model = Recogniser(config, vocabulary=LETTERS).to(place)
    use_fitting_threads(stored_parameters(model))
    frames = round(100 * NOISE_SECONDS / 4)
    batch = Batch(
        features=torch.randn(4, frames, MELS),
        frames=torch.full((4,), frames),
        targets=torch.randint(2, LETTERS, (4, frames // 10)),
        labels=torch.full((4,), frames // 10),
        seconds=NOISE_SECONDS,
        total_frames=4 * frames,
    ).to(place)
    objective = Plain(model, LossConfig())
    context = StepContext(10**6, config.chunks.streaming)
    precision = measured_precision(config.encoder.width, NOISE_SECONDS, place.type).precision
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        with torch.autocast(place.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = objective(batch, context)["loss"]
        loss.backward()
        loss.item()  # a GPU is waited for
        taken.append(time.perf_counter() - started)
    return REACHED * NOISE_SECONDS / min(taken)
