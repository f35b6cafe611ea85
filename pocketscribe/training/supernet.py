"""Training many sizes at once: a supernet (TODM: Shangguan et al. 2023, arXiv 2309.01947).

The sandwich step (Yu & Huang 2019, arXiv 1903.05134): the largest network learns from transcripts
and says what it thinks; the smallest and some random sub-networks learn from that, in place, by an
adaptive alpha-divergence (Wang et al. 2021, arXiv 2102.07954). One backward each, so that memory
is one network's, and one step of the optimiser for all.
"""

from functools import lru_cache
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from pocketscribe.losses import (
    adaptive_divergence,
    divergence,
    node_log_probs,
    window_nodes,
)
from pocketscribe.models import ModelConfig, Recogniser
from pocketscribe.models.blocks import Block
from pocketscribe.models.subnets import Sizes, Space, SpaceConfig, follow, sliced
from pocketscribe.speech.batches import Batch
from pocketscribe.training.distilled import divergences
from pocketscribe.training.objectives import LossConfig, Objective, Outputs, Plain, StepContext
from pocketscribe.training.teacher import Said

KEPT_MODELS = 64  # stand-ins for sub-networks, which are names and shapes without numbers


class SupernetConfig(SpaceConfig):
    """Which sub-networks are trained, and how.

    Attributes:
        random: sub-networks drawn a step, besides the largest and the smallest.
        distil: how they learn from the largest: by the larger of two "alpha"-divergences, by "kl",
            or "none": from transcripts alone.
        transcripts: weight of the transcripts for a sub-network that learns from the largest.
        scaled_dropout: a narrower module drops less, in proportion to its width (TODM).
    """

    random: int = Field(default=2, ge=0, le=16)
    distil: Literal["alpha", "kl", "none"] = "alpha"
    transcripts: float = Field(default=1.0, ge=0)
    scaled_dropout: bool = True

    @property
    def space(self) -> SpaceConfig:
        """Which sub-networks, without how."""
        return SpaceConfig(**{key: getattr(self, key) for key in SpaceConfig.model_fields})


class Sandwich(Objective):
    """The passes of one step: the largest, the smallest, then random sub-networks."""

    def __init__(
        self, model: Recogniser, loss: LossConfig, config: SupernetConfig, *, alone: int = 0
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.plain = Plain(model, loss, alone=alone)
        self.space = Space(model, config)
        self.passes = 2 + config.random
        self._said: Said | None = None
        self._stand_in = lru_cache(KEPT_MODELS)(self._built)

    def outputs(self, batch: Batch, context: StepContext) -> Outputs:
        if context.part == 0:
            outputs = self.plain.outputs(batch, context)
            self._said = self._opinion(outputs, batch)
            return outputs
        outputs = self._sub_outputs(self.chosen(context), batch, context)
        if context.part == self.passes - 1:
            self._said = None
            # Processes add their gradients up after this pass: each weight has to take part in it.
            part = 0.0 * sum(p.sum() for p in self.model.parameters())
            outputs.losses["loss"] = outputs.losses["loss"] + part
        return outputs

    def spare(self, step: int) -> None:
        self.plain.spare(step)

    def chosen(self, context: StepContext) -> Sizes:
        """A pass's sub-network: the same in every process, and again after a kill."""
        if context.part < 2:
            return self.space.largest if context.part == 0 else self.space.smallest
        seed = (context.seed * 1_000_003 + context.step) * 64 + context.part
        return self.space.draw(torch.Generator().manual_seed(seed))

    def _sub_outputs(self, sizes: Sizes, batch: Batch, context: StepContext) -> Outputs:
        student = self._stand_in(self.space.sub_config(sizes)).train(self.training)
        tensors = sliced(self.model, student.plain.model)
        follow(self.model, student.plain.model)
        named = {f"plain.model.{name}": tensor for name, tensor in tensors.items()}
        return torch.func.functional_call(student, named, (batch, context, self._said))

    def _built(self, config: ModelConfig) -> "_Student":
        """A sub-network without numbers of its own, to be called with the supernet's."""
        with torch.device("meta"):
            small = Recogniser(config, self.model.vocabulary)
        if self.config.scaled_dropout:
            scale_dropout(small, self.model)
        return _Student(Plain(small, self.plain.config, alone=self.plain.alone), self.config)

    @torch.no_grad()
    def _opinion(self, outputs: Outputs, batch: Batch) -> Said | None:
        """What the largest network says, where it looked, for the others to learn from."""
        if self.config.distil == "none":
            return None
        nodes = lattice = ctc = None
        if outputs.pruned is not None:
            nodes = window_nodes(outputs.pruned.contexts, outputs.frames, batch.labels)
            logits = outputs.pruned.logits.detach()
            lattice = node_log_probs(logits, nodes, batch.targets, batch.labels)
        if outputs.ctc_logits is not None:
            ctc = outputs.ctc_logits.detach().float().log_softmax(-1)
        return Said(nodes, lattice, ctc, None)


class _Student(nn.Module):
    """A sub-network and what it learns from: the transcripts, and what the largest said."""

    def __init__(self, plain: Plain, config: SupernetConfig) -> None:
        super().__init__()
        self.plain, self.config = plain, config

    def forward(self, batch: Batch, context: StepContext, said: Said | None) -> Outputs:
        outputs = self.plain.outputs(batch, context)
        losses = {f"sub {name}": x for name, x in outputs.losses.items() if name != "loss"}
        loss = outputs.losses["loss"]
        if said is not None:
            each = adaptive_divergence if self.config.distil == "alpha" else divergence
            found = divergences(said, outputs, self.plain.model, batch, each=each)
            losses["in place"] = sum(found, loss.new_zeros(()))
            loss = self.config.transcripts * loss + losses["in place"]
        return outputs._replace(losses={"loss": loss, **losses})


def scale_dropout(small: Recogniser, large: Recogniser) -> None:
    """A module's dropout in proportion to its width: inside, heads or channels.

    TODM scales by the width of the layer that a dropout acts on; which width that is of each of our
    modules is our reading.
    """
    here, there = small.config.encoder, large.config.encoder
    p = there.dropout
    for block, inside, whole in zip(
        small.encoder.blocks, here.insides, there.insides[: here.layers], strict=True
    ):
        assert isinstance(block, Block)
        block.ffn_dropout.p = p * inside / whole
        block.mixer_dropout.p = p * here.heads / there.heads
        block.convolution_dropout.p = p * here.width / there.width
