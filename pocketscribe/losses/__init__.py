"""Training losses. Each takes padded batches with lengths and returns one number per utterance."""

from pocketscribe.losses.ctc import ctc_loss
from pocketscribe.losses.distillation import (
    Classes,
    Nodes,
    all_nodes,
    by_occupancy,
    encoder_distillation,
    frame_distillation,
    lattice_distillation,
    node_log_probs,
    node_logits,
    path_nodes,
    window_nodes,
)
from pocketscribe.losses.pruned import (
    PrunedLosses,
    PrunedTransducerLoss,
    joiner_logits,
    pruned_loss,
    pruned_scales,
    pruning_bounds,
    simple_lattice,
    window_contexts,
    window_lattice,
)
from pocketscribe.losses.transducer import (
    best_path,
    emission_log_probs,
    lattice_posterior,
    lattice_score,
    transducer_loss,
)

__all__ = [
    "Classes",
    "Nodes",
    "PrunedLosses",
    "PrunedTransducerLoss",
    "all_nodes",
    "best_path",
    "by_occupancy",
    "ctc_loss",
    "emission_log_probs",
    "encoder_distillation",
    "frame_distillation",
    "joiner_logits",
    "lattice_distillation",
    "lattice_posterior",
    "lattice_score",
    "node_log_probs",
    "node_logits",
    "path_nodes",
    "pruned_loss",
    "pruned_scales",
    "pruning_bounds",
    "simple_lattice",
    "transducer_loss",
    "window_contexts",
    "window_lattice",
    "window_nodes",
]
