"""What encoder families have in common: a stack of blocks, of which one module mixes frames.

One forward serves training and streaming: a block takes what it remembers of the past (nothing but
zeros in training) and gives back what it will remember.

Dimensions: B batch, S encoder frames of the input, K kernel, D width.
"""

from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from pocketscribe.config import Config
from pocketscribe.models.chunks import TAIL, Chunking
from pocketscribe.models.dropout import Dropout
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.weights import Dim, Weights

State = dict[str, Tensor]
Inside = Annotated[int, Field(gt=0, le=2**16)]
Delay = Annotated[int, Field(ge=0, le=TAIL // FACTOR)]  # the silence after speech has to hold it


class EncoderConfig(Config):
    """What every family's shape has; a family adds its own.

    Attributes:
        family: a literal of each family, which tells its config from the others'.
        width: channels of a frame between modules, in every layer.
        heads: parts of a layer that look at the past independently, `head_width` channels each: as
            many as make up the width if not given.
        kernel: taps of the depthwise convolution, all in the past.
        ffn: width of a feed-forward module's inside, as a multiple of `width`.
        inner: that width itself, of each layer; width x ffn if not given.
        dropout: rate after each module, in training alone.
        delay: frames (40 ms) by which training lets an output come after what it is of, so that it
            has heard so much more (training/delay.py). A runtime decodes outputs as they come.
    """

    family: str
    width: int = Field(default=176, gt=0, le=4096)
    layers: int = Field(default=6, gt=0, le=256)
    heads: int = Field(default=4, gt=0, le=256)
    head_width: int | None = Field(default=None, gt=0, le=4096)
    kernel: int = Field(default=15, ge=2, le=256)
    ffn: int = Field(default=4, gt=0, le=16)
    # Not strict: the family is told from plain data, in which an array is no tuple.
    inner: Annotated[tuple[Inside, ...], Field(strict=False, max_length=256)] | None = None
    dropout: float = Field(default=0.1, ge=0, lt=0.9)
    delay: Delay = 0

    @model_validator(mode="after")
    def _heads(self) -> "EncoderConfig":
        if self.head_width is None and self.width % self.heads:
            raise ValueError(
                f"encoder.width = {self.width} must be a multiple of heads = {self.heads}, or "
                "encoder.head_width given"
            )
        if self.inner is not None and len(self.inner) != self.layers:
            raise ValueError(
                f"encoder.inner has {len(self.inner)} widths for encoder.layers = {self.layers}"
            )
        return self

    @property
    def residual(self) -> Dim:
        """The width, which all layers and both heads have in common."""
        return Dim("width", self.width)

    @property
    def channels(self) -> int:
        """Channels of a head."""
        return self.head_width or self.width // self.heads

    @property
    def insides(self) -> tuple[int, ...]:
        """Width of the feed-forward modules' insides, layer by layer."""
        return self.inner or (self.width * self.ffn,) * self.layers

    def state_shapes(self, left: int) -> dict[str, tuple[int, ...]]:
        """What one stream remembers between chunks, with `left` frames of left context."""
        raise NotImplementedError


class Mixer(nn.Module):
    """In which a frame learns of frames before it; a family has one of its own.

    Attributes:
        name: what the module is called within a block.
        memory: the state that it remembers, by its name in `EncoderConfig.state_shapes`.
    """

    name: ClassVar[str]
    memory: ClassVar[str]

    def __init__(self, weights: Weights, name: str, config: Any) -> None:
        super().__init__()

    def forward(
        self, x: Float[Tensor, "B S D"], past: Float[Tensor, "B ..."], *told: Any
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B ..."]]:
        """Frames, and what is remembered before and after them."""
        raise NotImplementedError


class FeedForward(nn.Module):
    def __init__(self, weights: Weights, name: str, config: EncoderConfig, inside: int) -> None:
        super().__init__()
        width, inner = config.residual, Dim(name, inside)
        self.norm = weights.norm(width)
        self.up = weights.linear(f"{name}.up", width, inner)
        self.down = weights.linear(f"{name}.down", inner, width)

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        return self.down(F.silu(self.up(self.norm(x))))


class Convolution(nn.Module):
    """Pointwise 2d -> GLU -> causal depthwise -> LayerNorm -> SiLU -> pointwise d."""

    def __init__(self, weights: Weights, name: str, config: EncoderConfig) -> None:
        super().__init__()
        width, inner = config.residual, Dim(name, config.width)
        self.norm = weights.norm(width)
        # Two maps, not the halves of one: each half then shares, slices and shrinks by itself.
        self.value = weights.linear(f"{name}.value", width, inner)
        self.gate = weights.linear(f"{name}.gate", width, inner)
        self.depthwise = weights.depthwise(f"{name}.depthwise", inner, config.kernel)
        self.inner_norm = weights.norm(inner)
        self.out = weights.linear(f"{name}.out", inner, width)

    def forward(
        self, x: Float[Tensor, "B S D"], past: Float[Tensor, "B K1 D"]
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B K1 D"]]:
        x = self.norm(x)
        seen = torch.cat([past, self.value(x) * self.gate(x).sigmoid()], dim=1)
        y = F.silu(self.inner_norm(self.depthwise(seen)))
        return self.out(y), seen[:, x.shape[1] :]


class Block(nn.Module):
    """x += ½FFN; x += mixer; x += convolution; x += ½FFN; norm."""

    def __init__(
        self, weights: Weights, name: str, config: EncoderConfig, layer: int, mixer: type[Mixer]
    ) -> None:
        super().__init__()
        self.mixer_name = mixer.name
        inside = config.insides[layer]
        self.ffn1 = FeedForward(weights, f"{name}.ffn1", config, inside)
        self.add_module(mixer.name, mixer(weights, f"{name}.{mixer.name}", config))
        self.convolution = Convolution(weights, f"{name}.convolution", config)
        self.ffn2 = FeedForward(weights, f"{name}.ffn2", config, inside)
        self.norm = weights.norm(config.residual)
        # One for each kind of module: in a sub-network they need not drop alike.
        self.ffn_dropout = Dropout(config.dropout)
        self.mixer_dropout = Dropout(config.dropout)
        self.convolution_dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B S D"],
        memory: Float[Tensor, "B ..."],
        frames: Float[Tensor, "B K1 D"],
        *told: object,
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B ..."], Float[Tensor, "B K1 D"]]:
        """`told` is what the encoder tells the mixer of the whole input."""
        x = torch.add(x, self.ffn_dropout(self.ffn1(x)), alpha=0.5)
        y, memory = getattr(self, self.mixer_name)(x, memory, *told)
        x = x + self.mixer_dropout(y)
        y, frames = self.convolution(x, frames)
        x = x + self.convolution_dropout(y)
        x = torch.add(x, self.ffn_dropout(self.ffn2(x)), alpha=0.5)
        return self.norm(x), memory, frames


class Encoder(nn.Module):
    """A stack of blocks. A family is a subclass with its `mixer`, `forward` and `step`."""

    mixer: ClassVar[type[Mixer]]

    def __init__(self, weights: Weights, name: str, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(
            Block(weights, f"{name}.blocks.{i}", config, i, self.mixer)
            for i in range(config.layers)
        )

    def forward(
        self, x: Float[Tensor, "B S D"], frames: Int[Tensor, " B"], chunking: Chunking
    ) -> Float[Tensor, "B S D"]:
        """Whole utterances at once; `frames` are their lengths. Equals `step` chunk by chunk."""
        raise NotImplementedError

    def initial_state(self, batch: int, left: int, like: Tensor) -> State:
        """Zeros: what is remembered before the first frame, for `left` frames of left context."""
        shapes = self.config.state_shapes(left).items()
        return {name: like.new_zeros(batch, *shape) for name, shape in shapes}

    def step(self, x: Float[Tensor, "B S D"], state: State) -> tuple[Tensor, State]:
        """One chunk of S frames -> [B, S, D] and the new state."""
        raise NotImplementedError

    def _blocks(
        self, x: Float[Tensor, "B S D"], state: State, *told: object
    ) -> tuple[Float[Tensor, "B S D"], State]:
        memories, all_frames = [], []
        for i, block in enumerate(self.blocks):
            past, frames = state[self.mixer.memory][:, i], state["frames"][:, i]
            x, past, frames = block(x, past, frames, *told)
            memories.append(past)
            all_frames.append(frames)
        return x, {
            self.mixer.memory: torch.stack(memories, 1),
            "frames": torch.stack(all_frames, 1),
        }
