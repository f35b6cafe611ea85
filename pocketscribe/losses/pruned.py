"""The pruned transducer loss (Kuang et al. 2022, arXiv 2206.13236).

A trivial joiner, which only adds, is cheap over the whole lattice. Where its alignments pass is
where the real joiner is worth running: a window of a few contexts in each frame.

Dimensions
    B   utterances in the batch
    T   encoder frames, padded to the longest utterance
    U   labels, padded to the longest target
    U1  U + 1: labels that may be out, 0 … U
    S   width of the window: contexts that the joiner sees in a frame
    V   text units, blank among them
    J   width of the joiner's inputs
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pocketscribe.losses.transducer import (
    LOG_ZERO,
    emission_log_probs,
    lattice_posterior,
    lattice_score,
)
from pocketscribe.models import BLANK


def simple_lattice(
    encoder_logits: Float[Tensor, "B T V"],
    predictor_logits: Float[Tensor, "B U1 V"],
    targets: Int[Tensor, "B U"],
    lm_only_scale: float = 0.25,
) -> tuple[Float[Tensor, "B T U1"], Float[Tensor, "B T U"]]:
    """Log-probabilities of blank and label where the logits are encoder + predictor.

    The normaliser of all nodes is one matrix product of exponentials, so nothing of size B·T·U·V
    is made. These log-probabilities are then blended with those of the predictor alone
    (`lm_only_scale`): the paper's smoothing.
    """
    # The products below must not be in bfloat16: their logarithm is the loss.
    with torch.autocast(encoder_logits.device.type, enabled=False):
        dtype = torch.promote_types(encoder_logits.dtype, torch.float32)
        am, lm = encoder_logits.to(dtype), predictor_logits.to(dtype)
        am_blank, lm_blank = am[:, :, None, BLANK], lm[:, None, :, BLANK]
        am_label = am.gather(2, targets[:, None].expand(-1, am.shape[1], -1))
        lm_label = lm[:, :-1].gather(2, targets[:, :, None])[:, None, :, 0]

        am_peak, lm_peak = am.detach().amax(2, True), lm.detach().amax(2, True)
        am_exp, lm_exp = (am - am_peak).exp(), (lm - lm_peak).exp()
        # The product underflows where the two halves rule out each other's favourites altogether.
        least = torch.finfo(dtype).tiny
        joint = (am_exp @ lm_exp.mT + least).log() + am_peak + lm_peak.mT
        blank = am_blank + lm_blank - joint
        label = am_label + lm_label - joint[:, :, :-1]

        both = 1.0 - lm_only_scale
        blank, label = both * blank, both * label
        if lm_only_scale:
            alone = lm.logsumexp(2)[:, None]
            blank = blank + lm_only_scale * (lm_blank - alone)
            label = label + lm_only_scale * (lm_label - alone[:, :, :-1])
        return blank, label


def pruning_bounds(
    blank_occupancy: Float[Tensor, "B T U1"],
    label_occupancy: Float[Tensor, "B T U"],
    frames: Int[Tensor, " B"],
    labels: Int[Tensor, " B"],
    width: int = 5,
) -> Int[Tensor, "B T"]:
    """First context of each frame's window: the `width` contexts that alignments visit most.

    Adjusted so that a whole path fits: windows start at 0, never go back, share at least one
    context with the next, and the last one holds the end of the target (and padding frames repeat
    it). `width` must not exceed U1.

    Raises ValueError where the windows cannot climb to the end of a target in its frames.
    """
    step = width - 1
    short = (labels > frames * step).nonzero()
    if len(short):
        i = int(short[0])
        raise ValueError(
            f"utterance {i} of the batch has {int(labels[i])} labels in {int(frames[i])} frames:"
            f" windows {width} wide reach only {int(frames[i]) * step}; drop it or widen them"
        )
    visits = blank_occupancy + F.pad(label_occupancy, (0, 1))
    start = F.avg_pool1d(visits, width, 1).argmax(2)

    t = torch.arange(visits.shape[1], device=visits.device)
    last = (labels - step).clamp(min=0)[:, None]
    to_go = (frames[:, None] - 1 - t).clamp(min=0)
    # Between these two bounds, and only there, the start is in reach and the end still is. Both
    # climb by at most a step, so the two cumulative minima below do not leave them.
    start = torch.maximum(start, last - step * to_go)
    start = torch.minimum(start, last).clamp(min=0).minimum(step * t)
    start = start.flip(1).cummin(1).values.flip(1)
    return (start - step * t).cummin(1).values + step * t


def window_contexts(windows: Int[Tensor, "B T"], width: int) -> Int[Tensor, "B T S"]:
    """How many labels are out, in every place of every frame's window."""
    return windows[:, :, None] + torch.arange(width, device=windows.device)


def pruned_loss(
    logits: Float[Tensor, "B T S V"],
    windows: Int[Tensor, "B T"],
    targets: Int[Tensor, "B U"],
    frames: Int[Tensor, " B"],
    labels: Int[Tensor, " B"],
    fastemit: float = 0.0,
) -> Float[Tensor, " B"]:
    """Negative log-likelihood (nats) over the alignments that stay inside the windows.

    `windows` are as `pruning_bounds` makes them, `logits` the joiner's at `window_contexts`.
    Never less than the full loss, and equal to it where S = U1.
    """
    blank, label = window_lattice(logits, windows, targets)
    return -lattice_score(blank, label, frames, labels, fastemit)


