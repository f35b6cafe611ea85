"""Streaming Conformer encoder (Gulati et al. 2020, arXiv 2005.08100), chunked and causal.

Dimensions: B batch, S encoder frames of the input, P remembered frames, K kernel, D width, H heads.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import model_validator
from torch import Tensor

from pocketscribe.models.blocks import Encoder, EncoderConfig, Mixer, State
from pocketscribe.models.chunks import Chunking, chunk_mask
from pocketscribe.models.rotary import Rotation, rotate, rotation
from pocketscribe.weights import Dim, Weights


class ConformerConfig(EncoderConfig):
    """A Conformer's shape."""

    family: Literal["conformer"] = "conformer"

    @model_validator(mode="after")
    def _check(self) -> "ConformerConfig":
        if self.channels % 2:
            given = "head_width" if self.head_width else "width / heads"
            raise ValueError(f"encoder.{given} = {self.channels} must be even: pairs are rotated")
        return self

    def state_shapes(self, left: int) -> dict[str, tuple[int, ...]]:
        return {
            "keys": (self.layers, left, 2 * self.heads * self.channels),
            "frames": (self.layers, self.kernel - 1, self.width),
            # How many of the `left` remembered frames are real. A float, so that a runtime which
            # only knows float state can carry it.
            "seen": (1,),
        }


class Attention(Mixer):
    """Multi-head self-attention with rotary positions (relative by construction).

    Against Transformer-XL positions, rotary ones need no projection of their own (a d² a layer), no
    biases, and no shift of a [S, S] matrix: cheaper in training and trivial to stream.
    """

    name, memory = "attention", "keys"

    def __init__(self, weights: Weights, name: str, config: ConformerConfig) -> None:
        super().__init__(weights, name, config)
        width, heads = config.residual, Dim(name, config.heads, unit=config.channels)
        self.channels = config.channels
        self.norm = weights.norm(width)
        self.query = weights.linear(f"{name}.query", width, heads)
        self.key = weights.linear(f"{name}.key", width, heads)
        self.value = weights.linear(f"{name}.value", width, heads)
        self.out = weights.linear(f"{name}.out", heads, width)

    def forward(
        self,
        x: Float[Tensor, "B S D"],
        past: Float[Tensor, "B P D2"],
        unseen: Float[Tensor, "B 1 #S PS"],
        turn: Rotation,
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B P D2"]]:
        """`past` holds keys and values side by side; keys are remembered before their rotation.

        `unseen` is added to the scores. It and the scale on the (small) query save three passes
        over the scores, which weigh more than a feed-forward module in a long utterance.
        """
        x = self.norm(x)
        seen = torch.cat([past, torch.cat([self.key(x), self.value(x)], dim=-1)], dim=1)
        key, value = seen.chunk(2, dim=-1)
        query = self._split(self.query(x) * self.channels**-0.5)
        query = rotate(query, turn.last(x.shape[1]))
        key = rotate(self._split(key), turn)
        score = query @ key.transpose(-1, -2) + unseen
        y = score.softmax(dim=-1) @ self._split(value)
        y = self.out(y.transpose(1, 2).flatten(2))
        return y, seen[:, x.shape[1] :]

    def _split(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B H S Dh"]:
        return x.unflatten(-1, (-1, self.channels)).transpose(1, 2)


class Conformer(Encoder):
    """Blocks in which attention mixes frames."""

    mixer = Attention

    def forward(
        self, x: Float[Tensor, "B S D"], frames: Int[Tensor, " B"], chunking: Chunking
    ) -> Float[Tensor, "B S D"]:
        batch, length, _ = x.shape
        state = self.initial_state(batch, 0, x)
        y, _ = self._attended(x, state, chunk_mask(frames, length, chunking))
        return y

    def step(self, x: Float[Tensor, "B S D"], state: State) -> tuple[Tensor, State]:
        left, size = state["keys"].shape[2], x.shape[1]
        age = left - torch.arange(left + size, device=x.device)  # frames before this chunk
        mask = (age <= state["seen"])[:, None, None, :]
        y, new = self._attended(x, state, mask)
        new["seen"] = (state["seen"] + size).clamp(max=left)
        return y, new

    def _attended(
        self, x: Float[Tensor, "B S D"], state: State, mask: Bool[Tensor, "B 1 #S PS"]
    ) -> tuple[Float[Tensor, "B S D"], State]:
        turn = rotation(mask.shape[-1], self.config.channels, x)
        # A finite floor: a padded query that sees nothing must not become NaN.
        unseen = torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, -1e4)
        return self._blocks(x, state, unseen, turn)
