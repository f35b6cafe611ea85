"""Learning from another recogniser's probabilities, at chosen places of a transducer's lattice.

    u ^  . . . . ▒ ●     all         every node (t, u) of the lattice: B T U V numbers
      |  . . ▒ ▒ ● ●     windows     ▒ and ●: where the pruned loss looks, the student's windows,
      |  . ▒ ● ● ▒ .                 the teacher's or both: B T S V
      |  ▒ ● ▒ ▒ . .     path        ●: the teacher's best alignment alone: B (T + U) V
      |  ● ▒ . . . .     occupancy   any of these, each node as often as the teacher passes it
      +-------------> t

At each node the teacher's distribution is compared as it is, or collapsed to three classes: next
label, blank, rest (Panchapagesan et al. 2020, "Efficient knowledge distillation for RNN-transducer
models", arXiv 2011.06110). Nodes are averaged within a frame and summed over frames, so that all
choices weigh like a loss in nats a frame; the averages by occupancy and along the path are ours.
Beside the lattice, two CTC heads can be compared frame by frame, and two encoders' outputs.

Dimensions: B batch, T encoder frames, U labels, U1 = U + 1, V text units; N rows of S nodes each, a
row being one frame's (N = T, but for the path); C classes; D encoder width.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from pocketscribe.losses.pruned import joiner_logits
from pocketscribe.losses.transducer import emission_log_probs
from pocketscribe.models import BLANK

LEAST = 1e-6  # of the rest's probability: its logarithm must not explode

MOST_RATIO, LEAST_LOG = 5.0, -30.0

Classes = Literal["collapsed", "full"]
Divergence = Callable[[Tensor, Tensor], Tensor]  # of log-probabilities, over their last axis


class Nodes(NamedTuple):
    """Places of the lattice.

    Attributes:
        time: the frame that each row's nodes hear.
        contexts: how many labels are out at each node.
        share: how much each counts: a frame's add up to one, and what is no place counts zero.
    """

    time: Int[Tensor, "B N"]
    contexts: Int[Tensor, "B N S"]
    share: Float[Tensor, "B N S"]


def all_nodes(frames: Int[Tensor, " B"], labels: Int[Tensor, " B"]) -> Nodes:
    """The whole lattice, as long as the longest utterance and target: N = T, S = U1."""
    contexts = torch.arange(int(labels.max()) + 1, device=frames.device)
    contexts = contexts.expand(len(frames), int(frames.max()), -1)
    return window_nodes(contexts, frames, labels)


def window_nodes(
    contexts: Int[Tensor, "B T S"],
    frames: Int[Tensor, " B"],
    labels: Int[Tensor, " B"],
    others: Int[Tensor, "B T S"] | None = None,
) -> Nodes:
    """The windows of a pruned loss (`window_contexts`), and what only `others` hold."""
    counted = torch.ones_like(contexts, dtype=torch.bool)
    if others is not None:
        first, last = contexts[..., :1], contexts[..., -1:]
        counted = torch.cat([counted, (others < first) | (others > last)], -1)
        contexts = torch.cat([contexts, others], -1)
    time = torch.arange(contexts.shape[1], device=frames.device).expand(contexts.shape[:2])
    heard = time < frames[:, None]
    counted = counted & heard[..., None] & (contexts <= labels[:, None, None])
    return Nodes(time, contexts, _even(counted, time))


def path_nodes(visited: Bool[Tensor, "B T U1"]) -> Nodes:
    """The nodes of one alignment (`best_path`) in its own order: N = T + U at most, S = 1."""
    _, _, nodes = visited.shape
    flat = visited.flatten(1)
    longest = int(flat.sum(1).max())
    # Row by row through the lattice is the order of an alignment, which never goes back.
    order = flat.int().argsort(dim=1, descending=True, stable=True)[:, :longest]
    time, contexts = order // nodes, (order % nodes)[..., None]
    return Nodes(time, contexts, _even(flat.gather(1, order)[..., None], time))


def by_occupancy(nodes: Nodes, visits: Float[Tensor, "B T U1"]) -> Nodes:
    """The same nodes, each counting as often as alignments pass it; a frame's still sum to one."""
    rows = visits.gather(1, nodes.time[..., None].expand(-1, -1, visits.shape[2]))
    here = rows.gather(2, nodes.contexts.clamp(max=visits.shape[2] - 1))
    return nodes._replace(share=_normalised(here * (nodes.share > 0), nodes.time))


def _even(counted: Bool[Tensor, "B N S"], time: Int[Tensor, "B N"]) -> Float[Tensor, "B N S"]:
    return _normalised(counted.float(), time)


def _normalised(weight: Float[Tensor, "B N S"], time: Int[Tensor, "B N"]) -> Tensor:
    """Weights whose sum over a frame's nodes, which may be several rows, is one."""
    row = weight.sum(-1)
    frame = row.new_zeros(len(row), int(time.max()) + 1).scatter_add(1, time, row)
    total = frame.gather(1, time)[..., None]
    return torch.where(total > 0, weight / total.clamp(min=torch.finfo(row.dtype).tiny), 0.0)


