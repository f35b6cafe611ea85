"""What a teacher says of a batch: no gradients, once a batch, at the nodes a student is asked for.

Dimensions: B batch, T encoder frames, S contexts a window, N rows of nodes, C classes, D width.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from pocketscribe.config import Config
from pocketscribe.errors import UserError
from pocketscribe.losses import (
    Classes,
    Nodes,
    PrunedTransducerLoss,
    all_nodes,
    best_path,
    by_occupancy,
    joiner_logits,
    lattice_posterior,
    node_log_probs,
    node_logits,
    path_nodes,
    window_contexts,
    window_lattice,
    window_nodes,
)
from pocketscribe.models import Chunking, ModelConfig, Recogniser
from pocketscribe.speech.batches import Batch
from pocketscribe.training.delay import encode_late

TRAINING_HEAD = "ctc"  # of a transducer: whether it was saved with what training alone needs


class DistilConfig(Config):
    """What a student learns from its teacher, beside the transcripts.

    Attributes:
        lattice: weight of the divergence on the transducer's lattice, nats a frame.
        nodes: where on the lattice (`losses/distillation.py` has the picture): in the windows of
            the "student"'s pruned loss, of the "teacher"'s, in both ("union"), on the teacher's
            best "path", or at "all" nodes.
        classes: "collapsed" compares next label, blank and rest; "full" every text unit.
        occupancy: count each node as often as the teacher's alignments pass it.
        ctc: weight of the divergence of the CTC heads, nats a frame.
        encoder: weight of the mean square between the teacher's encoder output and a linear map
            of the student's; the map never ships.
        context: "full" lets the teacher hear each utterance whole; it then is ahead of a streaming
            student, who learns to be early, or to guess. "same" is the student's chunking.
        keep: keep what the teacher says on disk, so that it runs once for each of
            `augment.versions` of an utterance, each chunking and each growth of augmentation.
    """

    lattice: float = Field(default=1.0, ge=0)
    nodes: Literal["student", "teacher", "union", "path", "all"] = "student"
    classes: Classes = "collapsed"
    occupancy: bool = False
    ctc: float = Field(default=1.0, ge=0)
    encoder: float = Field(default=0.0, ge=0)
    context: Literal["same", "full"] = "same"
    keep: bool = False

    @model_validator(mode="after")
    def _check(self) -> "DistilConfig":
        if self.keep and self.lattice and self.nodes in ("student", "union"):
            raise ValueError(
                f"distil.keep needs nodes that stay: 'teacher', 'path' or 'all', not {self.nodes!r}"
            )
        if not (self.lattice or self.ctc or self.encoder):
            raise ValueError("distil: every weight is 0; leave the teacher out")
        return self

    @property
    def own_windows(self) -> bool:
        """Whether the teacher's own alignments are asked for."""
        return bool(self.lattice) and (self.occupancy or self.nodes in ("teacher", "union", "path"))


class Said(NamedTuple):
    """What a teacher said of a batch; None where nobody asked.

    Attributes:
        nodes, lattice: places of the lattice, and log-probabilities of C classes at each.
        ctc: the CTC head's log-probabilities.
        encoded: the encoder's outputs.
    """

    nodes: Nodes | None
    lattice: Float[Tensor, "B N S C"] | None
    ctc: Float[Tensor, "B T V"] | None
    encoded: Float[Tensor, "B T D"] | None


