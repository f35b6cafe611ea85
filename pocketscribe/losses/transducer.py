"""The transducer (RNN-T) loss over the whole lattice (Graves 2012, arXiv 1211.3711).

Node (t, u) of the lattice means: frame t is being heard and u labels are out. A label moves
u -> u + 1 within the frame, a blank moves t -> t + 1; the blank at (T - 1, U) ends the utterance.

Dimensions
    B   utterances in the batch
    T   encoder frames, padded to the longest utterance
    U   labels, padded to the longest target
    U1  U + 1: labels that may be out, 0 … U
    W   predictor contexts looked at in a frame: U1 here, the window of the pruned loss elsewhere
    V   text units, blank among them
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pocketscribe.models import BLANK

# Stands in for log 0. Finite, so that differences and products with zero never make a NaN, and far
# enough from float32's end that thousands of them may be added up.
LOG_ZERO = -1e30
# Label log-probabilities are summed along u, and a sum near LOG_ZERO would swallow all others.
# exp(-1e4) is as impossible as zero, yet a few of these leave the sum its digits.
LEAST_LABEL = -1e4
MOST_AT_ONCE = 2**26  # numbers of a temporary on an accelerator


def lattice_posterior(
    blank: Float[Tensor, "B T U1"],
    label: Float[Tensor, "B T U"],
    frames: Int[Tensor, " B"],
    labels: Int[Tensor, " B"],
    fastemit: float = 0.0,
) -> tuple[Float[Tensor, " B"], Float[Tensor, "B T U1"], Float[Tensor, "B T U"]]:
    """Total log-probability (nats) and the occupancies: the posterior probability of every move.

    `blank` and `label` are log-probabilities; `frames` (at least 1) and `labels` are the lengths
    of each utterance. Moves outside an utterance have occupancy zero. Only the total carries a
    gradient, which is the occupancies (label moves times 1 + `fastemit`). The work is in float32,
    whatever autocast says, or in float64 if that is what comes in.

    Raises ValueError where the two lattices do not belong together.
    """
    if blank.shape[2] != label.shape[2] + 1:
        raise ValueError(
            f"blank needs one column more than label: got {blank.shape[2]} and {label.shape[2]}"
        )
    # Promoted here rather than in the function, so that autograd casts the gradient back.
    dtype = torch.promote_types(torch.promote_types(blank.dtype, label.dtype), torch.float32)
    return _Lattice.apply(blank.to(dtype), label.to(dtype), frames, labels, fastemit)


def lattice_score(
    blank: Float[Tensor, "B T U1"],
    label: Float[Tensor, "B T U"],
    frames: Int[Tensor, " B"],
    labels: Int[Tensor, " B"],
    fastemit: float = 0.0,
) -> Float[Tensor, " B"]:
    """Total log-probability (nats) of all alignments; see `lattice_posterior`."""
    return lattice_posterior(blank, label, frames, labels, fastemit)[0]


def emission_log_probs(
    logits: Float[Tensor, "B T W V"], tokens: Int[Tensor, "B T W"]
) -> tuple[Float[Tensor, "B T W"], Float[Tensor, "B T W"]]:
    """Log softmax(logits) of the blank and of one token per node, without the other V - 2.

    Keeps the logits and nothing else of their size; the backward pass makes one more, the gradient.
    The log-probabilities are at least float32 however coarse the logits.
    """
    return _EmissionLogProbs.apply(logits, tokens)


def transducer_loss(
    logits: Float[Tensor, "B T U1 V"],
    targets: Int[Tensor, "B U"],
    frames: Int[Tensor, " B"],
    labels: Int[Tensor, " B"],
    fastemit: float = 0.0,
) -> Float[Tensor, " B"]:
    """Negative log-likelihood (nats) of each target, from the joiner's logits at every node.

    What stands in `targets` past an utterance's length must be a valid id, and is not looked at.
    `fastemit` is λ of arXiv 2010.11148: the gradient of label emissions is scaled by 1 + λ; the
    value of the loss stays the likelihood.
    """
    # No label is left to emit at u = U; any id will do there, as that column is dropped.
    tokens = F.pad(targets, (0, 1), value=BLANK)[:, None].expand(logits.shape[:3])
    blank, label = emission_log_probs(logits, tokens)
    return -lattice_score(blank, label[:, :, :-1], frames, labels, fastemit)


@torch.no_grad()
def best_path(
    blank: Float[Tensor, "B T U1"],
    label: Float[Tensor, "B T U"],
    frames: Int[Tensor, " B"],
    labels: Int[Tensor, " B"],
) -> Bool[Tensor, "B T U1"]:
    """The nodes that each utterance's likeliest alignment passes; arguments as above.

    With the largest in the place of the sum, the gradient of the score is one at the moves of the
    best alignment and zero elsewhere (Viterbi).
    """
    with torch.enable_grad():
        dtype = torch.promote_types(torch.promote_types(blank.dtype, label.dtype), torch.float32)
        blank = blank.detach().to(dtype).requires_grad_()
        label = label.detach().to(dtype).clamp(min=LEAST_LABEL).requires_grad_()
        climb = F.pad(label.cumsum(2), (1, 0))
        x = blank.new_full(climb[:, 0].shape, LOG_ZERO)
        x[:, 0] = 0.0
        reached = [x.cummax(1).values]
        for t in range(1, blank.shape[1]):
            y = reached[-1] + climb[:, t - 1] + blank[:, t - 1] - climb[:, t]
            reached.append(y.cummax(1).values)
        score = torch.stack(reached, 1) + climb + blank
        last = torch.arange(len(frames), device=frames.device), frames - 1, labels
        moves = torch.autograd.grad(score[last].sum(), (blank, label))
    return (moves[0] > 0.5) | F.pad(moves[1] > 0.5, (0, 1))


class _Lattice(torch.autograd.Function):
    """Forward-backward in one go, so that the gradient needs no autograd through the scan."""

    @staticmethod
    def forward(
        ctx: Any, blank: Tensor, label: Tensor, frames: Tensor, labels: Tensor, fastemit: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        score, blank_occupancy, label_occupancy = _forward_backward(blank, label, frames, labels)
        ctx.save_for_backward(blank_occupancy, label_occupancy)
        ctx.mark_non_differentiable(blank_occupancy, label_occupancy)
        ctx.label_scale = 1.0 + fastemit
        return score, blank_occupancy, label_occupancy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        blank_occupancy, label_occupancy = ctx.saved_tensors
        grad = grad[:, None, None]
        return blank_occupancy * grad, label_occupancy * (grad * ctx.label_scale), None, None, None


def _forward_backward(
    blank: Tensor, label: Tensor, frames: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Score [B] and occupancies of blanks [B, T, U1] and labels [B, T, U].

    With L[t, u] the sum of label[t, :u], the recursion over a frame
        alpha[t, u] = logaddexp(alpha[t-1, u] + blank[t-1, u], alpha[t, u-1] + label[t, u-1])
    is one log-cumulative-sum-exp along u of x = alpha - L:
        x[t] = logcumsumexp(x[t-1] + L[t-1] + blank[t-1] - L[t]).
    beta obeys the same recursion in the lattice turned end to start, so both run as one scan over
    a doubled batch: T steps of two operations each.
    """
    batch, time, nodes = blank.shape
    label = label.clamp(min=LEAST_LABEL)
    t = torch.arange(time, device=blank.device)
    u = torch.arange(nodes, device=blank.device)
    # Each utterance is turned within its own length. What lies past it repeats some valid move:
    # nothing flows from there into the utterance, it only has to be finite.
    turn_t = (frames[:, None] - 1 - t).clamp(min=0)
    turn_u = (labels[:, None] - u).clamp(min=0)
    turn = (turn_t[:, :, None] * nodes + turn_u[:, None, :]).flatten(1)

    def turned(lattice: Tensor) -> Tensor:
        return lattice.reshape(batch, -1).gather(1, turn).view(batch, time, nodes)

    # Blank moves by the frame they lead into: alpha enters frame 0 for free, beta its first frame
    # (the last one heard) by the final blank; both at u = 0 only.
    into = blank.new_full((2, batch, time, nodes), LOG_ZERO)
    into[0, :, 1:] = blank[:, :-1]
    into[0, :, 0, 0] = 0.0
    backwards = turned(blank)
    into[1, :, 1:] = backwards[:, 1:]
    into[1, :, 0, 0] = backwards[:, 0, 0]
    # A label that leads into u leads, turned, out of labels - u: hence the pad at the other end.
    within = torch.stack((label, turned(F.pad(label, (1, 0)))[:, :, :-1]))
    climb = F.pad(within.cumsum(3), (1, 0))
    into[:, :, 1:] += climb[:, :, :-1]
    into -= climb

    arrived, reached = _scan(into.flatten(0, 1).transpose(0, 1).contiguous())
    arrived = arrived.transpose(0, 1).view(into.shape) + climb
    reached = reached.transpose(0, 1).view(into.shape) + climb
    alpha = reached[0]
    beta = turned(reached[1])
    after_blank = turned(arrived[1])  # blank[t, u] + beta[t + 1, u]

    valid = (t < frames[:, None])[:, :, None] & (u <= labels[:, None])[:, None, :]
    through_blank = (alpha + after_blank).masked_fill(~valid, LOG_ZERO)
    # Every path takes exactly one blank out of every frame. So each frame's blanks add up to the
    # score, and dividing by the frame's own sum keeps the rounding of a long scan (alike for a
    # whole frame) out of the occupancies.
    total = through_blank.logsumexp(2, keepdim=True)
    blank_occupancy = (through_blank - total).exp().masked_fill(~valid, 0.0)
    through_label = alpha[:, :, :-1] + label + beta[:, :, 1:] - total
    label_occupancy = through_label.exp().masked_fill(~valid[:, :, 1:], 0.0)
    return total[:, 0, 0], blank_occupancy, label_occupancy


