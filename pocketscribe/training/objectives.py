"""What a training step computes: a model's own losses, and what wraps round them.

`Plain` is the innermost; `Distilled` (distilled.py) adds a teacher, `Formatted` (formatted.py) puts
weights through their formats. Each knows the `Objective` inside and nothing of the others.

Dimensions: B batch, S encoder frames, D encoder width, J joiner width, U1 labels + 1, V vocabulary.
"""

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
    pruned_scales,
    transducer_loss,
)
from pocketscribe.models import Chunking, Recogniser
from pocketscribe.models.recogniser import is_auxiliary
from pocketscribe.speech.batches import Batch
from pocketscribe.training.delay import encode_late

HEADS_ALONE = 200  # steps in which heads that were never trained leave the rest in peace


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
    def asks_heads(self) -> bool:
        """Whether a transducer learns from heads that only training needs."""
        return self.transducer == "pruned" or self.ctc > 0 or self.consistency > 0

    @property
    def asks_all_heads(self) -> bool:
        """Whether it learns from all of them, so that none stays as it was drawn."""
        return self.transducer == "pruned" and (self.ctc > 0 or self.consistency > 0)

    @property
    def views(self) -> int:
        """Versions of each utterance in a batch."""
        return 2 if self.consistency else 1


class StepContext(NamedTuple):
    """What a pass of a step depends on besides its batch.

    Attributes:
        step: steps before this one.
        chunking: that was drawn for it.
        part: which of the step's passes it is.
        seed: the training's, for what a pass draws.
    """

    step: int
    chunking: Chunking
    part: int = 0
    seed: int = 0


class Outputs(NamedTuple):
    """What a model said of a batch, and how wrong that was.

    Attributes:
        losses: nats, summed over this process' utterances; "loss" is the weighted sum.
        encoded: the encoder's outputs, `frames` of them valid.
        ctc_logits: the CTC head's; None where its loss has no weight.
        joined: what the joiner adds, of each frame and each context; None for CTC.
        pruned: the transducer's losses and logits in the windows; None for "full" and CTC.
    """

    losses: dict[str, Tensor]
    encoded: Float[Tensor, "B S D"]
    frames: Int[Tensor, " B"]
    ctc_logits: Float[Tensor, "B S V"] | None
    joined: tuple[Float[Tensor, "B S J"], Float[Tensor, "B U1 J"]] | None
    pruned: PrunedLosses | None


class Objective(nn.Module):
    """A module over the model(s): calling it gives the named losses, summed over the batch."""

    model: Recogniser
    passes: int = 1  # forward and backward, one after the other, before the weights move

    def forward(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Losses in nats, summed over this process' utterances; "loss" is the weighted sum."""
        losses = self.outputs(batch, context).losses
        return {name: x if name == "loss" else x.detach() for name, x in losses.items()}

    def outputs(self, batch: Batch, context: StepContext) -> Outputs:
        """What the model said, for who wraps round this one."""
        raise NotImplementedError

    def begin(self, done: float, before: float) -> None:
        """Called before each step: shares of the stage behind it, and behind the step before."""

    def spare(self, step: int) -> None:
        """Called before each of the optimiser's steps: drops gradients of what must not move."""

    def updated(self, lr: float) -> None:
        """Called after each of the optimiser's steps with its learning rate."""

    def measures(self) -> dict[str, float]:
        """More for the log, asked for now and then."""
        return {}


class Plain(Objective):
    """The model's own loss on transcripts: transducer with auxiliary CTC, or CTC alone."""

    def __init__(self, model: Recogniser, config: LossConfig, *, alone: int = 0) -> None:
        """`alone`: steps in which the heads that training alone needs learn by themselves.

        A shipped model has none, and what new ones have drawn by lot would spoil the rest.
        """
        super().__init__()
        self.model = model
        self.alone = alone if model.config.head == "transducer" else 0
        self.config = config
        self.pruned = PrunedTransducerLoss(width=config.pruned_width, fastemit=config.fastemit)

    def outputs(self, batch: Batch, context: StepContext) -> Outputs:
        model = self.model
        alone = context.step < self.alone
        with torch.set_grad_enabled(torch.is_grad_enabled() and not alone):
            encoded, frames = encode_late(model, batch, context.chunking)
        said = Outputs({"loss": encoded.new_zeros(())}, encoded, frames, None, None, None)
        scale = 1.0
        if model.config.head == "transducer":
            said = self._transducer(said, batch, context.step)
            scale = self.config.ctc
        if not scale and not self.config.consistency:
            return said
        losses = said.losses
        logits = model.ctc_logits(encoded)
        losses["ctc"] = ctc_loss(logits, batch.targets, frames, batch.labels).sum()
        losses["loss"] = losses["loss"] + scale * losses["ctc"]
        if self.config.consistency:
            # KL(other view || this view) of every frame of both: the other is the teacher.
            other = logits.detach().roll(len(logits) // 2, 0)
            losses["consistency"] = frame_distillation(other, logits, frames).sum()
            losses["loss"] = losses["loss"] + self.config.consistency * losses["consistency"]
        return said._replace(ctc_logits=logits)

    def _transducer(self, said: Outputs, batch: Batch, step: int) -> Outputs:
        model, joiner = self.model, self.model.joiner
        encoded, frames = said.encoded, said.frames
        alone = step < self.alone
        with torch.set_grad_enabled(torch.is_grad_enabled() and not alone):
            predicted = model.predictor(batch.targets)
            encoder, predictor = joiner.encoder(encoded), joiner.predictor(predicted)
            said = said._replace(joined=(encoder, predictor))
            if self.config.transducer == "full":
                logits = joiner(encoder.unsqueeze(2), predictor.unsqueeze(1))
                loss = transducer_loss(
                    logits, batch.targets, frames, batch.labels, self.config.fastemit
                ).sum()
                return said._replace(losses={"loss": loss, "transducer": loss})
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
        loss = simple if alone else simple_scale * simple + pruned_scale * pruned
        named = {"loss": loss, "simple": simple, "pruned": pruned}
        return said._replace(losses=named, pruned=losses)

    def spare(self, step: int) -> None:
        """While heads learn alone: who wraps this may give the rest gradients, if of zeros."""
        if step < self.alone:
            for name, parameter in self.model.named_parameters():
                if not is_auxiliary(name):
                    parameter.grad = None


class Wrapper(Objective):
    """An objective round another one: unless it says otherwise, the inner one has its way."""

    def __init__(self, inner: Objective) -> None:
        super().__init__()
        self.inner = inner

        self.passes = inner.passes

    @property
    def model(self) -> Recogniser:
        """The model that is trained."""
        return self.inner.model

    def outputs(self, batch: Batch, context: StepContext) -> Outputs:
        return self.inner.outputs(batch, context)

    def begin(self, done: float, before: float) -> None:
        self.inner.begin(done, before)

    def spare(self, step: int) -> None:
        self.inner.spare(step)

    def updated(self, lr: float) -> None:
        self.inner.updated(lr)

    def measures(self) -> dict[str, float]:
        return self.inner.measures()


def draw_chunking(chunkings: tuple[Chunking, ...], seed: int, step: int) -> Chunking:
    """The chunking of one step: dynamic chunk training, a function of seed and step alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return chunkings[int(torch.randint(len(chunkings), (), generator=generator))]