class Teacher(nn.Module):
    """A recogniser that is asked and not taught: no gradients, no dropout, whatever is trained."""

    def __init__(self, model: Recogniser, config: DistilConfig, pruned_width: int = 5) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.config = config
        self.pruned = PrunedTransducerLoss(width=pruned_width)

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    def measures(self) -> dict[str, float]:
        """More for the log: nothing."""
        return {}

    def hears_by(self, chunking: Chunking) -> Chunking:
        """The teacher's own chunking where a student hears by this one."""
        return Chunking(None) if self.config.context == "full" else chunking

    @torch.no_grad()
    def forward(
        self, batch: Batch, chunking: Chunking, contexts: Int[Tensor, "B T S"] | None
    ) -> Said:
        """`contexts` are the student's windows, for `nodes` that depend on them."""
        model, config = self.model, self.config
        encoded, frames = encode_late(model, batch, self.hears_by(chunking))
        nodes = lattice = ctc = None
        if config.lattice and model.config.head == "transducer":
            nodes, lattice = self._lattice(encoded, frames, batch, contexts)
        if config.ctc:
            ctc = model.ctc_logits(encoded).float().log_softmax(-1)
        return Said(nodes, lattice, ctc, encoded.float() if config.encoder else None)

    def _lattice(
        self, encoded: Tensor, frames: Tensor, batch: Batch, contexts: Tensor | None
    ) -> tuple[Nodes, Tensor]:
        config, joiner = self.config, self.model.joiner
        predicted = self.model.predictor(batch.targets)
        joined = joiner.encoder(encoded), joiner.predictor(predicted)
        lengths = frames, batch.labels
        own = self._windows(encoded, predicted, joined, batch, frames)
        logits = None
        if config.nodes == "all":
            nodes = all_nodes(*lengths)
        elif own is not None and config.nodes == "path":
            nodes = path_nodes(best_path(*own.moves(batch), *lengths))
        elif own is not None and config.nodes == "teacher":
            nodes, logits = window_nodes(own.contexts, *lengths), own.logits
        else:
            assert contexts is not None  # a recipe without the pruned loss is refused
            others = own.contexts if own is not None and config.nodes == "union" else None
            nodes = window_nodes(contexts, *lengths, others)
        if own is not None and config.occupancy:
            _, blanks, labels = lattice_posterior(*own.moves(batch), *lengths)
            nodes = by_occupancy(nodes, blanks + nn.functional.pad(labels, (0, 1)))
        if logits is None:
            logits = node_logits(joiner, *joined, nodes)
        return nodes, node_log_probs(logits, nodes, batch.targets, batch.labels, config.classes)

    def _windows(
        self,
        encoded: Tensor,
        predicted: Tensor,
        joined: tuple[Tensor, Tensor],
        batch: Batch,
        frames: Tensor,
    ) -> "_Windows | None":
        """The teacher's own windows and what it says in them, where that is asked for."""
        if not self.config.own_windows:
            return None
        _, windows = self.pruned.windows(
            self.model.auxiliary["simple_encoder"](encoded),
            self.model.auxiliary["simple_predictor"](predicted),
            batch.targets,
            frames,
            batch.labels,
        )
        contexts = window_contexts(windows, min(self.pruned.width, predicted.shape[1]))
        logits = joiner_logits(self.model.joiner, *joined, contexts)
        return _Windows(windows, contexts, logits)


class _Windows(NamedTuple):
    """The teacher's windows, the places in them, and its joiner's logits there."""

    windows: Int[Tensor, "B T"]
    contexts: Int[Tensor, "B T S"]
    logits: Float[Tensor, "B T S V"]

    def moves(self, batch: Batch) -> tuple[Float[Tensor, "B T U1"], Float[Tensor, "B T U"]]:
        """Log-probabilities of blank and label, on alignments that stay in the windows."""
        return window_lattice(self.logits, self.windows, batch.targets)


def check_lesson(
    teacher: ModelConfig, student: ModelConfig, config: DistilConfig, who: str
) -> None:
    """Whether a model of one kind can teach one of another so. `who` names the teacher.

    Raises:
        UserError: it cannot.
    """
    if teacher.head != student.head:
        raise UserError(
            f"teacher {who!r} has a {teacher.head} head, its student a {student.head} head; "
            "both need the same"
        )
    if student.head == "ctc" and not (config.ctc or config.encoder):
        raise UserError(
            f"teacher {who!r} has a CTC head, and distil.lattice is of a transducer's: give "
            "distil.ctc or distil.encoder a weight"
        )
    asked = [str(s) for s in (("full",) if config.context == "full" else student.chunks.sizes)]
    known = [str(s) for s in teacher.chunks.sizes]
    if strange := [size for size in asked if size not in known]:
        raise UserError(
            f"teacher {who!r} was not trained in chunks of {', '.join(strange)} (it knows "
            f"{', '.join(known)}); give the student chunks.sizes among those, or "
            "distil.context = 'full' where the teacher knows 'full'"
        )


def check_teacher(teacher: Recogniser, config: DistilConfig, who: str) -> None:
    """Whether a model has what it is asked for. `who` names it.

    Raises:
        UserError: it has not.
    """
    lost = teacher.config.head == "transducer" and TRAINING_HEAD not in teacher.auxiliary
    if lost and (config.ctc or config.own_windows):
        raise UserError(
            f"teacher {who!r} was saved without what training alone needs (CTC head, simple "
            "joiner): distil = { ctc = 0.0, nodes = 'student' }, or give the stage of its run"
        )
