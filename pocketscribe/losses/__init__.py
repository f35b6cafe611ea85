"""Training losses. Each takes padded batches with lengths and returns one number per utterance."""

from pocketscribe.losses.ctc import ctc_loss
from pocketscribe.losses.distillation import frame_distillation, lattice_distillation
from pocketscribe.losses.pruned import (
    PrunedLosses,
    PrunedTransducerLoss,
    joiner_logits,
    pruned_loss,
    pruned_scales,
    pruning_bounds,
    simple_lattice,
    window_contexts,
)
from pocketscribe.losses.transducer import (
    emission_log_probs,
    lattice_posterior,
    lattice_score,
    transducer_loss,
)

__all__ = [
    "PrunedLosses",
    "PrunedTransducerLoss",
    "ctc_loss",
    "emission_log_probs",
    "frame_distillation",
    "joiner_logits",
    "lattice_distillation",
    "lattice_posterior",
    "lattice_score",
    "pruned_loss",
    "pruned_scales",
    "pruning_bounds",
    "simple_lattice",
    "transducer_loss",
    "window_contexts",
]
