"""The pruned transducer loss: its simple lattice, its windows, and its limits.

B utterances, T frames, U labels, U1 = U + 1, S contexts a window, V text units, J joiner inputs.
"""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pocketscribe.losses import (
    PrunedTransducerLoss,
    lattice_posterior,
    pruned_loss,
    pruned_scales,
    pruning_bounds,
    simple_lattice,
    transducer_loss,
    window_contexts,
)

BATCH, TIME, TARGET, UNITS, JOINT = 3, 9, 7, 6, 8
FRAMES = torch.tensor([9, 5, 4])
LABELS = torch.tensor([7, 6, 0])


def halves(seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Encoder [B, T, V] and predictor [B, U1, V] logits, and targets."""
    generator = torch.Generator().manual_seed(seed)
    encoder = 2 * torch.randn(BATCH, TIME, UNITS, generator=generator, dtype=dtype)
    predictor = 2 * torch.randn(BATCH, TARGET + 1, UNITS, generator=generator, dtype=dtype)
    targets = torch.randint(1, UNITS, (BATCH, TARGET), generator=generator)
    return encoder.requires_grad_(), predictor.requires_grad_(), targets


def windows_of(encoder: Tensor, predictor: Tensor, targets: Tensor, width: int) -> Tensor:
    blank, label = simple_lattice(encoder, predictor, targets)
    _, *occupancies = lattice_posterior(blank, label, FRAMES, LABELS)
    return pruning_bounds(*occupancies, FRAMES, LABELS, width)


def pick(lattice: Tensor, windows: Tensor, width: int) -> Tensor:
    """Logits [B, T, U1, V] at the windows' contexts: [B, T, S, V]."""
    index = window_contexts(windows, width)[..., None].expand(-1, -1, -1, lattice.shape[3])
    return lattice.gather(2, index)


def inside_windows(logits: Tensor, targets: Tensor, starts: list[int], width: int) -> Tensor:
    """NLL of one utterance, node by node, over paths that never leave the windows."""
    log_probs = logits.log_softmax(2)
    frames, labels = len(starts), len(targets)
    alpha: dict[tuple[int, int], Tensor] = {(0, 0): log_probs.new_zeros(())}
    for t in range(frames):
        for u in range(starts[t], min(starts[t] + width, labels + 1)):
            ways = [alpha[t, u]] if (t, u) in alpha else []
            if (t - 1, u) in alpha:
                ways.append(alpha[t - 1, u] + log_probs[t - 1, u, 0])
            if (t, u - 1) in alpha:
                ways.append(alpha[t, u - 1] + log_probs[t, u - 1, targets[u - 1]])
            if ways:
                alpha[t, u] = torch.stack(ways).logsumexp(0)
    return -(alpha[frames - 1, labels] + log_probs[frames - 1, labels, 0])


def test_simple_lattice_is_softmax_of_the_sum() -> None:
    encoder, predictor, targets = halves(0)
    blank, label = simple_lattice(encoder, predictor, targets, lm_only_scale=0.0)
    log_probs = (encoder[:, :, None] + predictor[:, None]).log_softmax(3)
    torch.testing.assert_close(blank, log_probs[..., 0])
    index = targets[:, None, :, None].expand(-1, TIME, -1, 1)
    torch.testing.assert_close(label, log_probs[:, :, :-1].gather(3, index)[..., 0])


def test_smoothing_blends_in_the_predictor_alone() -> None:
    encoder, predictor, targets = halves(1)
    arguments = (encoder, predictor, targets)
    plain = simple_lattice(*arguments, lm_only_scale=0.0)
    blank, label = simple_lattice(*arguments, lm_only_scale=0.25)
    u, t = 2, 3
    for b in range(BATCH - 1):
        lm = predictor[b, u].log_softmax(0)
        y = targets[b, u]
        for unit, both, blend in ((0, plain[0], blank), (y, plain[1], label)):
            expected = 0.75 * both[b, t, u] + 0.25 * lm[unit]
            torch.testing.assert_close(blend[b, t, u], expected)


def test_simple_lattice_gradients() -> None:
    encoder, predictor, targets = halves(2, torch.float64)
    assert torch.autograd.gradcheck(
        lambda *x: simple_lattice(*x, targets, 0.25), (encoder, predictor)
    )


def test_simple_lattice_survives_halves_that_rule_each_other_out() -> None:
    encoder = torch.tensor([[[200.0, 0.0, 0.0]]], requires_grad=True)
    predictor = torch.tensor([[[0.0, 200.0, 0.0], [0.0, 0.0, 200.0]]], requires_grad=True)
    one = torch.ones(1, dtype=torch.long)
    blank, label = simple_lattice(encoder, predictor, one[:, None])
    (blank.sum() + label.sum()).backward()
    for value in (blank, label, encoder.grad, predictor.grad):
        assert value is not None and value.isfinite().all()


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**31), width=st.integers(2, 6), sharpness=st.sampled_from([0.1, 9.0]))
def test_windows_always_hold_a_path(seed: int, width: int, sharpness: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    time = int(torch.randint(1, 12, (), generator=generator))
    frames = torch.randint(1, time + 1, (4,), generator=generator)
    room = frames * (width - 1)
    labels = (torch.rand(4, generator=generator) * (room + 1)).long()
    nodes = max(int(labels.max()) + 1, width)
    visits = [torch.randn(4, time, n, generator=generator) for n in (nodes, nodes - 1)]
    blank, label = ((sharpness * x).exp() for x in visits)

    windows = pruning_bounds(blank, label, frames, labels, width)

    steps = windows.diff(dim=1)
    assert (windows[:, 0] == 0).all()
    assert (steps >= 0).all() and (steps <= width - 1).all()
    last = windows.gather(1, frames[:, None] - 1)[:, 0]
    assert (last <= labels).all() and (last + width > labels).all()
    assert (windows + width <= nodes).all()


def test_windows_follow_the_occupancies() -> None:
    path = torch.tensor([0, 0, 1, 3, 3, 4, 7, 7, 8, 9])
    visits = torch.nn.functional.one_hot(path, 10).float()[None]
    frames, labels = torch.tensor([10]), torch.tensor([9])
    windows = pruning_bounds(visits, torch.zeros(1, 10, 9), frames, labels, 4)
    assert (windows[0] <= path).all() and (path < windows[0] + 4).all()


def test_windows_follow_labels_as_well_as_blanks() -> None:
    """Six labels in frame 1: their occupancy alone says where the path goes in it."""
    blank, label = torch.zeros(1, 4, 10), torch.zeros(1, 4, 9)
    for t, u in enumerate((0, 6, 6, 9)):
        blank[0, t, u] = 1.0
    label[0, 1, :6] = label[0, 3, 6:] = 1.0
    windows = pruning_bounds(blank, label, torch.tensor([4]), torch.tensor([9]), 5)
    visits = blank + torch.nn.functional.pad(label, (0, 1))
    for t in range(1, 3):
        sums = visits[0, t].unfold(0, 5, 1).sum(1)
        assert sums[windows[0, t]] == sums.max(), t
    deaf = pruning_bounds(blank, 0 * label, torch.tensor([4]), torch.tensor([9]), 5)
    assert not torch.equal(windows, deaf)


def test_windows_that_cannot_reach_the_end_are_refused() -> None:
    frames, labels = torch.tensor([9, 2, 4]), torch.tensor([7, 7, 0])
    occupancies = torch.rand(BATCH, TIME, TARGET + 1), torch.rand(BATCH, TIME, TARGET)
    with pytest.raises(ValueError, match="utterance 1 of the batch has 7 labels in 2 frames"):
        pruning_bounds(*occupancies, frames, labels, 4)


@pytest.mark.parametrize("width", [3, 4, 6])
@pytest.mark.parametrize("seed", range(3))
def test_pruned_loss_sums_the_paths_inside(seed: int, width: int) -> None:
    torch.manual_seed(seed)
    windows = windows_of(*halves(seed), width)
    targets = halves(seed)[2]
    logits = 2 * torch.randn(BATCH, TIME, TARGET + 1, UNITS, dtype=torch.float64)
    logits.requires_grad_()
    expected = torch.stack(
        [
            inside_windows(logits[b], targets[b, :u], windows[b, :t].tolist(), width)
            for b, (t, u) in enumerate(zip(FRAMES.tolist(), LABELS.tolist(), strict=True))
        ]
    )
    (expected_grad,) = torch.autograd.grad(expected.sum(), logits)
    single = logits.detach().float().requires_grad_()
    loss = pruned_loss(pick(single, windows, width), windows, targets, FRAMES, LABELS)
    (grad,) = torch.autograd.grad(loss.sum(), single)
    torch.testing.assert_close(loss, expected.float())
    torch.testing.assert_close(grad, expected_grad.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fastemit", [0.0, 0.2])
def test_pruned_loss_grows_into_the_full_loss(fastemit: float) -> None:
    encoder, predictor, targets = halves(3)
    logits = (encoder[:, :, None] * predictor[:, None]).detach().requires_grad_()
    full = transducer_loss(logits, targets, FRAMES, LABELS, fastemit=fastemit)
    for width in range(3, TARGET + 2):
        windows = windows_of(encoder, predictor, targets, width)
        narrow = pick(logits, windows, width)
        loss = pruned_loss(narrow, windows, targets, FRAMES, LABELS, fastemit=fastemit)
        assert (loss >= full - 1e-4).all(), width
        if width < TARGET:
            assert loss[0] > full[0] + 1e-3, width
    torch.testing.assert_close(loss, full)
    grads = [torch.autograd.grad(x.sum(), logits, retain_graph=True)[0] for x in (loss, full)]
    torch.testing.assert_close(*grads)


class Model:
    """Random projections and a small joiner, to call the whole loss with."""

    def __init__(
        self, seed: int = 0, time: int = TIME, target: int = TARGET, units: int = UNITS
    ) -> None:
        torch.manual_seed(seed)
        self.inputs = [
            torch.randn(BATCH, length, size, requires_grad=True)
            for size in (units, JOINT)
            for length in (time, target + 1)
        ]
        self.targets = torch.randint(1, units, (BATCH, target))
        self.out = torch.nn.Linear(JOINT, units)

    def joiner(self, encoder: Tensor, predictor: Tensor) -> Tensor:
        return self.out((encoder + predictor).tanh())

    def losses(self, loss: PrunedTransducerLoss, *lengths: Tensor) -> Any:
        return loss(*self.inputs, self.joiner, self.targets, *(lengths or (FRAMES, LABELS)))


def test_whole_loss_is_its_parts() -> None:
    model = Model()
    losses = model.losses(PrunedTransducerLoss(width=TARGET + 4))
    encoder_simple, predictor_simple, encoder, predictor = model.inputs
    blank, label = simple_lattice(encoder_simple, predictor_simple, model.targets)
    score = lattice_posterior(blank, label, FRAMES, LABELS)[0]
    torch.testing.assert_close(losses.simple, -score)
    logits = model.joiner(encoder[:, :, None], predictor[:, None])
    full = transducer_loss(logits, model.targets, FRAMES, LABELS)
    torch.testing.assert_close(losses.pruned, full)
    (grad,) = torch.autograd.grad(full.sum(), predictor, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(losses.pruned.sum(), predictor)[0], grad)


def test_padding_changes_nothing_and_gets_no_gradient() -> None:
    small, large = Model(1), Model(2, TIME + 4, TARGET + 3)
    lengths = (FRAMES, LABELS + 1) * 2
    large.out = small.out
    large.targets[:, :TARGET] = small.targets
    with torch.no_grad():
        for sizes, kept, padded in zip(lengths, small.inputs, large.inputs, strict=True):
            for b, size in enumerate(sizes.tolist()):
                padded[b, :size] = kept[b, :size]
    loss = PrunedTransducerLoss(width=3)
    expected, losses = (model.losses(loss) for model in (small, large))
    torch.testing.assert_close(losses.simple, expected.simple)
    torch.testing.assert_close(losses.pruned, expected.pruned)
    assert (losses.contexts[:, :TIME] == expected.contexts).all()
    (losses.simple + losses.pruned).sum().backward()
    for sizes, padded in zip(lengths, large.inputs, strict=True):
        assert padded.grad is not None
        for b, size in enumerate(sizes.tolist()):
            assert (padded.grad[b, size:] == 0).all() and (padded.grad[b, :size] != 0).any()


def test_empty_targets() -> None:
    model, none = Model(3, target=0), torch.zeros_like(LABELS)
    losses = model.losses(PrunedTransducerLoss(), FRAMES, none)
    encoder, predictor = model.inputs[2:]
    logits = model.joiner(encoder[:, :, None], predictor[:, None])
    full = transducer_loss(logits, model.targets, FRAMES, none)
    torch.testing.assert_close(losses.pruned, full)
    assert losses.simple.isfinite().all()


def test_bfloat16_autocast_stays_near_float32() -> None:
    model = Model(4)
    loss = PrunedTransducerLoss(width=4)
    exact = model.losses(loss)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.losses(loss)
    torch.testing.assert_close(losses.simple, exact.simple, rtol=0, atol=0)
    assert losses.pruned.dtype == torch.float32
    torch.testing.assert_close(losses.pruned, exact.pruned, rtol=0.02, atol=0.05)
    (losses.simple + losses.pruned).sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in model.inputs)


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operation's result had memory for."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in filter(torch.is_tensor, tree_leaves(result)):
            stored = leaf.untyped_storage().nbytes() // leaf.element_size()
            self.elements = max(self.elements, stored)
        return result


def test_no_tensor_spans_the_lattice_and_the_units() -> None:
    time, target, units, width = 20, 12, 40, 3
    model = Model(5, time, target, units)
    frames, labels = torch.full((BATCH,), time), torch.full((BATCH,), target)
    with LargestTensor() as pruned:
        losses = model.losses(PrunedTransducerLoss(width=width), frames, labels)
        (losses.simple + losses.pruned).sum().backward()
    assert pruned.elements <= BATCH * time * width * units
    # The same watch does see the lattice where there is one.
    with LargestTensor() as full:
        logits = model.joiner(model.inputs[2][:, :, None], model.inputs[3][:, None])
        transducer_loss(logits, model.targets, frames, labels).sum().backward()
    assert full.elements >= BATCH * time * (target + 1) * units


def test_scales_move_the_weight_to_the_pruned_loss() -> None:
    assert pruned_scales(0.0) == pytest.approx((1.0, 0.1))
    assert pruned_scales(0.5) == pytest.approx((0.75, 0.55))
    assert pruned_scales(1.0) == pruned_scales(7.0) == pytest.approx((0.5, 1.0))
