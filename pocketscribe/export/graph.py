"""The streaming graph, written once: features and state in, encoder output and new state out.

PyTorch streaming runs the same `Recogniser.step`; every export wraps this module.

Dimensions: N streams, T feature frames of a chunk, F mel bins, J encoder output.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

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
    """The same step with all state in two flat buffers, as sherpa-onnx's `conformer` carries it.

    sherpa-onnx thinks it holds an attention cache (L, C, N, D) and a convolution cache
    (L, K-1, N, D); with L = D = 1 these are two buffers of C and K-1 floats a stream, and any state
    of any encoder fits (deployment.md).
    """

    def __init__(self, graph: StreamingGraph) -> None:
        super().__init__()
        self.streaming = graph
        # The largest state in one buffer, the rest in the other.
        sizes = {name: prod(shape) for name, shape in graph.state_shapes.items()}
        largest = max(sizes, key=lambda name: sizes[name])
        self.buffers_of = ([largest], [name for name in sizes if name != largest])
        self.sizes = [sum(sizes[name] for name in names) for names in self.buffers_of]

    def forward(
        self, x: Tensor, cached_attn: Tensor, cached_conv: Tensor, processed_lens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`processed_lens` is ignored: sherpa-onnx zeroes it at an endpoint, but not the caches."""
        state: dict[str, Tensor] = {}
        for names, buffer in zip(self.buffers_of, (cached_attn, cached_conv), strict=True):
            flat = buffer.squeeze(0).squeeze(-1).transpose(0, 1)  # [N, S]
            shapes = [self.streaming.state_shapes[name] for name in names]
            parts = flat.split([prod(shape) for shape in shapes], dim=1)
            for name, part, shape in zip(names, parts, shapes, strict=True):
                state[name] = part.unflatten(1, shape)
        y, *new = self.streaming(x, *(state[name] for name in self.streaming.state_names))
        found = dict(zip(self.streaming.state_names, new, strict=True))
        first, second = (
            torch.cat([found[name].flatten(1) for name in names], dim=1)
            .transpose(0, 1)
            .unsqueeze(0)
            .unsqueeze(-1)
            for names in self.buffers_of
        )
        return y, first, second

    def example(self, streams: int) -> tuple[Tensor, ...]:
        """Inputs of the right shapes, for tracing."""
        first, second = (torch.zeros(1, size, streams, 1) for size in self.sizes)
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
