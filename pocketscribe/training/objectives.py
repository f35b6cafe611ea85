"""What a training step computes. A stage picks one; a sandwich step will stand beside.

Dimensions: B batch, S encoder frames, V vocabulary.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from pocketscribe.config import Config
from pocketscribe.losses import (
    PrunedLosses,
    PrunedTransducerLoss,
    ctc_loss,
    frame_distillation,
    joiner_logits,
    lattice_distillation,
    pruned_scales,
    transducer_loss,
)
from pocketscribe.models import Chunking, Recogniser
from pocketscribe.speech.batches import Batch
from pocketscribe.training.masks import MaskConfig, Masks
from pocketscribe.weights import at_least, formatted_once


class LossConfig(Config):
    """Weights and widths of the losses.

    Attributes:
        transducer: "pruned" (arXiv 2206.13236) or "full"; unused by a CTC head.
        pruned_width: labels a frame that the real joiner looks at.
        warmup_steps: steps over which the pruned loss takes over from the simple one.
        ctc: weight of the auxiliary CTC loss of a transducer. Heavy by default: on hours of speech
            rather than thousands of hours, a transducer left alone first learns to spell without
            listening, and stays there for long; CTC has no such way out.
        consistency: weight of CR-CTC (arXiv 2410.05101): each utterance is heard in two differently
            augmented versions, whose CTC heads are to agree frame by frame. 0 hears it once.
        fastemit: FastEmit's lambda (arXiv 2010.11148): larger emits earlier.
    """

    transducer: Literal["pruned", "full"] = "pruned"
    pruned_width: int = Field(default=5, ge=2)
    warmup_steps: int = Field(default=1000, ge=0)
    ctc: float = Field(default=3.0, ge=0)
    consistency: float = Field(default=0.0, ge=0)
    fastemit: float = Field(default=0.0, ge=0)

    @property
    def views(self) -> int:
        """Versions of each utterance in a batch."""
        return 2 if self.consistency else 1


class StepContext(NamedTuple):
    """Where in the run a step stands, and the chunking drawn for it."""

    step: int
    chunking: Chunking


class Outputs(NamedTuple):
    """What a model said of a batch, and how wrong that was.

    Attributes:
        losses: nats, summed over this process' utterances; "loss" is the weighted sum.
        pruned: the transducer's losses and logits in the windows; None for "full" and CTC.
    """

    losses: dict[str, Tensor]
    frames: Int[Tensor, " B"]
    ctc_logits: Float[Tensor, "B S V"] | None
    pruned: PrunedLosses | None


class Objective(nn.Module):
    """A module over the model(s): calling it gives the named losses, summed over the batch."""

    def forward(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        raise NotImplementedError

    def begin(self, done: float, before: float) -> None:
        """Called before each step: shares of the stage behind it, and behind the step before."""

    def updated(self, lr: float) -> None:
        """Called after each of the optimiser's steps with its learning rate."""

    def measures(self) -> dict[str, float]:
        """More for the log, asked for now and then."""
        return {}