def _scan(into: Tensor) -> tuple[Tensor, Tensor]:
    """x[t] = logcumsumexp(y[t]), y[t] = x[t-1] + into[t] along the first axis; returns y and x."""
    arrived, reached = torch.empty_like(into), torch.empty_like(into)
    previous = torch.zeros_like(into[0])
    # Written in place into views taken once: the loop is nothing but its two operations.
    for move, y, x in zip(into.unbind(0), arrived.unbind(0), reached.unbind(0), strict=True):
        torch.add(previous, move, out=y)
        torch.logcumsumexp(y, 1, out=x)
        previous = x
    return arrived, reached


class _EmissionLogProbs(torch.autograd.Function):
    """Goes by a few utterances at a time, so that temporaries with a V axis stay small."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        normaliser = torch.empty(logits.shape[:3], dtype=dtype, device=logits.device)
        for few in _few_utterances(logits):
            torch.logsumexp(logits[few].to(dtype), 3, out=normaliser[few])
        ctx.save_for_backward(logits, tokens, normaliser)
        token = logits.gather(3, tokens[..., None])[..., 0]
        return logits[..., BLANK] - normaliser, token - normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, tokens, normaliser = ctx.saved_tensors
        blank, token = grads
        both = -(blank + token)
        grad = torch.empty_like(logits)
        for few in _few_utterances(logits):
            # d log p_i / d logit_v = [i = v] - p_v
            slopes = (logits[few] - normaliser[few][..., None]).exp_().mul_(both[few][..., None])
            slopes[..., BLANK] += blank[few]
            slopes.scatter_add_(3, tokens[few][..., None], token[few][..., None])
            grad[few] = slopes
        return grad, None


def _few_utterances(logits: Float[Tensor, "B T W V"]) -> Iterator[slice]:
    """Which to take at once: one on a CPU, whose caches hold it; on an accelerator, where every
    call costs time, as many as stay under `MOST_AT_ONCE` numbers.
    """
    count = 1
    if logits.device.type != "cpu":
        count = max(1, MOST_AT_ONCE // max(logits[0].numel(), 1))
    for start in range(0, len(logits), count):
        yield slice(start, start + count)
