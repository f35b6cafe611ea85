"""Distillation at chosen nodes, against sums over the full lattice and over every alignment.

B utterances, T frames, U labels, U1 = U + 1, S contexts a window, V text units.
"""

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pocketscribe.losses import (
    Nodes,
    adaptive_divergence,
    all_nodes,
    best_path,
    by_occupancy,
    encoder_distillation,
    frame_distillation,
    lattice_distillation,
    lattice_posterior,
    node_log_probs,
    node_logits,
    path_nodes,
    window_nodes,
)
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


def kl_at(teacher: Tensor, student: Tensor, targets: Tensor, b: int, t: int, u: int) -> float:
    """Collapsed divergence at one node, or of whole distributions where `targets` is empty."""
    if not len(targets):
        p, q = (x[b, t, u].double().softmax(-1).tolist() for x in (teacher, student))
        return kl(p, q)
    label = int(targets[b, u]) if u < LABELS[b] else None
    return kl(node(teacher[b, t, u], label), node(student[b, t, u], label))


def distilled(
    teacher: Tensor, student: Tensor, nodes: Nodes, targets: Tensor, classes: str = "collapsed"
) -> Tensor:
    """The loss [B] from whole lattices [B, T, U1, V], of which the nodes are picked."""
    picked = []
    for lattice in (teacher, student):
        rows = lattice[torch.arange(BATCH)[:, None], nodes.time]
        index = nodes.contexts.clamp(max=TARGET)[..., None].expand(-1, -1, -1, UNITS)
        picked.append(node_log_probs(rows.gather(2, index), nodes, targets, LABELS, classes))
    return lattice_distillation(*picked, nodes)


@pytest.mark.parametrize("classes", ["collapsed", "full"])
@given(st.integers(0, 99))
def test_all_nodes_against_the_sum_over_the_lattice(classes: str, seed: int) -> None:
    teacher, student, targets = lattices(seed)
    found = distilled(teacher, student, all_nodes(FRAMES, LABELS), targets, classes)
    asked = targets if classes == "collapsed" else targets[:0]
    for b in range(BATCH):
        total = 0.0
        for t in range(FRAMES[b]):
            nodes = [kl_at(teacher, student, asked, b, t, u) for u in range(LABELS[b] + 1)]
            total += sum(nodes) / len(nodes)
        assert found[b].item() == pytest.approx(total, rel=1e-3, abs=1e-5)


