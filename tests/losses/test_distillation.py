"""Distillation on collapsed lattices, against sums over the full lattice.

B utterances, T frames, U labels, U1 = U + 1, S contexts a window, V text units.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pocketscribe.losses import frame_distillation, lattice_distillation
from pocketscribe.losses.distillation import collapsed, divergence

BATCH, TIME, TARGET, UNITS = 3, 5, 4, 7
FRAMES = torch.tensor([5, 3, 4])
LABELS = torch.tensor([4, 2, 0])


def lattices(seed: int, spread: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """Teacher's and student's logits [B, T, U1, V], and targets."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, BATCH, TIME, TARGET + 1, UNITS)
    teacher, student = spread * torch.randn(shape, generator=generator)
    return teacher, student, torch.randint(1, UNITS, (BATCH, TARGET), generator=generator)


def node(logits: Tensor, label: int | None) -> list[float]:
    """Probabilities of the next label, of blank, of the rest, in float64."""
    p = logits.double().softmax(-1)
    next_label = 0.0 if label is None else p[label].item()
    blank = p[0].item()
    rest = sum(p[k].item() for k in range(len(p)) if k not in (0, label))
    return [next_label, blank, rest]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


@given(st.integers(0, 99))
def test_whole_windows_give_the_full_lattice(seed: int) -> None:
    teacher, student, targets = lattices(seed)
    contexts = torch.arange(TARGET + 1).expand(BATCH, TIME, TARGET + 1)
    found = lattice_distillation(teacher, student, contexts, targets, FRAMES, LABELS)
    for b in range(BATCH):
        total = 0.0
        for t in range(FRAMES[b]):
            nodes = []
            for u in range(LABELS[b] + 1):
                label = int(targets[b, u]) if u < LABELS[b] else None
                nodes.append(kl(node(teacher[b, t, u], label), node(student[b, t, u], label)))
            total += sum(nodes) / len(nodes)
        assert found[b].item() == pytest.approx(total, rel=1e-3, abs=1e-5)


def test_windows_are_places_of_the_full_lattice() -> None:
    """A window that slides gives the same nodes as the lattice it was cut from."""
    teacher, student, targets = lattices(1)
    starts = torch.tensor([[0, 0, 1, 2, 3], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
    contexts = starts[..., None] + torch.arange(2)
    index = contexts[..., None].expand(-1, -1, -1, UNITS)
    cut = [x.gather(2, index) for x in (teacher, student)]
    found = lattice_distillation(*cut, contexts, targets, FRAMES, LABELS)
    for b in range(BATCH):
        total = 0.0
        for t in range(FRAMES[b]):
            nodes = []
            for u in contexts[b, t].tolist():
                if u > LABELS[b]:
                    continue
                label = int(targets[b, u]) if u < LABELS[b] else None
                nodes.append(kl(node(teacher[b, t, u], label), node(student[b, t, u], label)))
            total += sum(nodes) / len(nodes)
        assert found[b].item() == pytest.approx(total, rel=1e-3, abs=1e-5)


@given(st.integers(0, 99))
def test_collapsed_is_never_more_than_full(seed: int) -> None:
    teacher, student, targets = lattices(seed)
    tokens = torch.nn.functional.pad(targets, (0, 1))[:, None].expand(-1, TIME, -1)
    at_end = (torch.arange(TARGET + 1) == TARGET).expand_as(tokens)
    three = divergence(collapsed(teacher, tokens, at_end), collapsed(student, tokens, at_end))
    full = divergence(teacher.log_softmax(-1), student.log_softmax(-1))
    assert (three <= full + 1e-5).all()
    assert (three >= -1e-6).all()


def test_a_certain_teacher_and_a_certain_student() -> None:
    """All mass on one unit: nothing explodes, forward or backward."""
    teacher = torch.full((1, 1, 1, 5), -100.0)
    teacher[..., 2] = 100.0
    student = torch.zeros(1, 1, 1, 5)
    student[..., 3] = 80.0
    student.requires_grad_()
    found = lattice_distillation(
        teacher,
        student,
        torch.zeros(1, 1, 1, dtype=torch.long),
        torch.tensor([[2]]),
        torch.tensor([1]),
        torch.tensor([1]),
    )
    found.sum().backward()
    assert found.isfinite().all() and found > 10
    assert student.grad is not None and student.grad.isfinite().all()
    assert student.grad[0, 0, 0, 2] < -0.5  # towards what the teacher is sure of


def test_its_gradient_teaches() -> None:
    """Steps down the gradient bring the student's collapsed lattice to the teacher's."""
    teacher, student, targets = lattices(3)
    student.requires_grad_()
    contexts = torch.arange(TARGET + 1).expand(BATCH, TIME, TARGET + 1)
    losses = []
    for _ in range(300):
        loss = lattice_distillation(teacher, student, contexts, targets, FRAMES, LABELS).sum()
        (gradient,) = torch.autograd.grad(loss, student)
        assert gradient[1, 3:].abs().sum() == 0  # frames beyond the end teach nothing
        assert gradient[1, :, 3:].abs().sum() == 0  # nor do labels beyond the target
        student = (student - 2 * gradient).detach().requires_grad_()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]


@given(st.integers(0, 99))
def test_frames_of_two_ctc_heads(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = 3 * torch.randn(2, BATCH, TIME, UNITS, generator=generator)
    found = frame_distillation(teacher, student, FRAMES)
    for b in range(BATCH):
        total = 0.0
        for t in range(FRAMES[b]):
            p, q = (x[b, t].double().softmax(-1).tolist() for x in (teacher, student))
            total += kl(p, q)
        assert found[b].item() == pytest.approx(total, rel=1e-3, abs=1e-5)
