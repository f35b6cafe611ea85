"""The whole recogniser against its definition, written down once more without any of its parts.

One utterance at a time, one head at a time, one frame at a time: nothing is shared with the code
under test but the names of its parameters. S encoder frames, D width.
"""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pocketscribe.models import ChunkConfig, Chunking, ConformerConfig, ModelConfig, Recogniser

HEADS, KERNEL, LAYERS = 2, 5, 2
Parameters = dict[str, Tensor]


@pytest.fixture(params=["transducer", "ctc"])
def model(request: pytest.FixtureRequest) -> Recogniser:
    """Every parameter drawn, so that no norm, bias or scale is what it starts as."""
    torch.manual_seed(0)
    config = ModelConfig(
        encoder=ConformerConfig(width=16, layers=LAYERS, heads=HEADS, kernel=KERNEL, ffn=2),
        chunks=ChunkConfig(sizes=(4, "full"), left=8),
        head=request.param,
        predictor=8,
        joiner=12,
        subsampling=10,
    )
    made = Recogniser(config, 11).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "attention" in name:
                parameter.mul_(3)  # scores that are far from alike
        made.mean.normal_()
        made.inverse_std.uniform_(0.5, 2)
    return made


def linear(p: Parameters, name: str, x: Tensor) -> Tensor:
    return x @ p[f"{name}.weight.stored"].T + p.get(f"{name}.bias", torch.zeros(()))


def norm(p: Parameters, name: str, x: Tensor) -> Tensor:
    deviation = x - x.mean(-1, keepdim=True)
    normal = deviation / (deviation.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return normal * p[f"{name}.weight"] + p[f"{name}.bias"]


def swish(x: Tensor) -> Tensor:
    return x * x.sigmoid()


def feed_forward(p: Parameters, name: str, x: Tensor) -> Tensor:
    return linear(p, f"{name}.down", swish(linear(p, f"{name}.up", norm(p, f"{name}.norm", x))))


def turned(x: Tensor, position: int) -> Tensor:
    """Pairs (x[e], x[e + E]) as complex numbers, turned by position / 10000^(e / E)."""
    half = len(x) // 2
    angles = position * 10000.0 ** (-torch.arange(half) / half)
    y = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones(half), angles)
    return torch.cat([y.real, y.imag])


def attention(p: Parameters, name: str, x: Tensor, chunking: Chunking) -> Tensor:
    x = norm(p, f"{name}.norm", x)
    query, key, value = (linear(p, f"{name}.{part}", x) for part in ("query", "key", "value"))
    size, width = chunking.size or len(x), x.shape[1] // HEADS
    rows = []
    for i in range(len(x)):
        heads = []
        for head in range(HEADS):
            own = slice(head * width, (head + 1) * width)
            seen = [j for j in range(len(x)) if 0 <= i // size - j // size <= chunking.left // size]
            scores = torch.stack(
                [turned(query[i, own], i) @ turned(key[j, own], j) / math.sqrt(width) for j in seen]
            )
            heads.append(scores.softmax(0) @ value[seen, own])
        rows.append(torch.cat(heads))
    return linear(p, f"{name}.out", torch.stack(rows))


def convolution(p: Parameters, name: str, x: Tensor) -> Tensor:
    x = norm(p, f"{name}.norm", x)
    gated = linear(p, f"{name}.value", x) * linear(p, f"{name}.gate", x).sigmoid()
    kernel, bias = p[f"{name}.depthwise.weight.stored"], p[f"{name}.depthwise.bias"]
    rows = []
    for i in range(len(x)):  # the last tap is on frame i itself
        taps = [kernel[:, k] * gated[j] for k in range(KERNEL) if (j := i - KERNEL + 1 + k) >= 0]
        rows.append(sum(taps) + bias)
    return linear(p, f"{name}.out", swish(norm(p, f"{name}.inner_norm", torch.stack(rows))))


def block(p: Parameters, name: str, x: Tensor, chunking: Chunking) -> Tensor:
    x = x + feed_forward(p, f"{name}.ffn1", x) / 2
    x = x + attention(p, f"{name}.attention", x, chunking)
    x = x + convolution(p, f"{name}.convolution", x)
    x = x + feed_forward(p, f"{name}.ffn2", x) / 2
    return norm(p, f"{name}.norm", x)


def subsampled(p: Parameters, x: Tensor) -> Tensor:
    """Each map over three frames, every other frame; three frames of zeros before the first."""
    x = torch.cat([torch.zeros(3, x.shape[1]), x])
    for name in ("conv1", "conv2"):
        stacked = [x[t : t + 3].flatten() for t in range(0, len(x) - 2, 2)]
        x = linear(p, f"subsampling.{name}", torch.stack(stacked))
        x = swish(x) if name == "conv1" else norm(p, "subsampling.norm", x)
    return x


def encoded(model: Recogniser, features: Tensor, chunking: Chunking) -> Tensor:
    p = dict(model.named_parameters())
    x = subsampled(p, (features - model.mean) * model.inverse_std)
    for layer in range(LAYERS):
        x = block(p, f"encoder.blocks.{layer}", x, chunking)
    return x


def predicted(p: Parameters, labels: list[int]) -> Tensor:
    """After each number of labels: two taps on the embeddings of the last two."""
    table, mix = p["predictor.embedding.weight.stored"], p["predictor.mix.weight.stored"]
    rows = [torch.zeros(table.shape[1]), *table[[0, *labels]]]
    pairs = pairwise(rows)
    return torch.stack([F.relu(mix[:, 0] * a + mix[:, 1] * b) for a, b in pairs])


@pytest.mark.parametrize("chunking", [Chunking(2, 4), Chunking(3, 0), Chunking(None)], ids=str)
@torch.no_grad()
def test_it_computes_its_definition(model: Recogniser, chunking: Chunking) -> None:
    features, labels = torch.randn(1, 48, 80), [3, 7, 7, 1]
    p = dict(model.named_parameters())
    expected = encoded(model, features[0], chunking)
    found, _ = model.encode(features, torch.tensor([48]), chunking)
    assert expected.std() > 0.5, "a comparison of nothings"
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-5)
    head = "ctc" if model.config.head == "ctc" else "auxiliary.ctc"
    matrix = p.get(f"{head}.weight.stored", p.get(f"{head}.weight"))
    logits = expected @ matrix.T + p[f"{head}.bias"]
    torch.testing.assert_close(model.ctc_logits(found)[0], logits, rtol=0, atol=1e-5)
    if model.config.head == "ctc":
        return
    context = predicted(p, labels)
    inner = linear(p, "joiner.encoder", expected)[:, None] + linear(p, "joiner.predictor", context)
    logits = linear(p, "joiner.out", inner.tanh())
    predictor = model.joiner.predictor(model.predictor(torch.tensor([labels])))
    encoder = model.joiner.encoder(found)
    torch.testing.assert_close(
        model.joiner(encoder.unsqueeze(2), predictor.unsqueeze(1))[0], logits, rtol=0, atol=1e-5
    )
