"""Speed and memory of the transducer losses: python benchmarks/transducer_loss.py

Speed: the full loss, forward and backward, beside warprnnt_numba on the same logits in the same
run (skipped where that package is missing). Mind that its CPU path is Python loops over single
numbers, which numba does not compile; only its CUDA path is compiled. The ratio is what a CPU user
of that package would gain, and says nothing of compiled losses.

Memory: the logits and the peak growth of the process, full against pruned, each in a process of
its own. The memory joiner only adds, so that what is counted is what the loss makes of the logits,
not the joiner's layers.

B utterances, T frames, U labels, U1 = U + 1, V text units.
"""

import multiprocessing
import time
from collections.abc import Callable

import torch
import typer
from torch import Tensor

from pocketscribe.evaluation.evaluate import peak_rss_bytes
from pocketscribe.losses import PrunedTransducerLoss, transducer_loss

GIB = 2**30


def problem(batch: int, frames: int, labels: int, units: int) -> tuple[Tensor, Tensor, Tensor]:
    """Targets [B, U], frames [B] and labels [B] of utterances that are all of full length."""
    targets = torch.randint(1, units, (batch, labels))
    return targets, torch.full((batch,), frames), torch.full((batch,), labels)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare_speed(batch: int, frames: int, labels: int, units: int) -> None:
    targets, *lengths = problem(batch, frames, labels, units)
    logits = torch.randn(batch, frames, labels + 1, units, requires_grad=True)

    def ours() -> None:
        logits.grad = None
        transducer_loss(logits, targets, *lengths).sum().backward()

    ours()
    where = f"B{batch} T{frames} U{labels} V{units}, {torch.get_num_threads()} threads"
    print(f"full loss, forward + backward, {where}, best of three")
    try:
        from warprnnt_numba import RNNTLossNumba
    except ImportError:
        print(f"  pocketscribe    {min(seconds(ours) for _ in range(3)):8.4f} s")
        print("  warprnnt_numba  not installed")
        return
    other = RNNTLossNumba(blank=0, reduction="sum")
    whole = [x.int() for x in (targets, *lengths)]

    def theirs() -> None:
        logits.grad = None
        other(logits, *whole).backward()

    # In turns, so that a busy machine is as busy for both.
    times = [(seconds(ours), seconds(theirs)) for _ in range(3)]
    best, other_best = (min(x) for x in zip(*times, strict=True))
    print(f"  pocketscribe    {best:8.4f} s")
    print(f"  warprnnt_numba  {other_best:8.4f} s   {other_best / best:.0f} x as long")


def logits_memory(kind: str, batch: int, frames: int, labels: int, units: int) -> tuple[int, int]:
    """Bytes of the logits, and of the process's growth over forward and backward."""
    targets, *lengths = problem(batch, frames, labels, units)
    encoder = torch.randn(batch, frames, units, requires_grad=True)
    predictor = torch.randn(batch, labels + 1, units, requires_grad=True)
    logits_bytes = 0

    def joiner(encoder: Tensor, predictor: Tensor) -> Tensor:
        nonlocal logits_bytes
        logits = encoder + predictor
        logits_bytes = logits.nbytes
        return logits

    before = peak_rss_bytes()
    if kind == "full":
        logits = joiner(encoder[:, :, None], predictor[:, None])
        transducer_loss(logits, targets, *lengths).sum().backward()
    else:
        losses = PrunedTransducerLoss()(
            encoder, predictor, encoder, predictor, joiner, targets, *lengths
        )
        (losses.simple + losses.pruned).sum().backward()
    return logits_bytes, peak_rss_bytes() - before


def compare_memory(*sizes: int) -> None:
    print("memory, forward + backward, B{} T{} U{} V{}, float32".format(*sizes))
    for kind in ("full", "pruned"):
        # Not "spawn": its processes start with the peak of the one that starts them.
        with multiprocessing.get_context("forkserver").Pool(1) as process:
            logits, peak = process.apply(logits_memory, (kind, *sizes))
        print(f"  {kind:8} logits {logits / GIB:6.3f} GiB   process grew {peak / GIB:6.3f} GiB")


def main(
    speed: tuple[int, int, int, int] = (8, 100, 30, 256),
    memory: tuple[int, int, int, int] = (16, 400, 80, 512),
) -> None:
    """Each takes B, T, U and V."""
    torch.manual_seed(0)
    compare_memory(*memory)
    compare_speed(*speed)


if __name__ == "__main__":
    typer.run(main)