def window_lattice(
    logits: Float[Tensor, "B T S V"], windows: Int[Tensor, "B T"], targets: Int[Tensor, "B U"]
) -> tuple[Float[Tensor, "B T U1"], Float[Tensor, "B T U"]]:
    """Log-probabilities of blank and label on the whole lattice, with no way out of the windows."""
    contexts = window_contexts(windows, logits.shape[2])
    padded = F.pad(targets, (0, 1), value=BLANK)
    tokens = padded[:, None].expand(-1, logits.shape[1], -1).gather(2, contexts)
    blank, label = emission_log_probs(logits, tokens)
    # A blank into a context that the next window has left behind would get back in by the labels
    # below that window. With those closed, and no blank out of what lies above a window, labels
    # outside lead nowhere, so theirs may be anything: 0 is kind to the sums along u.
    onward = torch.cat((windows[:, 1:], windows[:, -1:]), 1)[:, :, None]
    blank = blank.masked_fill(contexts < onward, LOG_ZERO)
    nodes = (*logits.shape[:2], padded.shape[1])
    blank = blank.new_full(nodes, LOG_ZERO).scatter(2, contexts, blank)
    label = label.new_zeros(nodes).scatter(2, contexts, label)
    return blank, label[:, :, :-1]


class PrunedLosses(NamedTuple):
    """Per utterance, in nats; `logits` are the joiner's at `contexts`, the windows' places."""

    simple: Float[Tensor, " B"]
    pruned: Float[Tensor, " B"]
    contexts: Int[Tensor, "B T S"]
    logits: Float[Tensor, "B T S V"]


@dataclass(frozen=True)
class PrunedTransducerLoss:
    """Both losses of the paper: the trivial joiner's, and the real joiner's in its windows.

    Attributes:
        width: contexts in a frame's window.
        lm_only_scale: share of the predictor alone in the trivial joiner's loss.
        fastemit: by how much labels count for more, so that they come early (arXiv 2010.11148).
    """

    width: int = 5
    lm_only_scale: float = 0.25
    fastemit: float = 0.0

    def __call__(
        self,
        encoder_simple: Float[Tensor, "B T V"],
        predictor_simple: Float[Tensor, "B U1 V"],
        encoder: Float[Tensor, "B T J"],
        predictor: Float[Tensor, "B U1 J"],
        joiner: Callable[[Tensor, Tensor], Tensor],
        targets: Int[Tensor, "B U"],
        frames: Int[Tensor, " B"],
        labels: Int[Tensor, " B"],
    ) -> PrunedLosses:
        """`joiner` turns its two inputs [B, T, S, J] into logits [B, T, S, V]; S <= `width`.

        Raises ValueError as `pruning_bounds` does.
        """
        simple, windows = self.windows(encoder_simple, predictor_simple, targets, frames, labels)
        contexts = window_contexts(windows, min(self.width, predictor.shape[1]))
        logits = joiner_logits(joiner, encoder, predictor, contexts)
        pruned = pruned_loss(logits, windows, targets, frames, labels, self.fastemit)
        return PrunedLosses(simple, pruned, contexts, logits)

    def windows(
        self,
        encoder_simple: Float[Tensor, "B T V"],
        predictor_simple: Float[Tensor, "B U1 V"],
        targets: Int[Tensor, "B U"],
        frames: Int[Tensor, " B"],
        labels: Int[Tensor, " B"],
    ) -> tuple[Float[Tensor, " B"], Int[Tensor, "B T"]]:
        """The simple loss, and each frame's window. Raises ValueError as `pruning_bounds` does."""
        blank, label = simple_lattice(encoder_simple, predictor_simple, targets, self.lm_only_scale)
        score, blank_occupancy, label_occupancy = lattice_posterior(
            blank, label, frames, labels, self.fastemit
        )
        width = min(self.width, predictor_simple.shape[1])
        return -score, pruning_bounds(blank_occupancy, label_occupancy, frames, labels, width)


def joiner_logits(
    joiner: Callable[[Tensor, Tensor], Tensor],
    encoder: Float[Tensor, "B T J"],
    predictor: Float[Tensor, "B U1 J"],
    contexts: Int[Tensor, "B T S"],
) -> Float[Tensor, "B T S V"]:
    """The joiner at the given contexts of every frame, and nowhere else."""
    batch, nodes, _ = predictor.shape
    offset = torch.arange(batch, device=contexts.device)[:, None, None] * nodes
    picked = F.embedding(contexts + offset, predictor.flatten(0, 1))
    return joiner(encoder[:, :, None].expand(-1, -1, contexts.shape[2], -1), picked)


def pruned_scales(progress: float) -> tuple[float, float]:
    """Weights of the simple and the pruned loss when `progress` (0 … 1) of the warm-up is done.

    The windows are worthless at first, so the simple loss leads: 1 → 0.5, the pruned 0.1 → 1.
    """
    progress = min(max(progress, 0.0), 1.0)
    return 1.0 - 0.5 * progress, 0.1 + 0.9 * progress
