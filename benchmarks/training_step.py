"""A training step against the plainest PyTorch version: python benchmarks/training_step.py

One step is forward, losses, backward and optimiser, of the default model or one of another --width
and --layers: a Conformer transducer with an auxiliary CTC loss. Against it stands what one would
write first, with the same width, layers, heads, kernel, vocabulary and kinds of loss, on the same
batch: subsampling by two 2-D convolutions, fused attention under a boolean mask, nn.Dropout
wherever the papers have it, nn.Conv1d, the joiner over the whole lattice, log_softmax, a loop over
its frames and labels, and torch.optim.AdamW. Its positions, sines added once, are cheaper than any
relative ones. "plain, our loss" has our transducer_loss instead of the loop: what remains if one
thinks the loop unfair.

Then each pair of parts alone, forward and backward, shows where the gain comes from; dropout is a
part of its own and switched off in all others. (The plain attention is better there than in the
step, where its dropout rules out the fused kernel.) All are taken in turns, so that a busy machine
is as busy for both; numbers are medians of time on the clock.

B utterances, T feature frames (10 ms), S = T // 4 encoder frames, F mel bins, D width, H heads,
U labels, V text units.
"""

import math
import platform
import statistics
import time
from collections.abc import Callable
from functools import reduce

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from pocketscribe.losses import transducer_loss
from pocketscribe.models import BLANK, MELS, Chunking, ModelConfig, Recogniser
from pocketscribe.models.chunks import chunk_mask
from pocketscribe.models.conformer import ConformerConfig
from pocketscribe.models.dropout import Dropout
from pocketscribe.models.rotary import rotation
from pocketscribe.speech.batches import Batch
from pocketscribe.training.objectives import LossConfig, Outputs, Plain, StepContext
from pocketscribe.training.optimisers import OptimiserConfig, build_optimiser

UNITS = 256
CHUNKING = Chunking(16, 64)
CONTEXT = StepContext(step=10_000, chunking=CHUNKING)  # the pruned loss is past its warm-up
ROUNDS = 5


class PlainSubsampling(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.out = nn.Linear(width * MELS // 4, width)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, F] -> [B, S, D]
        x = F.relu(self.conv2(F.relu(self.conv1(x.unsqueeze(1)))))
        return self.out(x.transpose(1, 2).flatten(2))


class PlainAttention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm(x)
        parts = (layer(x) for layer in (self.query, self.key, self.value))
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in parts)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        return self.out(y.transpose(1, 2).flatten(2))


class PlainConvolution(nn.Module):
    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.pointwise1 = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, kernel, groups=width, padding=kernel - 1)
        self.inner_norm = nn.LayerNorm(width)
        self.pointwise2 = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.glu(self.pointwise1(self.norm(x).transpose(1, 2)), dim=1)
        y = self.depthwise(y)[:, :, : x.shape[1]]
        y = F.silu(self.inner_norm(y.transpose(1, 2)))
        return self.pointwise2(y.transpose(1, 2)).transpose(1, 2)


def plain_feed_forward(width: int, inner: int, dropout: float) -> nn.Module:
    layers = nn.LayerNorm(width), nn.Linear(width, inner), nn.SiLU(), nn.Dropout(dropout)
    return nn.Sequential(*layers, nn.Linear(inner, width))


class PlainBlock(nn.Module):
    def __init__(self, shape: ConformerConfig) -> None:
        super().__init__()
        width, inner = shape.width, shape.width * shape.ffn
        self.ffn1 = plain_feed_forward(width, inner, shape.dropout)
        self.attention = PlainAttention(width, shape.heads, shape.dropout)
        self.convolution = PlainConvolution(width, shape.kernel)
        self.ffn2 = plain_feed_forward(width, inner, shape.dropout)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + 0.5 * self.dropout(self.ffn1(x))
        x = x + self.dropout(self.attention(x, mask))
        x = x + self.dropout(self.convolution(x))
        x = x + 0.5 * self.dropout(self.ffn2(x))
        return self.norm(x)