class Plain(Objective):
    """The model's own loss on transcripts: transducer with auxiliary CTC, or CTC alone."""

    def __init__(self, model: Recogniser, config: LossConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.pruned = PrunedTransducerLoss(width=config.pruned_width, fastemit=config.fastemit)

    def forward(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Losses in nats, summed over this process' utterances; "loss" is the weighted sum."""
        return detached(self.outputs(batch, context).losses)

    def outputs(self, batch: Batch, context: StepContext) -> Outputs:
        model = self.model
        encoded, frames = model.encode(batch.features, batch.frames, context.chunking)
        losses: dict[str, Tensor] = {"loss": encoded.new_zeros(())}
        pruned, scale = None, 1.0
        if model.config.head == "transducer":
            losses, pruned = self._transducer(encoded, frames, batch, context.step)
            scale = self.config.ctc
        if not scale and not self.config.consistency:
            return Outputs(losses, frames, None, pruned)
        logits = model.ctc_logits(encoded)
        losses["ctc"] = ctc_loss(logits, batch.targets, frames, batch.labels).sum()
        losses["loss"] = losses["loss"] + scale * losses["ctc"]
        if self.config.consistency:
            # KL(other view || this view) of every frame of both: the other is the teacher.
            other = logits.detach().roll(len(logits) // 2, 0)
            losses["consistency"] = frame_distillation(other, logits, frames).sum()
            losses["loss"] = losses["loss"] + self.config.consistency * losses["consistency"]
        return Outputs(losses, frames, logits, pruned)

    def _transducer(
        self, encoded: Tensor, frames: Tensor, batch: Batch, step: int
    ) -> tuple[dict[str, Tensor], PrunedLosses | None]:
        model, joiner = self.model, self.model.joiner
        predicted = model.predictor(batch.targets)
        encoder, predictor = joiner.encoder(encoded), joiner.predictor(predicted)
        if self.config.transducer == "full":
            logits = joiner(encoder.unsqueeze(2), predictor.unsqueeze(1))
            loss = transducer_loss(
                logits, batch.targets, frames, batch.labels, self.config.fastemit
            ).sum()
            return {"loss": loss, "transducer": loss}, None
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
        return {"loss": loss, "simple": simple, "pruned": pruned}, losses


class DistilConfig(Config):
    """What a fine-tuned model also learns from its teacher.

    Attributes:
        lattice: weight of the collapsed divergence on the transducer's windows, a frame's mean.
        ctc: weight of the divergence of the CTC heads, a frame.
    """

    lattice: float = Field(default=1.0, ge=0)
    ctc: float = Field(default=1.0, ge=0)


class FineTuned(Objective):
    """A model under formats, on transcripts and on what its float teacher says of the same batch.

    Quantisation needs nothing here: a formatted weight is quantised wherever it is used.
    """

    def __init__(
        self,
        plain: Plain,
        teacher: Recogniser | None,
        distil: DistilConfig,
        masks: MaskConfig,
        sampled_bits: Sequence[int] = (),
    ) -> None:
        """`teacher` None learns from transcripts alone; `sampled_bits` take turns with the own."""
        super().__init__()
        self.plain, self.distil = plain, distil
        self.widths = (0, *sampled_bits)
        self.teacher = teacher.requires_grad_(False) if teacher is not None else None
        self.masks = Masks(plain.model.weights.stored, masks)

    def train(self, mode: bool = True) -> "FineTuned":
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """The plain losses, and with a teacher "distilled", which is weighted into "loss"."""
        width = self.widths[context.step % len(self.widths)]
        weights = self.plain.model.weights.stored.values()
        with at_least(width, weights), formatted_once(weights):
            outputs = self.plain.outputs(batch, context)
        losses = outputs.losses
        if self.teacher is not None:
            losses["distilled"] = self._distilled(self.teacher, batch, context, outputs)
            losses["loss"] = losses["loss"] + losses["distilled"]
        return detached(losses)

    def _distilled(
        self, teacher: Recogniser, batch: Batch, context: StepContext, outputs: Outputs
    ) -> Tensor:
        found = batch.features.new_zeros(())
        with torch.no_grad():
            encoded, _ = teacher.encode(batch.features, batch.frames, context.chunking)
        if outputs.ctc_logits is not None:
            with torch.no_grad():
                logits = teacher.ctc_logits(encoded)
            each = frame_distillation(logits, outputs.ctc_logits, outputs.frames)
            found = found + self.distil.ctc * each.sum()
        if outputs.pruned is not None:
            with torch.no_grad():
                logits = joiner_logits(
                    teacher.joiner,
                    teacher.joiner.encoder(encoded),
                    teacher.joiner.predictor(teacher.predictor(batch.targets)),
                    outputs.pruned.contexts,
                )
            each = lattice_distillation(
                logits,
                outputs.pruned.logits,
                outputs.pruned.contexts,
                batch.targets,
                outputs.frames,
                batch.labels,
            )
            found = found + self.distil.lattice * each.sum()
        return found

    def begin(self, done: float, before: float) -> None:
        self.masks.begin(done, before)

    def updated(self, lr: float) -> None:
        self.masks.updated(lr)

    def measures(self) -> dict[str, float]:
        return {"flipped": self.masks.flipped()} if self.masks.sparse else {}


def detached(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """All but "loss" for the log alone."""
    return {name: x if name == "loss" else x.detach() for name, x in losses.items()}


def draw_chunking(chunkings: tuple[Chunking, ...], seed: int, step: int) -> Chunking:
    """The chunking of one step: dynamic chunk training, a function of seed and step alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return chunkings[int(torch.randint(len(chunkings), (), generator=generator))]
