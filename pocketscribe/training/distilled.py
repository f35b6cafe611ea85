"""Learning from a teacher beside the transcripts (Rathod et al. 2022, arXiv 2210.00169)."""

from torch import Tensor, nn

from pocketscribe.losses import (
    Classes,
    Divergence,
    divergence,
    encoder_distillation,
    frame_distillation,
    lattice_distillation,
    node_log_probs,
    node_logits,
)
from pocketscribe.models import Recogniser
from pocketscribe.speech.batches import Batch
from pocketscribe.training.kept import Kept
from pocketscribe.training.objectives import Objective, Outputs, StepContext, Wrapper
from pocketscribe.training.teacher import Said, Teacher


class Distilled(Wrapper):
    """Any objective, and what a teacher says of the same batch: one more loss, "distilled"."""

    def __init__(self, inner: Objective, teacher: Teacher | Kept) -> None:
        super().__init__(inner)
        self.teacher = teacher
        here, there = inner.model.config.encoder.width, teacher.model.config.encoder.width
        # Trained and checkpointed with the model, and part of no file that ships.
        self.to_teacher = nn.Linear(here, there) if teacher.config.encoder else None

    def outputs(self, batch: Batch, context: StepContext) -> Outputs:
        outputs = self.inner.outputs(batch, context)
        windows = None if outputs.pruned is None else outputs.pruned.contexts
        said = self.teacher(batch, context.chunking, windows)
        losses = outputs.losses
        losses["distilled"] = self._divergence(said, outputs, batch)
        losses["loss"] = losses["loss"] + losses["distilled"]
        return outputs

    def measures(self) -> dict[str, float]:
        return {**super().measures(), **self.teacher.measures()}

    def _divergence(self, said: Said, outputs: Outputs, batch: Batch) -> Tensor:
        """Weighted divergences in nats, summed over the batch."""
        config, model = self.teacher.config, self.model
        logits = None
        if config.nodes == "student" and outputs.pruned is not None:
            logits = outputs.pruned.logits
        lattice, ctc = divergences(said, outputs, model, batch, logits, config.classes)
        total = config.lattice * lattice + config.ctc * ctc
        if said.encoded is not None and self.to_teacher is not None:
            mapped = self.to_teacher(outputs.encoded)
            each = encoder_distillation(said.encoded, mapped, outputs.frames)
            total = total + config.encoder * each.sum()
        return total


def divergences(
    said: Said,
    outputs: Outputs,
    model: Recogniser,
    batch: Batch,
    logits: Tensor | None = None,
    classes: Classes = "collapsed",
    each: Divergence = divergence,
) -> tuple[Tensor, Tensor]:
    """How far a student is from what was said: on the lattice, and of the CTC heads.

    Nats, summed over the batch; 0 where nothing was said. `logits` are the student's at the nodes,
    where it has been asked there already.
    """
    lattice = ctc = outputs.encoded.new_zeros(())
    if said.ctc is not None:
        mine = outputs.ctc_logits
        mine = model.ctc_logits(outputs.encoded) if mine is None else mine
        ctc = frame_distillation(said.ctc, mine, outputs.frames, each).sum()
    if said.nodes is not None and said.lattice is not None and outputs.joined is not None:
        if logits is None:
            logits = node_logits(model.joiner, *outputs.joined, said.nodes)
        mine = node_log_probs(logits, said.nodes, batch.targets, batch.labels, classes)
        lattice = lattice_distillation(said.lattice, mine, said.nodes, each).sum()
    return lattice, ctc