class PlainJoiner(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = nn.Linear(config.encoder.width, config.joiner)
        self.predictor = nn.Linear(config.predictor, config.joiner)
        self.out = nn.Linear(config.joiner, UNITS)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # [B, S, D], [B, U + 1, P] -> whole lattice
        return self.out(torch.tanh(self.encoder(x).unsqueeze(2) + self.predictor(y).unsqueeze(1)))


class PlainTransducer(nn.Module):
    def __init__(self, config: ModelConfig, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.loss = loss
        shape, predictor = config.encoder, config.predictor
        self.subsampling = PlainSubsampling(shape.width)
        self.dropout = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(PlainBlock(shape) for _ in range(shape.layers))
        self.embedding = nn.Embedding(UNITS, predictor)
        self.mix = nn.Conv1d(predictor, predictor, 2, groups=predictor)
        self.joiner = PlainJoiner(config)
        self.ctc = nn.Linear(shape.width, UNITS)

    def forward(self, batch: Batch) -> Tensor:
        x = self.subsampling(batch.features)
        frames = batch.frames // 4
        x = self.dropout(x + sines(*x.shape[1:]))
        mask = chunk_mask(frames, x.shape[1], CHUNKING)
        for block in self.blocks:
            x = block(x, mask)
        y = self.embedding(F.pad(batch.targets, (2, 0), value=BLANK))
        y = F.relu(self.mix(y.transpose(1, 2))).transpose(1, 2)
        loss = self.loss(self.joiner(x, y), batch.targets, frames, batch.labels).sum()
        log_probs = self.ctc(x).log_softmax(-1).transpose(0, 1)
        ctc = F.ctc_loss(log_probs, batch.targets, frames, batch.labels, BLANK, "sum")
        return loss + LossConfig().ctc * ctc


def sines(length: int, width: int) -> Tensor:
    """Position encoding [S, D] of "Attention is all you need"."""
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angle = torch.arange(length).unsqueeze(1) * rate
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)


def looped_loss(logits: Tensor, targets: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
    """Graves' recursion node by node, all utterances at once; autograd does the rest."""
    log_probs = logits.log_softmax(-1)
    blank = log_probs[..., BLANK]
    index = targets[:, None, :, None].expand(-1, logits.shape[1], -1, 1)
    label = log_probs[:, :, :-1].gather(3, index).squeeze(3)
    alpha: dict[tuple[int, int], Tensor] = {}
    for t in range(logits.shape[1]):
        for u in range(logits.shape[2]):
            ways = [blank.new_zeros(len(blank))] if t == u == 0 else []
            if t:
                ways.append(alpha[t - 1, u] + blank[:, t - 1, u])
            if u:
                ways.append(alpha[t, u - 1] + label[:, t, u - 1])
            alpha[t, u] = reduce(torch.logaddexp, ways)
    lattice = torch.stack(list(alpha.values()), 1).view_as(blank)
    one = torch.arange(len(frames))
    return -(lattice[one, frames - 1, labels] + blank[one, frames - 1, labels])


def milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def in_turns(*runs: Callable[[], object]) -> list[float]:
    """Median milliseconds of each, after a warm-up that is not counted."""
    times = [[milliseconds(run) for run in runs] for _ in range(1 + ROUNDS)]
    return [statistics.median(column) for column in zip(*times[1:], strict=True)]


def make_batch(utterances: int, longest: int = 500) -> Batch:
    """Noise in utterances of half to all of `longest` (10 ms), as in a bucket; 5 labels a s."""
    frames = torch.linspace(longest // 2, longest, utterances).long()
    labels = frames // 20
    features = torch.randn(utterances, int(frames.max()), MELS)
    targets = torch.randint(1, UNITS, (utterances, int(labels.max())))
    total = int(frames.sum())
    return Batch(features, frames, targets, labels, total / 100, total)


def make_step(
    loss: Callable[[], Tensor], optimiser: torch.optim.Optimizer, frames: int
) -> Callable[[], None]:
    def step() -> None:
        (loss() / frames).backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def compare_steps(config: ModelConfig, batch: Batch) -> None:
    ours = Plain(Recogniser(config, UNITS), LossConfig()).train()
    optimiser = build_optimiser(OptimiserConfig(), ours.named_parameters())
    models: dict[str, nn.Module] = {"pocketscribe": ours}
    steps = [make_step(lambda: ours(batch, CONTEXT)["loss"], optimiser, batch.total_frames)]
    for name, loss in (("plain", looped_loss), ("plain, our loss", transducer_loss)):
        plain = PlainTransducer(config, loss).train()
        models[name] = plain
        adam = torch.optim.AdamW(plain.parameters(), lr=1e-3)
        steps.append(make_step(lambda m=plain: m(batch), adam, batch.total_frames))
    times = in_turns(*steps)
    for (name, model), ms in zip(models.items(), times, strict=True):
        weights = sum(p.numel() for p in model.parameters()) / 1e6
        speed = 1000 * batch.seconds / ms
        print(
            f"  {name:16} {ms:7.0f} ms {speed:6.0f} audio-s/s {weights:6.2f} M weights "
            f"{ms / times[0]:6.2f} x as long"
        )


def there_and_back(run: Callable[[], list[Tensor]]) -> Callable[[], None]:
    def both() -> None:
        ys = run()
        torch.autograd.backward(ys, [torch.ones_like(y) for y in ys])

    return both


def compare_parts(config: ModelConfig, batch: Batch) -> None:
    model = Recogniser(config, UNITS).eval()
    plain = PlainTransducer(config, looped_loss).eval()
    shape = config.encoder
    mine, other = model.encoder.blocks[0], plain.blocks[0]
    size, length, frames = len(batch.frames), batch.features.shape[1] // 4, batch.frames // 4
    x = torch.randn(size, length, shape.width, requires_grad=True)
    inner = torch.randn(size, length, shape.width * shape.ffn, requires_grad=True)
    scores = torch.randn(size, shape.heads, length, length, requires_grad=True)
    mask = chunk_mask(frames, length, CHUNKING)
    unseen = torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, -1e4)  # ours adds it
    turn = rotation(length, shape.width // shape.heads, x)
    state = model.encoder.initial_state(size, 0, x)
    keys, past = state["keys"][:, 0], state["frames"][:, 0]
    start = model.subsampling_state(size, x)
    predicted = model.predictor(batch.targets).detach()
    objective = Plain(model, LossConfig())
    drop, plain_drop = Dropout(shape.dropout), nn.Dropout(shape.dropout)

    def pruned() -> list[Tensor]:
        said = Outputs({}, x, frames, None, None, None)
        return [objective._transducer(said, batch, CONTEXT.step).losses["loss"]]

    def full() -> list[Tensor]:
        logits = plain.joiner(x, predicted)
        return [looped_loss(logits, batch.targets, frames, batch.labels)]

    # Name: how often in a step, ours, plain.
    parts: dict[str, tuple[int, Callable[[], list[Tensor]], Callable[[], list[Tensor]]]] = {
        "subsampling": (
            1,
            lambda: [model.subsampling(batch.features, start)],
            lambda: [plain.subsampling(batch.features)],
        ),
        "dropout": (
            shape.layers,
            lambda: [drop(y) for y in [x] * 4],
            # After the activations and on the attention's weights, too.
            lambda: [plain_drop(y) for y in [x] * 4 + [inner] * 2 + [scores]],
        ),
        "feed-forward": (2 * shape.layers, lambda: [mine.ffn1(x)], lambda: [other.ffn1(x)]),
        "attention": (
            shape.layers,
            lambda: [mine.attention(x, keys, unseen, turn)[0]],
            lambda: [other.attention(x, mask)],
        ),
        "convolution": (
            shape.layers,
            lambda: [mine.convolution(x, past)[0]],
            lambda: [other.convolution(x)],
        ),
        "joiner and loss": (1, pruned, full),
    }
    print(f"  {'':16} {'ours':>10} {'plain':>10} {'saved':>10}")
    for name, (times, *runs) in parts.items():
        show(name, *(times * ms for ms in in_turns(*map(there_and_back, runs))))
    for p in (*model.parameters(), *plain.parameters()):
        p.grad = torch.randn_like(p)
    optimiser = build_optimiser(OptimiserConfig(), model.named_parameters())
    show("optimiser", *in_turns(optimiser.step, torch.optim.AdamW(plain.parameters()).step))


def show(name: str, ours: float, plain: float) -> None:
    print(
        f"  {name:16} {ours:7.1f} ms {plain:7.1f} ms {plain - ours:7.1f} ms {plain / ours:6.1f} x"
    )


def main(width: int = 176, layers: int = 6, utterances: int = 16) -> None:
    torch.manual_seed(0)
    config = ModelConfig.read({"encoder": {"width": width, "layers": layers}}, "the options")
    threads = torch.get_num_threads()
    print(f"{platform.machine()}, torch {torch.__version__}, {threads} threads, float32")
    batch = make_batch(utterances)
    print(f"one step, {batch.seconds:.0f} s of speech, B{utterances}, median of {ROUNDS}")
    compare_steps(config, batch)
    print("parts, forward and backward, times their number in a step")
    compare_parts(config, batch)


if __name__ == "__main__":
    typer.run(main)
