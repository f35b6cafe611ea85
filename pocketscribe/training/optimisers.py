"""Optimisers (ScaledAdam, AdamW) and learning-rate schedules (Eden, cosine).

ScaledAdam and Eden: Yao et al., 2023, "Zipformer", arXiv 2310.11230. Where the paper and its
authors' code differ we follow the code: momentum is kept on the parameter's *change*, without the
1 / (1 - beta1^t) correction, and a tensor's RMS is measured every fourth step. Ours: the clipping
median rolls over the last 100 steps, and a parameter without a gradient is left alone and keeps its
own step count.

Schedules are pure functions of what has been seen, so resuming a run needs no scheduler state.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.optimizer import ParamsT

from pocketscribe.config import Config

BETA1, BETA2, EPSILON = 0.9, 0.98, 1e-8
MIN_RMS, MAX_RMS = 1e-5, 3.0
SCALAR_RATE = 0.1  # eta in the paper: rate of a tensor's scale, and of scalars, relative to lr
SCALE_PERIOD = 4  # steps between two updates of a tensor's scale
MAX_RESCALE = 0.1  # largest relative change of a tensor's scale in one such update
CLIP_FACTOR, CLIP_WINDOW = 2.0, 100
CLIP_AFTER = 10  # norms needed before their median means anything
SCALE_BETA2 = BETA2**SCALE_PERIOD  # the scale takes one step where the tensor takes SCALE_PERIOD
CHUNK_NUMEL = 1 << 16  # on a CPU: a chunk's five tensors fit in the second-level cache
WARMUP_START = 0.1


class ScaledAdam(Optimizer):
    """Adam whose step is proportional to the RMS of the parameter tensor (arXiv 2310.11230).

    Each tensor is treated as scale x direction. With r the tensor's RMS (at least `MIN_RMS`):

        v     <- beta2 v + (1 - beta2) g^2
        delta <- beta1 delta - (1 - beta1) lr r sqrt(1 - beta2^t) g / (sqrt(v) + eps)
        p     <- p + delta

    and every `SCALE_PERIOD` steps the scale takes an Adam step from h = sum(p g), the gradient with
    respect to the logarithm of the scale; it enters `delta` as (1 - beta1) x rescale x p.
    A tensor of one element has no useful RMS: there the step is plain Adam with lr x `SCALAR_RATE`.

    The gradient is clipped over all groups at `CLIP_FACTOR` x the median norm of the last
    `CLIP_WINDOW` steps, each tensor's norm weighted by its RMS because the update is.
    A tensor that starts at zero moves by `MIN_RMS` at first and needs a few hundred steps to grow.

    `state[p]` holds the tensors "delta", "exp_avg_sq" and "stats"; the last is five numbers: step,
    RMS, running mean of h^2, sum of h and sum of h^2 since the last update of the scale. The norms
    are plain numbers in `param_groups[0]`. Gradients are to be finite: the loop sees to that.
    """

    def __init__(self, params: ParamsT, lr: float = 0.045) -> None:
        super().__init__(params, {"lr": lr})
        self.param_groups[0]["norms"] = []
        if any(p.dtype.itemsize < 4 for group in self.param_groups for p in group["params"]):
            # Step counts and small updates would be rounded away without a trace.
            raise ValueError("ScaledAdam needs float32 parameters; use autocast for less")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        every = [(p, group["lr"]) for group in self.param_groups for p in group["params"]]
        with_lr = [(p, lr) for p, lr in every if p.grad is not None]
        if not with_lr:
            return loss
        params = [p for p, _ in with_lr]
        grads = [p.grad for p in params]
        if new := [p for p in params if p not in self.state]:
            self._initialise(new)

        # Vectors with one number a tensor, until `_update`: cheap next to the tensors themselves.
        lr = torch.tensor([lr for _, lr in with_lr])
        stored = [self.state[p]["stats"] for p in params]
        stats = torch.stack(stored).cpu()
        step, rms, mean_sq, h_sum, h_sq_sum = stats.unbind(1)  # views: writes reach `stats`
        matrix = torch.tensor([p.numel() > 1 for p in params])
        weight = torch.where(matrix, rms, SCALAR_RATE)
        norm = torch.linalg.vector_norm(_norms(grads) * weight).item()
        clip = self._clip(norm)

        step += 1
        h = clip * _dots(params, grads)
        h_sum += h
        h_sq_sum += h * h
        rescale: list[float] = []
        due = step % SCALE_PERIOD == 0
        if due.any():
            rms.copy_(torch.where(due, _rms(params), rms))
            new_mean = mean_sq.lerp(h_sq_sum / SCALE_PERIOD, 1 - SCALE_BETA2)
            mean_sq.copy_(torch.where(due, new_mean, mean_sq))
            change = _rescale(lr, step, rms, mean_sq, h_sum)
            rescale = ((1 - BETA1) * change * (due & matrix)).tolist()
            h_sum.masked_fill_(due, 0)
            h_sq_sum.masked_fill_(due, 0)

        size = torch.where(matrix, rms.clamp(min=MIN_RMS), SCALAR_RATE)
        rate = -(1 - BETA1) * lr * size * (1 - BETA2**step).sqrt() * clip
        self._update(params, grads, rate.tolist(), rescale, clip)
        torch._foreach_copy_(stored, list(stats.to(stored[0].device).unbind()))  # one transfer
        return loss

    def _initialise(self, params: list[Tensor]) -> None:
        for p, rms in zip(params, _rms(params).tolist(), strict=True):
            self.state[p] = {
                "delta": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
                "stats": p.new_tensor([0.0, rms, 0.0, 0.0, 0.0]),
            }

    def _clip(self, norm: float) -> float:
        """Remember this step's norm; return the factor (at most 1) to multiply the gradient by."""
        group = self.param_groups[0]
        norms = group["norms"]
        # A new list, so that a state_dict taken earlier keeps the history of its own moment.
        group["norms"] = [*norms, norm][-CLIP_WINDOW:]
        if len(norms) < CLIP_AFTER:
            return 1.0
        limit = CLIP_FACTOR * statistics.median(norms)
        return limit / norm if 0 < limit < norm else 1.0

    def _update(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        rate: list[float],
        rescale: list[float],
        clip: float,
    ) -> None:
        """Update moments and parameters, chunk by chunk; `rescale` is empty when none is due."""
        for chunk in _chunks(params):
            p, g = params[chunk], grads[chunk]
            delta = [self.state[x]["delta"] for x in p]
            exp_avg_sq = [self.state[x]["exp_avg_sq"] for x in p]
            # The gradient is never multiplied by `clip`: that would be one more pass, in place.
            torch._foreach_mul_(exp_avg_sq, BETA2)
            torch._foreach_addcmul_(exp_avg_sq, g, g, (1 - BETA2) * clip**2)
            denominator = torch._foreach_sqrt(exp_avg_sq)
            torch._foreach_add_(denominator, EPSILON)
            torch._foreach_mul_(delta, BETA1)
            if rescale:
                torch._foreach_add_(delta, torch._foreach_mul(p, rescale[chunk]))
            torch._foreach_addcdiv_(delta, g, denominator, rate[chunk])
            torch._foreach_add_(p, delta)