STARTS = torch.tensor([[0, 0, 1, 2, 3], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
OTHERS = torch.tensor([[0, 1, 2, 3, 3], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]])


@pytest.mark.parametrize("union", [False, True])
def test_windows_are_places_of_the_full_lattice(union: bool) -> None:
    """One window a frame, or what either of two windows holds, each node once."""
    teacher, student, targets = lattices(1)
    own, other = (starts[..., None] + torch.arange(2) for starts in (STARTS, OTHERS))
    nodes = window_nodes(own, FRAMES, LABELS, other if union else None)
    found = distilled(teacher, student, nodes, targets)
    for b in range(BATCH):
        total = 0.0
        for t in range(FRAMES[b]):
            places = set(own[b, t].tolist()) | (set(other[b, t].tolist()) if union else set())
            each = [kl_at(teacher, student, targets, b, t, u) for u in places if u <= LABELS[b]]
            total += sum(each) / len(each)
        assert found[b].item() == pytest.approx(total, rel=1e-3, abs=1e-5)


@given(st.integers(0, 99))
def test_by_occupancy_a_node_of_both_windows_counts_once(seed: int) -> None:
    teacher, student, targets = lattices(seed)
    visits = torch.rand(BATCH, TIME, TARGET + 1, generator=torch.Generator().manual_seed(seed)).add(
        0.1
    )
    own, other = (starts[..., None] + torch.arange(2) for starts in (STARTS, OTHERS))
    nodes = by_occupancy(window_nodes(own, FRAMES, LABELS, other), visits)
    found = distilled(teacher, student, nodes, targets)
    for b in range(BATCH):
        total = 0.0
        for t in range(FRAMES[b]):
            places = set(own[b, t].tolist()) | set(other[b, t].tolist())
            passed = {u: visits[b, t, u].item() for u in places if u <= LABELS[b]}
            for u, often in passed.items():
                share = often / sum(passed.values())
                total += share * kl_at(teacher, student, targets, b, t, u)
        assert found[b].item() == pytest.approx(total, rel=1e-3, abs=1e-5)


def alignments(b: int) -> Iterator[list[tuple[int, int]]]:
    """Every alignment of utterance b, as the nodes it passes in order."""
    frames, labels = int(FRAMES[b]), int(LABELS[b])
    for blanks in itertools.combinations(range(frames + labels - 1), labels):
        t = u = 0
        path = [(0, 0)]
        for move in range(frames + labels - 1):  # the last blank leaves the lattice
            t, u = (t, u + 1) if move in blanks else (t + 1, u)
            path.append((t, u))
        yield path


def moves(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of blank [B, T, U1] and label [B, T, U] of a whole lattice."""
    log_probs = logits.double().log_softmax(-1)
    index = targets[:, None, :, None].expand(-1, TIME, -1, 1)
    return log_probs[..., 0], log_probs[:, :, :-1].gather(3, index)[..., 0]


def likelihood(blank: Tensor, label: Tensor, b: int, path: list[tuple[int, int]]) -> float:
    total = blank[b, path[-1][0], path[-1][1]].item()
    for (t, u), (_, then) in itertools.pairwise(path):
        total += (label if then > u else blank)[b, t, u].item()
    return total


@given(st.integers(0, 99))
def test_the_best_path_is_the_likeliest_of_all_alignments(seed: int) -> None:
    teacher, student, targets = lattices(seed)
    blank, label = moves(teacher, targets)
    visited = best_path(blank, label, FRAMES, LABELS)
    nodes = path_nodes(visited)
    found = distilled(teacher, student, nodes, targets)
    for b in range(BATCH):
        best = max(alignments(b), key=lambda path: likelihood(blank, label, b, path))
        assert sorted(best) == [tuple(place) for place in visited[b].nonzero().tolist()]
        total = 0.0
        for t in range(FRAMES[b]):
            here = [u for time, u in best if time == t]
            total += sum(kl_at(teacher, student, targets, b, t, u) for u in here) / len(here)
        assert found[b].item() == pytest.approx(total, rel=1e-3, abs=1e-5)


@given(st.integers(0, 99))
def test_nodes_by_how_often_alignments_pass_them(seed: int) -> None:
    """Occupancies from the sum over every single alignment."""
    teacher, student, targets = lattices(seed)
    blank, label = moves(teacher, targets)
    _, blanks, labels = lattice_posterior(blank, label, FRAMES, LABELS)
    visits = blanks + torch.nn.functional.pad(labels, (0, 1))
    nodes = by_occupancy(all_nodes(FRAMES, LABELS), visits.float())
    found = distilled(teacher, student, nodes, targets)
    for b in range(BATCH):
        passed = {(t, u): 0.0 for t in range(FRAMES[b]) for u in range(LABELS[b] + 1)}
        for path in alignments(b):
            for place in path:
                passed[place] += math.exp(likelihood(blank, label, b, path))
        total = 0.0
        for t in range(FRAMES[b]):
            frame = {u: p for (time, u), p in passed.items() if time == t}
            for u, p in frame.items():
                share = p / sum(frame.values())
                total += share * kl_at(teacher, student, targets, b, t, u)
        assert found[b].item() == pytest.approx(total, rel=1e-3, abs=1e-5)


def test_nodes_are_where_the_joiner_is_asked() -> None:
    """A joiner's logits at chosen nodes are those of its whole lattice there."""
    generator = torch.Generator().manual_seed(4)
    encoder = torch.randn(BATCH, TIME, UNITS, generator=generator)
    predictor = torch.randn(BATCH, TARGET + 1, UNITS, generator=generator)
    whole = encoder[:, :, None] + predictor[:, None]
    teacher, _, targets = lattices(2)
    nodes = path_nodes(best_path(*moves(teacher, targets), FRAMES, LABELS))
    found = node_logits(torch.add, encoder, predictor, nodes)
    for b, n in (nodes.share[..., 0] > 0).nonzero().tolist():
        t, u = int(nodes.time[b, n]), int(nodes.contexts[b, n, 0])
        torch.testing.assert_close(found[b, n, 0], whole[b, t, u])


@given(st.integers(0, 99))
def test_encoders_are_compared_within_the_utterance(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, BATCH, TIME, 6, generator=generator)
    found = encoder_distillation(teacher, student, FRAMES)
    for b in range(BATCH):
        squares = [
            (a - c) ** 2
            for a, c in zip(
                teacher[b, : FRAMES[b]].flatten().tolist(),
                student[b, : FRAMES[b]].flatten().tolist(),
                strict=True,
            )
        ]
        assert found[b].item() == pytest.approx(sum(squares) / 6, rel=1e-4)


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
    targets, one = torch.tensor([[2]]), torch.tensor([1])
    nodes = window_nodes(torch.zeros(1, 1, 1, dtype=torch.long), one, one)
    said = (node_log_probs(x, nodes, targets, one) for x in (teacher, student))
    found = lattice_distillation(*said, nodes)
    found.sum().backward()
    assert found.isfinite().all() and found > 10
    assert student.grad is not None and student.grad.isfinite().all()
    assert student.grad[0, 0, 0, 2] < -0.5  # towards what the teacher is sure of


def test_a_student_sure_of_the_label_where_the_teacher_is_sure_of_another() -> None:
    """The rest has no mass left in the student; it counts as a millionth, not as nothing."""
    teacher, student = torch.full((2, 1, 1, 1, 5), -100.0)
    teacher[..., 3] = student[..., 2] = 100.0
    student.requires_grad_()
    targets, one = torch.tensor([[2]]), torch.tensor([1])
    nodes = window_nodes(torch.zeros(1, 1, 1, dtype=torch.long), one, one)
    said = (node_log_probs(x, nodes, targets, one) for x in (teacher, student))
    found = lattice_distillation(*said, nodes)
    assert found.item() == pytest.approx(math.log(1e6), rel=1e-3)
    found.sum().backward()
    assert student.grad is not None and student.grad.isfinite().all()


def test_its_gradient_teaches() -> None:
    """Steps down the gradient bring the student's collapsed lattice to the teacher's."""
    teacher, student, targets = lattices(3)
    student.requires_grad_()
    nodes = all_nodes(FRAMES, LABELS)
    losses = []
    for _ in range(300):
        loss = distilled(teacher, student, nodes, targets).sum()
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


def test_the_adaptive_divergence() -> None:
    """Against its definition, and its gradient against that of the surrogate, number by number."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        p, x = torch.randn(2, 4, generator=generator).double()
        p = (1.5 * p).softmax(-1)
        x = (1.5 * x).requires_grad_()
        q = x.softmax(-1)
        ratio = (q / p).clamp(max=5)
        values = {1: (p * (p / q).log()).sum(), -1: (q * (ratio - 1)).sum() / 2}
        which = max(values, key=lambda a: values[a].item())
        found = adaptive_divergence(p.log(), x.log_softmax(-1))
        assert found.item() == pytest.approx(values[which].item(), rel=1e-4)
        rho = {1: p / q, -1: 0.5 - ratio}[which].detach()
        (expected,) = torch.autograd.grad(-(q.detach() * rho * x.log_softmax(-1)).sum(), x)
        (slope,) = torch.autograd.grad(found, x)
        torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-6)
    # Certain of the wrong thing, and a class that is nowhere: finite, and not less than KL.
    sure = torch.tensor([-torch.inf, -1e-6, -14.0])
    lost = torch.tensor([-torch.inf, -14.0, -1e-6], requires_grad=True)
    found = adaptive_divergence(sure, lost)
    found.backward()
    assert found.isfinite() and lost.grad.isfinite().all()
    assert found.item() >= divergence(sure, lost.detach()).item() - 1e-3
