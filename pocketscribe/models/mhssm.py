"""MH-SSM encoder: multi-head state spaces in the place of attention (TODM, arXiv 2309.01947).

A head is a diagonal state space, S4D (Gu et al. 2022, arXiv 2206.11893). Training convolves whole
utterances by FFT; streaming runs the recurrence from chunk to chunk. Both give the same numbers, so
the chunk size changes nothing but the delay, and what is remembered never grows.

Dimensions: B batch, S encoder frames of the input, T times, D width, H heads, P = D / H channels of
a head, N modes.
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pocketscribe.models.blocks import Delay, Encoder, EncoderConfig, Mixer, State
from pocketscribe.models.chunks import Chunking
from pocketscribe.weights import Dim, Weights

STEPS = (1e-3, 1e-1)  # time steps at the start: memories of 2,000 and of 20 frames
MIDDLE = 1e-2  # a time step's logarithm is relative to this


class MHSSMConfig(EncoderConfig):
    """The shape of an encoder with state spaces.

    Attributes:
        heads: state spaces of a layer, each with its own dynamics.
        modes: decaying oscillations (complex numbers) that each channel remembers.
        delay: no chunk lets a frame hear a later one here, as attention does; without a delay words
            are begun before they can be told apart (docs/training.md).
    """

    family: Literal["mhssm"] = "mhssm"
    heads: int = Field(default=8, gt=0, le=256)
    modes: int = Field(default=16, gt=0, le=256)
    delay: Delay = 8

    def state_shapes(self, left: int) -> dict[str, tuple[int, ...]]:
        return {
            "modes": (self.layers, self.heads, 2, self.modes, self.channels),
            "frames": (self.layers, self.kernel - 1, self.width),
        }


class StateSpace(nn.Module):
    """H heads of S4D, of P channels each:

        s_t = λ s_(t-1) + u_t      λ = exp(dt A)      A_n = -exp(log_decay_n) + iπn
        y_t = 2 Re(Σ_n C_n (λ_n - 1)/A_n s_t,n) + D u_t

    The channels of a head share its dynamics, dt and A; each has a state, C and D of its own. (S4D
    gives each channel its own dt and A. Sharing them is ours: heads are there to differ in their
    dynamics, arXiv 2305.12498, and the powers of λ are then few enough for matrix products.)

    Complex numbers are pairs of real ones throughout but in the FFT: runtimes know no others.
    """

    # Small errors in these grow with time; they are stored in float32 where others need only 16.
    precise = ("log_decay", "log_step")

    def __init__(self, heads: int, channels: int, modes: int) -> None:
        super().__init__()
        self.heads = heads
        # Log-uniform, a head in each part of the range; in no order, for any heads may be left out.
        part = (torch.randperm(heads) + torch.rand(heads)) / heads
        shortest, longest = (math.log(step / MIDDLE) for step in STEPS)
        self.log_step = nn.Parameter(shortest + part * (longest - shortest))
        self.log_decay = nn.Parameter(torch.full((heads, modes), math.log(0.5)))
        self.read = nn.Parameter(torch.randn(heads, channels, modes, 2) * 0.5**0.5)  # C
        self.skip = nn.Parameter(torch.ones(heads, channels))  # D

    def convolve(
        self, u: Float[Tensor, "B S D"], valid: Bool[Tensor, "B S"]
    ) -> Float[Tensor, "B S D"]:
        """Whole utterances from a state of zeros, in float32 or more whatever autocast says.

        Padding is left out, for an FFT rounds all of an utterance alike.
        """
        with torch.autocast(u.device.type, enabled=False):
            x = u.to(torch.promote_types(u.dtype, torch.float32)) * valid.unsqueeze(-1)
            length = x.shape[1]
            size = _fast_length(2 * length)  # no end meets its beginning
            powers = self._powers(length)
            kernel = _response(powers[..., :-1], self._readout(powers[..., 1]))
            kernel = kernel.transpose(0, 1).flatten(1)  # [S, D]
            product = torch.fft.rfft(x, size, dim=1) * torch.fft.rfft(kernel, size, dim=0)
            y = torch.fft.irfft(product, size, dim=1)[:, :length]
            return (y + x * self.skip.flatten()).to(u.dtype)

    def scan(
        self, u: Float[Tensor, "B S D"], past: Float[Tensor, "B H 2 N P"]
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B H 2 N P"]]:
        """A chunk from a state of the past -> its outputs and the state after it.

        With S frames from 1 to S, s_S = λ^S s_0 + Σ_j λ^(S-j) u_j, and an output is what remains of
        s_0 by then and a convolution within the chunk: matrix products all, and no loop.
        """
        length = u.shape[1]
        powers = self._powers(length)
        since, until = powers[..., 1:], powers[..., :-1].flip(-1)
        read = self._readout(powers[..., 1])
        new = until.flatten(1, 2) @ u.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        new = new.unflatten(2, (2, -1)) + _times(since[..., -1:], past)
        # Conjugates: a product with powers of λ then sums up the real part alone.
        left = _times(read, past * past.new_tensor([1.0, -1.0])[:, None, None])
        y = since.flatten(1, 2).mT @ left.flatten(2, 3)
        y = y.transpose(1, 2).flatten(2)  # [B, S, D]
        kernel = _response(until, read).mT.flatten(0, 1)  # [D, S], the last tap on the frame itself
        seen = F.pad(u.mT, (length - 1, 0))
        within = F.conv1d(seen, kernel.unsqueeze(1), groups=kernel.shape[0]).mT
        return y + within + u * self.skip.flatten(), new

    def _rates(self) -> tuple[Tensor, Tensor, Tensor]:
        """Time steps dt `[H, 1]`; of A, what decays `[H, N]` and what turns `[N]`."""
        modes = self.log_decay.shape[1]
        turn = math.pi * torch.arange(modes, device=self.log_step.device).to(self.log_step.dtype)
        return MIDDLE * self.log_step.exp().unsqueeze(1), self.log_decay.exp(), turn

    def _powers(self, last: int) -> Float[Tensor, "H 2 N T"]:
        """λ^0 … λ^last, each from its own exponent: products would err more with each chunk."""
        step, decay, turn = self._rates()
        times = torch.arange(last + 1, device=step.device).to(step.dtype)
        size = torch.exp(-(step * decay).unsqueeze(-1) * times)
        angle = (step * turn).unsqueeze(-1) * times
        return torch.stack([size * angle.cos(), size * angle.sin()], dim=1)

    def _readout(self, power: Float[Tensor, "H 2 N"]) -> Float[Tensor, "H 2 N P"]:
        """The conjugate of 2 C (λ - 1)/A, from λ."""
        _, decay, turn = self._rates()
        real, imaginary = power[:, 0] - 1, power[:, 1]
        scale = 2 / (decay.square() + turn.square())  # 2/A is scale times A's conjugate
        held = [imaginary * turn - real * decay, imaginary * decay + real * turn]
        conjugate = torch.stack([part * scale for part in held], dim=1).unsqueeze(-1)
        c_real, c_imaginary = self.read[..., 0].mT, self.read[..., 1].mT
        return _times(conjugate, torch.stack([c_real, -c_imaginary], dim=1))


def _response(
    powers: Float[Tensor, "H 2 N T"], read: Float[Tensor, "H 2 N P"]
) -> Float[Tensor, "H T P"]:
    """What is heard, but for D, of a one that came as long ago as the powers say."""
    return powers.flatten(1, 2).mT @ read.flatten(1, 2)


def _times(
    a: Float[Tensor, "*#B 2 N #P"], b: Float[Tensor, "*#B 2 N P"]
) -> Float[Tensor, "*#B 2 N P"]:
    """A product of complex numbers."""
    a_real, a_imaginary = a[..., 0, :, :], a[..., 1, :, :]
    b_real, b_imaginary = b[..., 0, :, :], b[..., 1, :, :]
    real = a_real * b_real - a_imaginary * b_imaginary
    return torch.stack([real, a_real * b_imaginary + a_imaginary * b_real], dim=-3)


def _fast_length(least: int) -> int:
    """The first power of two, or three quarters of one: an FFT's favourite lengths."""
    power = 1 << (least - 1).bit_length()
    return power * 3 // 4 if power * 3 // 4 >= least else power


