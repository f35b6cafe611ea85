"""Streaming Conformer encoder (Gulati et al. 2020, arXiv 2005.08100), chunked and causal.

One forward serves training and streaming: a block takes what it remembers of the past (nothing but
zeros in training) and gives back what it will remember.

Dimensions: B batch, S encoder frames of the input, P remembered frames, K kernel, D width, H heads.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from pocketscribe.config import Config
from pocketscribe.models.chunks import Chunking, chunk_mask
from pocketscribe.models.dropout import Dropout
from pocketscribe.models.rotary import Rotation, rotate, rotation
from pocketscribe.weights import Weights

State = dict[str, Tensor]


class ConformerConfig(Config):
    """A Conformer's shape.

    Attributes:
        ffn: width of a feed-forward module's inside, as a multiple of `width`.
        kernel: taps of the depthwise convolution, all in the past.
    """

    family: Literal["conformer"] = "conformer"
    width: int = Field(default=176, gt=0, le=4096)
    layers: int = Field(default=6, gt=0, le=256)
    heads: int = Field(default=4, gt=0, le=256)
    kernel: int = Field(default=15, ge=2, le=256)
    ffn: int = Field(default=4, gt=0, le=16)
    dropout: float = Field(default=0.1, ge=0, lt=0.9)

    @model_validator(mode="after")
    def _check(self) -> "ConformerConfig":
        if self.width % (2 * self.heads):
            raise ValueError(
                f"encoder.width = {self.width} must be a multiple of 2 x heads = {2 * self.heads}"
            )
        return self


class FeedForward(nn.Module):
    def __init__(self, weights: Weights, name: str, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = weights.linear(f"{name}.up", width, inner)
        self.down = weights.linear(f"{name}.down", inner, width)

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        return self.down(F.silu(self.up(self.norm(x))))


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions (relative by construction).

    Against Transformer-XL positions, rotary ones need no projection of their own (a d² a layer), no
    biases, and no shift of a [S, S] matrix: cheaper in training and trivial to stream.
    """

    def __init__(self, weights: Weights, name: str, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = weights.linear(f"{name}.query", width, width)
        self.key = weights.linear(f"{name}.key", width, width)
        self.value = weights.linear(f"{name}.value", width, width)
        self.out = weights.linear(f"{name}.out", width, width)

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
        query = self._split(self.query(x) * (x.shape[-1] // self.heads) ** -0.5)
        query = rotate(query, turn.last(x.shape[1]))
        key = rotate(self._split(key), turn)
        score = query @ key.transpose(-1, -2) + unseen
        y = score.softmax(dim=-1) @ self._split(value)
        y = self.out(y.transpose(1, 2).flatten(2))
        return y, seen[:, x.shape[1] :]

    def _split(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B H S Dh"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Convolution(nn.Module):
    """Pointwise 2d -> GLU -> causal depthwise -> LayerNorm -> SiLU -> pointwise d."""

    def __init__(self, weights: Weights, name: str, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        # Two maps, not the halves of one: each half then shares, slices and shrinks by itself.
        self.value = weights.linear(f"{name}.value", width, width)
        self.gate = weights.linear(f"{name}.gate", width, width)
        self.depthwise = weights.depthwise(f"{name}.depthwise", width, kernel)
        self.inner_norm = nn.LayerNorm(width)
        self.out = weights.linear(f"{name}.out", width, width)

    def forward(
        self, x: Float[Tensor, "B S D"], past: Float[Tensor, "B K1 D"]
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B K1 D"]]:
        x = self.norm(x)
        seen = torch.cat([past, self.value(x) * self.gate(x).sigmoid()], dim=1)
        y = F.silu(self.inner_norm(self.depthwise(seen)))
        return self.out(y), seen[:, x.shape[1] :]


class Block(nn.Module):
    """x += ½FFN; x += attention; x += convolution; x += ½FFN; norm."""

    def __init__(self, weights: Weights, name: str, config: ConformerConfig) -> None:
        super().__init__()
        width, inner = config.width, config.width * config.ffn
        self.ffn1 = FeedForward(weights, f"{name}.ffn1", width, inner)
        self.attention = Attention(weights, f"{name}.attention", width, config.heads)
        self.convolution = Convolution(weights, f"{name}.convolution", width, config.kernel)
        self.ffn2 = FeedForward(weights, f"{name}.ffn2", width, inner)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B S D"],
        keys: Float[Tensor, "B P D2"],
        frames: Float[Tensor, "B K1 D"],
        unseen: Float[Tensor, "B 1 #S PS"],
        turn: Rotation,
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B P D2"], Float[Tensor, "B K1 D"]]:
        x = torch.add(x, self.dropout(self.ffn1(x)), alpha=0.5)
        y, keys = self.attention(x, keys, unseen, turn)
        x = x + self.dropout(y)
        y, frames = self.convolution(x, frames)
        x = x + self.dropout(y)
        x = torch.add(x, self.dropout(self.ffn2(x)), alpha=0.5)
        return self.norm(x), keys, frames


class Conformer(nn.Module):
    """A stack of blocks. Every encoder family offers `forward`, `initial_state` and `step`."""

    def __init__(self, weights: Weights, name: str, config: ConformerConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(
            Block(weights, f"{name}.blocks.{i}", config) for i in range(config.layers)
        )

    def forward(
        self, x: Float[Tensor, "B S D"], frames: Int[Tensor, " B"], chunking: Chunking
    ) -> Float[Tensor, "B S D"]:
        """Whole utterances at once; `frames` are their lengths. Equals `step` chunk by chunk."""
        batch, length, _ = x.shape
        state = self.initial_state(batch, 0, x)
        mask = chunk_mask(frames, length, chunking)
        y, _ = self._blocks(x, state, mask)
        return y

    def initial_state(self, batch: int, left: int, like: Tensor) -> State:
        """Zeros: what is remembered before the first frame, for `left` frames of left context."""
        c = self.config
        return {
            "keys": like.new_zeros(batch, c.layers, left, 2 * c.width),
            "frames": like.new_zeros(batch, c.layers, c.kernel - 1, c.width),
            # How many of the `left` remembered frames are real. A float, so that a runtime which
            # only knows float state can carry it.
            "seen": like.new_zeros(batch, 1),
        }

    def step(self, x: Float[Tensor, "B S D"], state: State) -> tuple[Tensor, State]:
        """One chunk of S frames -> [B, S, D] and the new state."""
        left, size = state["keys"].shape[2], x.shape[1]
        age = left - torch.arange(left + size, device=x.device)  # frames before this chunk
        mask = (age <= state["seen"])[:, None, None, :]
        y, new = self._blocks(x, state, mask)
        new["seen"] = (state["seen"] + size).clamp(max=left)
        return y, new

    def _blocks(
        self, x: Float[Tensor, "B S D"], state: State, mask: Bool[Tensor, "B 1 #S PS"]
    ) -> tuple[Float[Tensor, "B S D"], State]:
        turn = rotation(mask.shape[-1], self.config.width // self.config.heads, x)
        # A finite floor: a padded query that sees nothing must not become NaN.
        unseen = torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, -1e4)
        all_keys, all_frames = [], []
        for i, block in enumerate(self.blocks):
            x, keys, frames = block(x, state["keys"][:, i], state["frames"][:, i], unseen, turn)
            all_keys.append(keys)
            all_frames.append(frames)
        return x, {"keys": torch.stack(all_keys, 1), "frames": torch.stack(all_frames, 1)}
