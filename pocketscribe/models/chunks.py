"""Chunks: how far a frame may look. One training with many chunkings serves many latencies.

Dimensions: B batch, S encoder frames (40 ms each).
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from pydantic import Field, model_validator
from torch import Tensor

from pocketscribe.config import Config
from pocketscribe.errors import UserError

LONGEST = 1024  # encoder frames of a chunk: 41 s
Chunk = int | Literal["full"] | None  # what is asked for, in encoder frames; None: what streams
TAIL = 40  # feature frames of silence after every utterance, offline and streaming


class Chunking(NamedTuple):
    """A frame sees its own chunk of `size` frames and `left` frames before that chunk.

    `size` None is full context. Encoder frames are 40 ms.
    """

    size: int | None
    left: int = 0

    def __str__(self) -> str:
        return "full" if self.size is None else f"{self.size * 40} ms"


class ChunkConfig(Config):
    """The chunkings that training draws from, one a batch.

    Attributes:
        sizes: chunk lengths in encoder frames of 40 ms, or "full" for the whole utterance. The
            first is the one that streaming and export use unless told otherwise.
        left: frames of left context kept before a chunk; a multiple of every size.
    """

    sizes: tuple[int | Literal["full"], ...] = Field(default=(16, 8, 32, "full"), max_length=100)
    left: int = Field(default=64, ge=0, le=4096)

    @model_validator(mode="after")
    def _check(self) -> "ChunkConfig":
        numbers = [s for s in self.sizes if s != "full"]
        if not self.sizes:
            raise ValueError("chunks.sizes is empty; give at least one size or 'full'")
        for size in numbers:
            if not 0 < size <= LONGEST:
                raise ValueError(
                    f"chunks.sizes: {size} is no length; give 1 to {LONGEST}, or 'full'"
                )
            if self.left % size:
                raise ValueError(
                    f"chunks.left = {self.left} is not a multiple of the chunk size {size}"
                )
        return self

    @property
    def chunkings(self) -> tuple[Chunking, ...]:
        return tuple(Chunking(None) if s == "full" else Chunking(s, self.left) for s in self.sizes)

    @property
    def streaming(self) -> Chunking:
        """The first chunking that can stream; full context where there is none."""
        return next((c for c in self.chunkings if c.size is not None), Chunking(None))

    def choose(self, chunk: Chunk) -> Chunking:
        """The trained chunking of that size; for None the one of `streaming`.

        Raises:
            UserError: the model was not trained for that size.
        """
        if chunk is None:
            return self.streaming
        for size, chunking in zip(self.sizes, self.chunkings, strict=True):
            if size == chunk:
                return chunking
        sizes = ", ".join(str(size) for size in self.sizes)
        raise UserError(f"--chunk {chunk}: this model was trained for chunks of {sizes} (x 40 ms)")


def chunk_mask(
    frames: Int[Tensor, " B"], length: int, chunking: Chunking
) -> Bool[Tensor, "B 1 S S"]:
    """Whether query i may see key j: 0 <= i//C - j//C <= left/C, j no padding."""
    valid = torch.arange(length, device=frames.device) < frames.unsqueeze(1)  # [B, S]
    mask = valid[:, None, None, :]
    if chunking.size is not None:
        index = torch.arange(length, device=frames.device) // chunking.size
        distance = index.unsqueeze(1) - index  # [S, S], in chunks
        mask = mask & (distance >= 0) & (distance <= chunking.left // chunking.size)
    return mask.expand(frames.shape[0], 1, length, length)
