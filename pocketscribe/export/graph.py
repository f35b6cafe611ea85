"""The streaming graph, written once: features and state in, encoder output and new state out.

PyTorch streaming runs the same `Recogniser.step`; every export wraps this module.

Dimensions: N streams, T feature frames of a chunk, F mel bins, J encoder output.
"""

from math import ceil, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pocketscribe.decoding.offline import head_input
from pocketscribe.models import (
    MELS,
    Chunking,
    Recogniser,
    stored_parameters,
    virtual_parameters,
)
from pocketscribe.models.saved import Saved
from pocketscribe.models.subsampling import FACTOR


class StreamingGraph(nn.Module):
    """One step with its state as a flat list of tensors, batch first, in `state_names` order."""

    def __init__(self, model: Recogniser, chunking: Chunking) -> None:
        super().__init__()
        assert chunking.size is not None
        self.model = model
        self.frames = FACTOR * chunking.size  # feature frames a step
        state = model.initial_state(1, chunking.left)
        self.state_names = list(state)
        self.state_shapes = {name: tuple(t.shape[1:]) for name, t in state.items()}

    def forward(self, features: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        y, new = self.model.step(features, dict(zip(self.state_names, state, strict=True)))
        return head_input(self.model, y), *new.values()

    def example(self, streams: int) -> tuple[Tensor, ...]:
        """Inputs of the right shapes, for tracing."""
        state = [torch.zeros(streams, *shape) for shape in self.state_shapes.values()]
        return torch.zeros(streams, self.frames, MELS), *state


class FlatGraph(nn.Module):
    """The same step with all state in two rows of a stream, as sherpa-onnx's `conformer` holds it.

    sherpa-onnx thinks it holds an attention cache (L, C, N, D) and a convolution cache
    (L, K-1, N, D), so any state of any encoder fits. With L = C = K-1 = 1 each is
    one row of D floats a stream, half of the state. sherpa-onnx joins and splits the streams of a
    batch row by row: rows of one float, the other layout that fits, cost it more than the network.
    """

    def __init__(self, graph: StreamingGraph) -> None:
        super().__init__()
        self.streaming = graph
        self.sizes = [prod(shape) for shape in graph.state_shapes.values()]
        self.row = ceil(sum(self.sizes) / 2)
        self.padding = 2 * self.row - sum(self.sizes)

    def forward(
        self, x: Tensor, cached_attn: Tensor, cached_conv: Tensor, processed_lens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`processed_lens` is ignored: sherpa-onnx zeroes it at an endpoint, but not the caches."""
        both = torch.cat([cached_attn, cached_conv], dim=-1)[0, 0]  # [N, 2 * row]
        *state, _ = both.split([*self.sizes, self.padding], dim=1)
        shapes = self.streaming.state_shapes.values()
        state = [part.unflatten(1, shape) for part, shape in zip(state, shapes, strict=True)]
        y, *new = self.streaming(x, *state)
        both = pad(torch.cat([part.flatten(1) for part in new], dim=1), (0, self.padding))
        first, second = both[None, None].chunk(2, dim=-1)
        return y, first, second

    def example(self, streams: int) -> tuple[Tensor, ...]:
        """Inputs of the right shapes, for tracing."""
        first, second = torch.zeros(2, 1, 1, streams, self.row).unbind()
        features = torch.zeros(streams, self.streaming.frames, MELS)
        return features, first, second, torch.zeros(streams, dtype=torch.int64)


class PredictorGraph(nn.Module):
    """The last labels -> the joiner's view of the predictor, `[N, 2]` -> `[N, J]`."""

    def __init__(self, model: Recogniser) -> None:
        super().__init__()
        self.model = model

    def forward(self, y: Tensor) -> Tensor:
        return self.model.joiner.predictor(self.model.predictor.step(y))


class JoinerGraph(nn.Module):
    """Two projections -> logits, `[N, J]`, `[N, J]` -> `[N, V]`."""

    def __init__(self, model: Recogniser) -> None:
        super().__init__()
        self.model = model

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        return self.model.joiner(encoder_out, decoder_out)


def describe(saved: Saved, graph: StreamingGraph) -> dict[str, Any]:
    """What our own loop around an exported graph reads back."""
    return {
        "head": saved.model.config.head,
        "frames": graph.frames,
        "states": graph.state_shapes,
        "units": saved.units,
        "parameters_stored": stored_parameters(saved.model),
        "parameters_virtual": virtual_parameters(saved.model),
        "card": saved.card,
    }
