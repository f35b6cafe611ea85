"""Learning from another recogniser's probabilities.

A transducer's lattice is collapsed to three classes a node, next label, blank and rest
(Panchapagesan et al. 2020, "Efficient knowledge distillation for RNN-transducer models", arXiv
2011.06110), here in the windows of the pruned loss, so that nothing of size B T U V is made.

Dimensions: B batch, T encoder frames, S window, V text units.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from pocketscribe.models import BLANK

LEAST = 1e-6  # of the rest's probability: its logarithm must not explode


def collapsed(
    logits: Float[Tensor, "B T S V"],
    tokens: Int[Tensor, "B T S"],
    at_end: Bool[Tensor, "B T S"],
) -> Float[Tensor, "B T S 3"]:
    """Log-probabilities of the next label (none `at_end`), of blank, and of all else, in float32.

    The rest is log(-expm1(log(P_y + P_blank))): 1 - p would lose what matters near one.
    """
    log_probs = logits.float().log_softmax(-1)
    label = log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    label = label.masked_fill(at_end, -torch.inf)
    blank = log_probs[..., BLANK]
    both = torch.logaddexp(label, blank).clamp(max=-LEAST)
    return torch.stack([label, blank, (-torch.expm1(both)).log()], dim=-1)


def divergence(
    teacher: Float[Tensor, "*B C"], student: Float[Tensor, "*B C"]
) -> Float[Tensor, "*B"]:
    """KL(teacher || student) over the last axis, of log-probabilities; 0 log 0 is 0."""
    p = teacher.exp()
    difference = torch.where(p > 0, teacher - student, torch.zeros_like(p))
    return (p * difference).sum(-1)


def lattice_distillation(
    teacher: Float[Tensor, "B T S V"],
    student: Float[Tensor, "B T S V"],
    contexts: Int[Tensor, "B T S"],
    targets: Int[Tensor, "B U"],
    frames: Int[Tensor, " B"],
    labels: Int[Tensor, " B"],
) -> Float[Tensor, " B"]:
    """Collapsed divergence per utterance in nats: summed over frames, the mean over a window.

    `contexts` says how many labels are out at each place of a frame's window
    (`window_contexts`); places beyond the target, and frames beyond the end, count for nothing.
    """
    padded = F.pad(targets, (0, 1), value=BLANK)
    tokens = padded[:, None].expand(-1, contexts.shape[1], -1).gather(2, contexts)
    end = labels[:, None, None]
    valid = (torch.arange(contexts.shape[1], device=frames.device) < frames[:, None])[..., None]
    valid = valid & (contexts <= end)
    at_end = contexts >= end
    nodes = divergence(collapsed(teacher, tokens, at_end), collapsed(student, tokens, at_end))
    nodes = nodes.masked_fill(~valid, 0)
    return (nodes.sum(-1) / valid.sum(-1).clamp(min=1)).sum(-1)


def frame_distillation(
    teacher: Float[Tensor, "B T V"], student: Float[Tensor, "B T V"], frames: Int[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Divergence of two CTC heads' distributions per utterance in nats, summed over frames."""
    each = divergence(teacher.float().log_softmax(-1), student.float().log_softmax(-1))
    valid = torch.arange(each.shape[1], device=frames.device) < frames[:, None]
    return each.masked_fill(~valid, 0).sum(-1)