class GatedStateSpace(Mixer):
    """Norm -> map -> state spaces, times a gate -> map that combines the heads."""

    name, memory = "ssm", "modes"

    def __init__(self, weights: Weights, name: str, config: MHSSMConfig) -> None:
        super().__init__(weights, name, config)
        width, heads = config.residual, Dim(name, config.heads, unit=config.channels)
        self.norm = weights.norm(width)
        self.value = weights.linear(f"{name}.value", width, heads)
        self.gate = weights.linear(f"{name}.gate", width, heads)
        self.state_space = StateSpace(config.heads, config.channels, config.modes)
        self.out = weights.linear(f"{name}.out", heads, width)
        each = Dim(name, config.heads)
        weights.dims.add(
            self.state_space,
            log_step=(each,),
            log_decay=(each, config.modes),
            read=(each, config.channels, config.modes, 2),
            skip=(each, config.channels),
        )

    def forward(
        self,
        x: Float[Tensor, "B S D"],
        past: Float[Tensor, "B H 2 N P"],
        valid: Bool[Tensor, "B S"] | None,
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B H 2 N P"]]:
        """`valid` marks whole utterances' frames, not padding; None: x is a chunk after `past`."""
        x = self.norm(x)
        u = self.value(x)
        if valid is None:
            y, past = self.state_space.scan(u, past)
        else:
            y = self.state_space.convolve(u, valid)
        return self.out(y * F.silu(self.gate(x))), past


class MHSSM(Encoder):
    """Blocks in which state spaces mix frames."""

    mixer = GatedStateSpace

    def forward(
        self, x: Float[Tensor, "B S D"], frames: Int[Tensor, " B"], chunking: Chunking
    ) -> Float[Tensor, "B S D"]:
        """The same under any chunking: no frame hears a later one."""
        valid = torch.arange(x.shape[1], device=x.device) < frames.unsqueeze(1)
        y, _ = self._blocks(x, self.initial_state(x.shape[0], 0, x), valid)
        return y

    def step(self, x: Float[Tensor, "B S D"], state: State) -> tuple[Tensor, State]:
        return self._blocks(x, state, None)
