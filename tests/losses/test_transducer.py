"""The full transducer loss against every alignment counted one by one, and a second library.

B utterances, T frames, U labels, U1 = U + 1, V text units.
"""

import itertools

import pytest
import torch
from torch import Tensor

from pocketscribe.losses import (
    emission_log_probs,
    lattice_posterior,
    lattice_score,
    transducer_loss,
)

FRAMES = torch.tensor([4, 1, 3, 2])
LABELS = torch.tensor([3, 2, 0, 1])
BATCH, TIME, TARGET, UNITS = 4, 4, 3, 5


def every_alignment(blank: Tensor, label: Tensor, frames: int, labels: int) -> Tensor:
    """Log of the sum over all alignments of one utterance, each walked move by move."""
    scores = []
    moves = frames - 1 + labels  # The last blank is not free to move.
    for ups in itertools.combinations(range(moves), labels):
        t = u = 0
        score = blank[frames - 1, labels]
        for move in range(moves):
            if move in ups:
                score = score + label[t, u]
                u += 1
            else:
                score = score + blank[t, u]
                t += 1
        scores.append(score)
    return torch.stack(scores).logsumexp(0)


def every_alignment_of_batch(blank: Tensor, label: Tensor) -> Tensor:
    lengths = zip(FRAMES.tolist(), LABELS.tolist(), strict=True)
    return torch.stack(
        [every_alignment(blank[b], label[b], t, u) for b, (t, u) in enumerate(lengths)]
    )


def reference_loss(logits: Tensor, targets: Tensor, fastemit: float = 0.0) -> Tensor:
    log_probs = logits.log_softmax(3)
    label = log_probs[:, :, :-1].gather(3, targets[:, None, :, None].expand(-1, TIME, -1, 1))[
        ..., 0
    ]
    # The value is label's, the gradient 1 + fastemit times as steep.
    label = label + fastemit * (label - label.detach())
    return -every_alignment_of_batch(log_probs[..., 0], label)