def node_logits(
    joiner: Callable[[Tensor, Tensor], Tensor],
    encoder: Float[Tensor, "B T J"],
    predictor: Float[Tensor, "B U1 J"],
    nodes: Nodes,
) -> Float[Tensor, "B N S V"]:
    """A joiner's logits at the nodes; J is the joiner's width."""
    rows = encoder.gather(1, nodes.time[..., None].expand(-1, -1, encoder.shape[2]))
    return joiner_logits(joiner, rows, predictor, nodes.contexts)


def node_log_probs(
    logits: Float[Tensor, "B N S V"],
    nodes: Nodes,
    targets: Int[Tensor, "B U"],
    labels: Int[Tensor, " B"],
    classes: Classes = "collapsed",
) -> Float[Tensor, "B N S C"]:
    """What a recogniser says at the nodes, in float32: log-probabilities of 3 classes or of all V.

    The three are the next label (none where all are out), blank, and all else. The collapsed form
    keeps nothing of the logits' size but the logits.
    """
    if classes == "full":
        return logits.float().log_softmax(-1)
    padded = F.pad(targets, (0, 1), value=BLANK)
    contexts = nodes.contexts.clamp(max=targets.shape[1])
    tokens = padded[:, None].expand(-1, contexts.shape[1], -1).gather(2, contexts)
    return collapsed(logits, tokens, nodes.contexts >= labels[:, None, None])


def collapsed(
    logits: Float[Tensor, "B N S V"], tokens: Int[Tensor, "B N S"], at_end: Bool[Tensor, "B N S"]
) -> Float[Tensor, "B N S 3"]:
    """Log-probabilities of the next label (none `at_end`), of blank, and of all else, in float32.

    The rest is log(-expm1(log(P_y + P_blank))): 1 - p would lose what matters near one.
    """
    blank, label = emission_log_probs(logits, tokens)
    label = label.masked_fill(at_end, -torch.inf)
    both = torch.logaddexp(label, blank).clamp(max=-LEAST)
    return torch.stack([label, blank, (-torch.expm1(both)).log()], dim=-1)


def divergence(
    teacher: Float[Tensor, "*B C"], student: Float[Tensor, "*B C"]
) -> Float[Tensor, "*B"]:
    """KL(teacher || student) over the last axis, of log-probabilities; 0 log 0 is 0."""
    p = teacher.exp()
    difference = torch.where(p > 0, teacher - student, torch.zeros_like(p))
    return (p * difference).sum(-1)


def adaptive_divergence(
    teacher: Float[Tensor, "*B C"], student: Float[Tensor, "*B C"]
) -> Float[Tensor, "*B"]:
    """The larger of the alpha-divergences at -1 and at 1 (Wang et al. 2021, arXiv 2102.07954).

        D_a(p || q) = (Σ q (p/q)^a - 1) / (a (a - 1)),    a = 1: KL(p || q)

    over the last axis of log-probabilities. a = -1 punishes mass where the teacher has little,
    a = 1 the lack of it where the teacher has much. (p/q)^a is at most `MOST_RATIO`. The value is
    the divergence; the gradient is that of -Σ sg(q) ρ log q, ρ = (p/q)^a / a + 1 / (a (a - 1)),
    which has no powers of the student's mistakes in it.
    """
    log_p, log_q = teacher.float(), student.float()
    nowhere = (log_p == -torch.inf) & (log_q == -torch.inf)  # such as a label after the last
    log_p, log_q = (x.masked_fill(nowhere, 0).clamp(min=LEAST_LOG) for x in (log_p, log_q))
    q = log_q.detach().exp().masked_fill(nowhere, 0)
    ahead = divergence(log_p.masked_fill(nowhere, -torch.inf), log_q)
    ratio = (log_q - log_p).exp().clamp(max=MOST_RATIO).detach()  # (p/q)^-1
    behind = (q * (ratio - 1)).sum(-1) / 2
    slope = -(q * (0.5 - ratio) * log_q).sum(-1)
    behind = behind + slope - slope.detach()
    return torch.where(ahead.detach() >= behind.detach(), ahead, behind)


def lattice_distillation(
    teacher: Float[Tensor, "B N S C"],
    student: Float[Tensor, "B N S C"],
    nodes: Nodes,
    each: Divergence = divergence,
) -> Float[Tensor, " B"]:
    """Divergence of two `node_log_probs` per utterance in nats: frames' means, summed."""
    found = each(teacher, student).masked_fill(nodes.share == 0, 0)
    return (nodes.share * found).sum((1, 2))


def frame_distillation(
    teacher: Float[Tensor, "B T V"],
    student: Float[Tensor, "B T V"],
    frames: Int[Tensor, " B"],
    each: Divergence = divergence,
) -> Float[Tensor, " B"]:
    """Divergence of two CTC heads' logits (or log-probabilities) in nats, summed over frames."""
    found = each(teacher.float().log_softmax(-1), student.float().log_softmax(-1))
    return _within(found, frames)


def encoder_distillation(
    teacher: Float[Tensor, "B T D"], student: Float[Tensor, "B T D"], frames: Int[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Mean square over the width of two encoders' difference, summed over frames."""
    return _within((teacher.float() - student.float()).square().mean(-1), frames)


def _within(each: Float[Tensor, "B T"], frames: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    valid = torch.arange(each.shape[1], device=frames.device) < frames[:, None]
    return each.masked_fill(~valid, 0).sum(-1)
