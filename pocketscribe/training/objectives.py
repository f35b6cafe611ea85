"""What a training step computes. A stage picks one; distilled and sandwich steps will stand beside.

Dimensions: B batch, S encoder frames, V vocabulary.
"""

from typing import NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from pocketscribe.config import Config
from pocketscribe.losses import PrunedTransducerLoss, ctc_loss, pruned_scales, transducer_loss
from pocketscribe.models import BLANK, Chunking, Recogniser
from pocketscribe.speech.batches import Batch


class LossConfig(Config):
    """Weights and widths of the losses.

    Attributes:
        transducer: "pruned" (arXiv 2206.13236) or "full"; unused by a CTC head.
        pruned_width: labels a frame that the real joiner looks at.
        warmup_steps: steps over which the pruned loss takes over from the simple one.
        ctc: weight of the auxiliary CTC loss of a transducer. Heavy by default: on hours of speech
            rather than thousands of hours, a transducer left alone first learns to spell without
            listening, and stays there for long; CTC has no such way out.
        fastemit: FastEmit's lambda (arXiv 2010.11148): larger emits earlier.
    """

    transducer: str = Field(default="pruned", pattern="^(pruned|full)$")
    pruned_width: int = Field(default=5, ge=2)
    warmup_steps: int = Field(default=1000, ge=0)
    ctc: float = Field(default=3.0, ge=0)
    fastemit: float = Field(default=0.0, ge=0)


class StepContext(NamedTuple):
    """Where in the run a step stands, and the chunking drawn for it."""

    step: int
    chunking: Chunking


class Objective(Protocol):
    """A module over the model(s): calling it gives the named losses, summed over the batch."""

    def __call__(self, batch: Batch, context: StepContext) -> dict[str, Tensor]: ...


class Plain(nn.Module):
    """The model's own loss on transcripts: transducer with auxiliary CTC, or CTC alone."""

    def __init__(self, model: Recogniser, config: LossConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.pruned = PrunedTransducerLoss(width=config.pruned_width, fastemit=config.fastemit)

    def forward(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Losses in nats, summed over this process' utterances; "loss" is the weighted sum."""
        model = self.model
        encoded, frames = model.encode(batch.features, batch.frames, context.chunking)
        if model.config.head == "ctc":
            ctc = ctc_loss(model.ctc_logits(encoded), batch.targets, frames, batch.labels)
            return {"loss": ctc.sum(), "ctc": ctc.sum().detach()}
        losses = self._transducer(encoded, frames, batch, context.step)
        if self.config.ctc:
            logits = model.ctc_logits(encoded)
            losses["ctc"] = ctc_loss(logits, batch.targets, frames, batch.labels).sum()
            losses["loss"] = losses["loss"] + self.config.ctc * losses["ctc"]
        return {name: x if name == "loss" else x.detach() for name, x in losses.items()}

    def _transducer(
        self, encoded: Tensor, frames: Tensor, batch: Batch, step: int
    ) -> dict[str, Tensor]:
        model, joiner = self.model, self.model.joiner
        predicted = model.predictor(batch.targets)
        encoder, predictor = joiner.encoder(encoded), joiner.predictor(predicted)
        if self.config.transducer == "full":
            logits = joiner(encoder.unsqueeze(2), predictor.unsqueeze(1))
            loss = transducer_loss(
                logits, batch.targets, frames, batch.labels, BLANK, self.config.fastemit
            ).sum()
            return {"loss": loss, "transducer": loss}
        losses = self.pruned(
            model.auxiliary["simple_encoder"](encoded),
            model.auxiliary["simple_predictor"](predicted),
            encoder,
            predictor,
            joiner,
            batch.targets,
            frames,
            batch.labels,
        )
        warm = step / self.config.warmup_steps if self.config.warmup_steps else 1.0
        simple_scale, pruned_scale = pruned_scales(warm)
        simple, pruned = losses.simple.sum(), losses.pruned.sum()
        loss = simple_scale * simple + pruned_scale * pruned
        return {"loss": loss, "simple": simple, "pruned": pruned}


def draw_chunking(chunkings: tuple[Chunking, ...], seed: int, step: int) -> Chunking:
    """The chunking of one step: dynamic chunk training, a function of seed and step alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return chunkings[int(torch.randint(len(chunkings), (), generator=generator))]