def lattice(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    blank = -4 * torch.rand(BATCH, TIME, TARGET + 1, generator=generator, dtype=dtype)
    label = -4 * torch.rand(BATCH, TIME, TARGET, generator=generator, dtype=dtype)
    return blank.requires_grad_(), label.requires_grad_()


def logits_and_targets(seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (BATCH, TIME, TARGET + 1, UNITS)
    logits = 3 * torch.randn(shape, generator=generator, dtype=dtype)
    targets = torch.randint(1, UNITS, (BATCH, TARGET), generator=generator)
    return logits.requires_grad_(), targets


def outside(shape: tuple[int, int]) -> Tensor:
    """True [B, T, U1] at the nodes that belong to padding."""
    t, u = torch.arange(shape[0])[:, None], torch.arange(shape[1])
    return (t >= FRAMES[:, None, None]) | (u > LABELS[:, None, None])


@pytest.mark.parametrize("seed", range(3))
def test_score_and_gradient_are_those_of_all_alignments(seed: int) -> None:
    blank, label = lattice(seed)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    expected = every_alignment_of_batch(blank, label)
    expected_grads = torch.autograd.grad(expected @ weights, (blank, label))
    score = lattice_score(blank, label, FRAMES, LABELS)
    grads = torch.autograd.grad(score @ weights, (blank, label))
    torch.testing.assert_close(score, expected)
    torch.testing.assert_close(grads, expected_grads)


def test_gradients_by_finite_differences() -> None:
    blank, label = lattice(0)
    assert torch.autograd.gradcheck(
        lambda b, y: lattice_score(b, y, FRAMES, LABELS), (blank, label)
    )
    logits, _ = logits_and_targets(0, torch.float64)
    tokens = torch.randint(0, UNITS, logits.shape[:3])  # Blank itself among them.
    assert torch.autograd.gradcheck(lambda x: emission_log_probs(x, tokens), (logits,))


def test_occupancies_are_probabilities_of_moves() -> None:
    blank, label = lattice(1, torch.float32)
    _, blank_occupancy, label_occupancy = lattice_posterior(blank, label, FRAMES, LABELS)
    heard = torch.arange(TIME) < FRAMES[:, None]
    torch.testing.assert_close(blank_occupancy.sum(2), heard.float())
    said = torch.arange(TARGET) < LABELS[:, None]
    torch.testing.assert_close(label_occupancy.sum(1), said.float())


@pytest.mark.parametrize("fastemit", [0.0, 0.3])
def test_loss_matches_all_alignments(fastemit: float) -> None:
    logits, targets = logits_and_targets(2)
    exact = logits.detach().double().requires_grad_()
    expected = reference_loss(exact, targets, fastemit)
    (expected_grad,) = torch.autograd.grad(expected.sum(), exact)
    loss = transducer_loss(logits, targets, FRAMES, LABELS, fastemit=fastemit)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(loss, expected.float())
    torch.testing.assert_close(grad, expected_grad.float(), atol=1e-5, rtol=1e-5)


def test_fastemit_raises_label_gradient_only() -> None:
    blank, label = lattice(4, torch.float32)
    plain = lattice_score(blank, label, FRAMES, LABELS)
    early = lattice_score(blank, label, FRAMES, LABELS, fastemit=0.25)
    torch.testing.assert_close(plain, early, rtol=0, atol=0)
    plain_grads = torch.autograd.grad(plain.sum(), (blank, label))
    early_grads = torch.autograd.grad(early.sum(), (blank, label))
    torch.testing.assert_close(early_grads[0], plain_grads[0])
    torch.testing.assert_close(early_grads[1], 1.25 * plain_grads[1])


def test_padding_changes_nothing_and_gets_no_gradient() -> None:
    logits, targets = logits_and_targets(5)
    loss = transducer_loss(logits, targets, FRAMES, LABELS)
    padded = 50 * torch.randn(BATCH, TIME + 3, TARGET + 3, UNITS)
    inside = ~outside((TIME, TARGET + 1))
    padded[:, :TIME, : TARGET + 1][inside] = logits.detach()[inside]
    padded.requires_grad_()
    more_targets = torch.nn.functional.pad(targets, (0, 2), value=UNITS - 1)
    same = transducer_loss(padded, more_targets, FRAMES, LABELS)
    torch.testing.assert_close(same, loss)
    (grad,) = torch.autograd.grad(same.sum(), padded)
    beyond = outside((TIME + 3, TARGET + 3))
    assert (grad[beyond] == 0).all()
    assert (grad[~beyond].abs().sum(-1) > 0).any()


def test_empty_targets() -> None:
    logits = torch.randn(2, 5, 1, UNITS, requires_grad=True)
    frames, labels = torch.tensor([5, 2]), torch.tensor([0, 0])
    loss = transducer_loss(logits, torch.zeros(2, 0, dtype=torch.long), frames, labels)
    blanks = logits.log_softmax(3)[:, :, 0, 0]
    torch.testing.assert_close(loss, -torch.stack((blanks[0].sum(), blanks[1, :2].sum())))
    loss.sum().backward()
    assert logits.grad is not None and (logits.grad[1, 2:] == 0).all()


def test_a_single_frame() -> None:
    """One way only: all labels, then the blank."""
    logits, targets = torch.randn(2, 1, 3, UNITS), torch.tensor([[1, 2], [3, 3]])
    found = transducer_loss(logits, targets, torch.tensor([1, 1]), torch.tensor([2, 1]))
    p = logits.log_softmax(3)[:, 0]
    first = p[0, 0, 1] + p[0, 1, 2] + p[0, 2, 0]
    torch.testing.assert_close(found, -torch.stack((first, p[1, 0, 3] + p[1, 1, 0])))


def test_impossible_moves_leave_the_others_alone() -> None:
    blank, label = lattice(6)
    closed_blank, closed_label = blank.detach().clone(), label.detach().clone()
    closed_blank[0, 1, 2] = -torch.inf
    closed_label[0, 2, 0] = -torch.inf
    expected = every_alignment_of_batch(closed_blank, closed_label)
    closed_blank.requires_grad_(), closed_label.requires_grad_()
    score = lattice_score(closed_blank, closed_label, FRAMES, LABELS)
    grads = torch.autograd.grad(score.sum(), (closed_blank, closed_label))
    torch.testing.assert_close(score, expected)
    assert grads[0].isfinite().all() and grads[1].isfinite().all()
    assert grads[0][0, 1, 2] == 0 and grads[1][0, 2, 0] == 0


def test_float32_holds_over_a_minute_of_frames() -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(1, 1500, 101, 32, dtype=torch.float64).log_softmax(3)
    blank, label = log_probs[..., 0], log_probs[:, :, :-1, 1]
    frames, labels = torch.tensor([1500]), torch.tensor([100])
    exact = lattice_posterior(blank, label, frames, labels)
    rough = lattice_posterior(blank.float(), label.float(), frames, labels)
    torch.testing.assert_close(rough[0].double(), exact[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(rough[2].double(), exact[2], rtol=0, atol=5e-3)


def test_bfloat16_logits_under_autocast() -> None:
    logits, targets = logits_and_targets(7)
    rough = logits.detach().bfloat16().requires_grad_()
    exact = transducer_loss(rough.detach().float(), targets, FRAMES, LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        loss = transducer_loss(rough, targets, FRAMES, LABELS)
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert rough.grad is not None and rough.grad.dtype == torch.bfloat16
    assert rough.grad.isfinite().all()
    torch.testing.assert_close(loss, exact)


def test_lattices_of_different_targets_are_refused() -> None:
    blank, label = lattice(8)
    with pytest.raises(ValueError, match="one column more"):
        lattice_score(blank, label[:, :, 1:], FRAMES, LABELS)


def test_matches_warprnnt_numba() -> None:
    from warprnnt_numba import RNNTLossNumba  # a second to import, for this test alone

    logits, targets = logits_and_targets(9)
    other = logits.detach().clone().requires_grad_()
    lengths = (FRAMES.int(), LABELS.int())
    expected = RNNTLossNumba(blank=0, reduction="none")(other, targets.int(), *lengths)
    expected.sum().backward()
    loss = transducer_loss(logits, targets, FRAMES, LABELS)
    loss.sum().backward()
    torch.testing.assert_close(loss, expected.view(-1))
    torch.testing.assert_close(logits.grad, other.grad, atol=1e-5, rtol=1e-4)
