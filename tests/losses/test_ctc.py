"""The CTC loss against every path of frames counted one by one.

B utterances, S frames, U labels, V text units.
"""

import itertools
import math

import torch
from torch import Tensor

from pocketscribe.losses import ctc_loss

FRAMES = torch.tensor([5, 4, 3, 2])
LABELS = torch.tensor([3, 2, 0, 2])
TARGETS = torch.tensor([[1, 2, 1], [2, 2, 1], [1, 1, 1], [2, 2, 2]])  # the last one cannot fit


def logits() -> Tensor:
    """`[B, S, V]`, of which frames past an utterance's end are not to matter."""
    return 2 * torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))


def every_path(logits: Tensor, labels: list[int]) -> float:
    """Minus the log of the summed probability of all paths that read as these labels."""
    p = logits.double().softmax(1)
    total = 0.0
    for path in itertools.product(range(p.shape[1]), repeat=len(p)):
        if [unit for unit, _ in itertools.groupby(path) if unit] == labels:
            total += math.prod(p[t, unit].item() for t, unit in enumerate(path))
    return -math.log(total)


def test_it_sums_over_every_path() -> None:
    found = ctc_loss(logits(), TARGETS, FRAMES, LABELS)
    expected = [
        every_path(logits()[b, : FRAMES[b]], TARGETS[b, : LABELS[b]].tolist()) for b in range(3)
    ]
    torch.testing.assert_close(found[:3], torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_labels_that_cannot_fit_count_for_nothing() -> None:
    given = logits().requires_grad_()
    found = ctc_loss(given, TARGETS, FRAMES, LABELS)
    found.sum().backward()
    assert found[3] == 0 and given.grad is not None and not given.grad[3].any()
    assert all(given.grad[b, : FRAMES[b]].any() for b in range(3))
    assert not any(given.grad[b, FRAMES[b] :].any() for b in range(3))


def test_coarse_logits_make_no_coarse_loss() -> None:
    given = logits().bfloat16()
    found = ctc_loss(given, TARGETS, FRAMES, LABELS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, ctc_loss(given.float(), TARGETS, FRAMES, LABELS))