def _rescale(lr: Tensor, step: Tensor, rms: Tensor, mean_sq: Tensor, h_sum: Tensor) -> Tensor:
    """Relative change of each tensor's scale: an Adam step on the logarithm of the scale."""
    correction = (1 - SCALE_BETA2 ** (step / SCALE_PERIOD)).sqrt()
    change = -SCALAR_RATE * lr * correction * h_sum / (mean_sq.sqrt() + EPSILON)
    change = change.masked_fill(rms < MIN_RMS, 0).clamp(-MAX_RESCALE, MAX_RESCALE)
    return change.minimum(MAX_RMS / rms - 1)


def _norms(tensors: list[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(tensors)).cpu()


def _rms(params: list[Tensor]) -> Tensor:
    return _norms(params) / torch.tensor([p.numel() for p in params]).sqrt()


def _dots(params: list[Tensor], grads: list[Tensor]) -> Tensor:
    pairs = zip(params, grads, strict=True)
    return torch.stack([torch.dot(p.flatten(), g.flatten()) for p, g in pairs]).cpu()


def _chunks(params: list[Tensor]) -> Iterator[slice]:
    """Cut the list into cache-sized runs; on an accelerator calls cost more than memory traffic."""
    start = numel = 0
    for i, p in enumerate(params):
        numel += p.numel()
        if numel >= CHUNK_NUMEL and p.device.type == "cpu":
            yield slice(start, i + 1)
            start, numel = i + 1, 0
    if start < len(params):
        yield slice(start, len(params))


def eden_factor(
    step: int,
    audio_seconds: float,
    epochs: float,
    *,
    warmup_steps: int = 500,
    batches: float = 7500,
    epoch_scale: float = 3.5,
    reference_seconds: float = 600,
) -> float:
    """Eden (arXiv 2310.11230): the factor on the base rate after `step` finished steps.

    Ours: decay counts audio, in batches of `reference_seconds`, so that many small batches do as
    few large ones; warm-up lets the running means settle and so counts true steps.
    """
    b, e = audio_seconds / reference_seconds, epochs
    decay = ((b / batches) ** 2 + 1) ** -0.25 * ((e / epoch_scale) ** 2 + 1) ** -0.25
    return decay * _warmup(step, warmup_steps)


def cosine_factor(
    step: int, progress: float, *, warmup_steps: int = 500, floor: float = 0.02
) -> float:
    """Half a cosine from 1 down to `floor` over the run, times a linear warm-up over true steps.

    `progress` is the share of the run that is done; past 1 the factor stays at the floor.
    """
    decay = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return decay * _warmup(step, warmup_steps)


def _warmup(done: int, length: int) -> float:
    return WARMUP_START + (1 - WARMUP_START) * done / length if done < length else 1.0


class OptimiserConfig(Config):
    """An optimiser and its schedule.

    Attributes:
        lr: the rate that the schedule multiplies; None is the kind's default.
        schedule: "cosine" ends near zero when the run ends, which suits runs of a known length;
            "eden" only depends on what has been heard, which suits runs that may go on.
        warmup_steps: steps over which the rate rises to its full height.
        eden_batches, eden_epochs, reference_seconds: Eden's B and E, and the audio of one of its
            batches.
        weight_decay: AdamW's, on matrices alone.
    """

    kind: Literal["scaled_adam", "adamw"] = "scaled_adam"
    lr: float | None = Field(default=None, gt=0)
    schedule: Literal["cosine", "eden"] = "cosine"
    warmup_steps: int = Field(default=500, ge=0)
    eden_batches: float = Field(default=7500, gt=0)
    eden_epochs: float = Field(default=3.5, gt=0)
    reference_seconds: float = Field(default=600, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)

    @property
    def base_lr(self) -> float:
        """The rate that `lr_factor` multiplies."""
        return self.lr or {"scaled_adam": 0.045, "adamw": 1e-3}[self.kind]


def build_optimiser(
    config: OptimiserConfig, named_parameters: Iterable[tuple[str, nn.Parameter]]
) -> Optimizer:
    """An optimiser over the parameters that require a gradient."""
    params = [p for _, p in named_parameters if p.requires_grad]
    if config.kind == "scaled_adam":
        return ScaledAdam(params, lr=config.base_lr)
    # Norms, biases and scales are not pulled towards zero: for them zero is not a simpler value.
    groups = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
    ]
    # Fused is about four times as fast as foreach on a CPU.
    return AdamW(groups, lr=config.base_lr, betas=(BETA1, BETA2), fused=True)


def lr_factor(
    config: OptimiserConfig, *, step: int, audio_seconds: float, epochs: float, progress: float
) -> float:
    """What to multiply `config.base_lr` by before the step that follows `step` finished ones."""
    if config.schedule == "cosine":
        return cosine_factor(step, progress, warmup_steps=config.warmup_steps)
    return eden_factor(
        step,
        audio_seconds,
        epochs,
        warmup_steps=config.warmup_steps,
        batches=config.eden_batches,
        epoch_scale=config.eden_epochs,
        reference_seconds=config.reference_seconds,
    )
