"""A training step against the plainest PyTorch version: python benchmarks/training_step.py

One step is forward, losses, backward and optimiser, of the default model: a Conformer transducer
with an auxiliary CTC loss. Against it stands what one would write first, with the same width,
layers, heads, kernel, vocabulary and losses, on the same batch: two 2-D convolutions that subsample,
fused attention under a boolean mask, nn.Dropout wherever the papers have it, nn.Conv1d, the joiner
over the whole lattice, log_softmax, a loop over its frames and labels, and torch.optim.AdamW. Its
position encoding, sines added once, is cheaper than any relative one. "our loss" is the same with
pocketscribe's loss in the place of the loop: what is left of the gain if the loop is thought unfair.

Then each pair of parts alone, forward and backward, so that one sees where the gain comes from.
All are taken in turns, so that a busy machine is as busy for both; the numbers are medians.

B utterances, T feature frames (10 ms), S = T // 4 encoder frames, F mel bins, D width, H heads,
U labels, V text units.
"""

import math
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketscribe.losses import transducer_loss
from pocketscribe.models import BLANK, MELS, Chunking, ModelConfig, Recogniser
from pocketscribe.models.chunks import chunk_mask
from pocketscribe.models.rotary import rotation
from pocketscribe.speech.batches import Batch
from pocketscribe.training.objectives import LossConfig, Plain, StepContext
from pocketscribe.training.optimisers import OptimiserConfig, build_optimiser

UNITS = 256
CHUNKING = Chunking(16, 64)
CONTEXT = StepContext(step=10_000, chunking=CHUNKING)  # the pruned loss is past its warm-up
CONFIG = ModelConfig()
SHAPE = CONFIG.encoder
ROUNDS = 7


# The plainest version


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
    def __init__(self) -> None:
        super().__init__()
        width, inner = SHAPE.width, SHAPE.width * SHAPE.ffn
        self.ffn1 = plain_feed_forward(width, inner, SHAPE.dropout)
        self.attention = PlainAttention(width, SHAPE.heads, SHAPE.dropout)
        self.convolution = PlainConvolution(width, SHAPE.kernel)
        self.ffn2 = plain_feed_forward(width, inner, SHAPE.dropout)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(SHAPE.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + 0.5 * self.dropout(self.ffn1(x))
        x = x + self.dropout(self.attention(x, mask))
        x = x + self.dropout(self.convolution(x))
        x = x + 0.5 * self.dropout(self.ffn2(x))
        return self.norm(x)


class PlainJoiner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(SHAPE.width, CONFIG.joiner)
        self.predictor = nn.Linear(CONFIG.predictor, CONFIG.joiner)
        self.out = nn.Linear(CONFIG.joiner, UNITS)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # [B, S, D], [B, U + 1, P] -> whole lattice
        return self.out(torch.tanh(self.encoder(x).unsqueeze(2) + self.predictor(y).unsqueeze(1)))


class PlainTransducer(nn.Module):
    def __init__(self, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.loss = loss
        self.subsampling = PlainSubsampling(SHAPE.width)
        self.dropout = nn.Dropout(SHAPE.dropout)
        self.blocks = nn.ModuleList(PlainBlock() for _ in range(SHAPE.layers))
        self.embedding = nn.Embedding(UNITS, CONFIG.predictor)
        self.mix = nn.Conv1d(CONFIG.predictor, CONFIG.predictor, 2, groups=CONFIG.predictor)
        self.joiner = PlainJoiner()
        self.ctc = nn.Linear(SHAPE.width, UNITS)

    def forward(self, batch: Batch) -> Tensor:
        x = self.subsampling(batch.features)
        frames = batch.frames // 4
        x = self.dropout(x + sines(x.shape[1]))
        mask = chunk_mask(frames, x.shape[1], CHUNKING)
        for block in self.blocks:
            x = block(x, mask)
        y = self.embedding(F.pad(batch.targets, (2, 0), value=BLANK))
        y = F.relu(self.mix(y.transpose(1, 2))).transpose(1, 2)
        loss = self.loss(self.joiner(x, y), batch.targets, frames, batch.labels).sum()
        log_probs = self.ctc(x).log_softmax(-1).transpose(0, 1)
        ctc = F.ctc_loss(log_probs, batch.targets, frames, batch.labels, BLANK, "sum")
        return loss + LossConfig().ctc * ctc


def sines(length: int) -> Tensor:
    """Position encoding [S, D] of "Attention is all you need"."""
    rate = torch.exp(torch.arange(0, SHAPE.width, 2) * (-math.log(10_000) / SHAPE.width))
    angle = torch.arange(length).unsqueeze(1) * rate
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)


def looped_loss(logits: Tensor, targets: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
    """Graves' recursion node by node, all utterances at once; autograd does the rest."""
    log_probs = logits.log_softmax(-1)
    blank = log_probs[..., BLANK]
    index = targets[:, None, :, None].expand(-1, logits.shape[1], -1, 1)
    label = log_probs[:, :, :-1].gather(3, index).squeeze(3)
    alpha: list[list[Tensor]] = []
    for t in range(logits.shape[1]):
        row: list[Tensor] = []
        for u in range(logits.shape[2]):
            ways = []
            if t:
                ways.append(alpha[t - 1][u] + blank[:, t - 1, u])
            if u:
                ways.append(row[u - 1] + label[:, t, u - 1])
            node = torch.logaddexp(*ways) if len(ways) == 2 else ways[0] if ways else blank.new_zeros(len(blank))
            row.append(node)
        alpha.append(row)
    lattice = torch.stack([torch.stack(row, 1) for row in alpha], 1)
    one = torch.arange(len(frames))
    return -(lattice[one, frames - 1, labels] + blank[one, frames - 1, labels])


# Timing


def milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def in_turns(*runs: Callable[[], object]) -> list[float]:
    """Median milliseconds of each, after a warm-up that is not counted."""
    times = [[milliseconds(run) for run in runs] for _ in range(1 + ROUNDS)]
    return [statistics.median(column) for column in zip(*times[1:], strict=True)]


def make_batch(utterances: int = 16) -> Batch:
    """A minute of noise in utterances of 2.5 to 5 s, as a bucket holds them; 5 labels a second."""
    frames = torch.linspace(250, 500, utterances).long()
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


def compare_steps(batch: Batch) -> None:
    ours = Plain(Recogniser(CONFIG, UNITS), LossConfig()).train()
    optimiser = build_optimiser(OptimiserConfig(), ours.named_parameters())
    steps = [make_step(lambda: ours(batch, CONTEXT)["loss"], optimiser, batch.total_frames)]
    models: list[nn.Module] = [ours]
    for loss in (looped_loss, transducer_loss):
        plain = PlainTransducer(loss).train()
        optimiser = torch.optim.AdamW(plain.parameters(), lr=1e-3)
        steps.append(make_step(lambda m=plain: m(batch), optimiser, batch.total_frames))
        models.append(plain)
    times = in_turns(*steps)
    names = ("pocketscribe", "plain", "plain, our loss")
    for name, model, ms in zip(names, models, times, strict=True):
        count = sum(p.numel() for p in model.parameters()) / 1e6
        speed = 1000 * batch.seconds / ms
        ratio = f"{ms / times[0]:5.2f} x as long" if ms != times[0] else ""
        print(f"  {name:16} {ms:8.1f} ms {speed:7.0f} audio-s/s {count:6.2f} M weights  {ratio}")


# Parts


def trained(module: nn.Module, run: Callable[[], Tensor]) -> Callable[[], None]:
    """Forward and backward of a module without its dropout, which is a part of its own."""
    module.eval()

    def both() -> None:
        y = run()
        y.backward(torch.ones_like(y))

    return both


def compare_parts(batch: Batch) -> None:
    model = Recogniser(CONFIG, UNITS)
    plain = PlainTransducer(looped_loss)
    ours, theirs = model.encoder.blocks[0], plain.blocks[0]
    size, length = len(batch.frames), batch.features.shape[1] // 4
    frames = batch.frames // 4
    x = torch.randn(size, length, SHAPE.width, requires_grad=True)
    wide = torch.randn(size, length, SHAPE.width * SHAPE.ffn, requires_grad=True)
    scores = torch.randn(size, SHAPE.heads, length, length, requires_grad=True)
    mask = chunk_mask(frames, length, CHUNKING)
    turn = rotation(length, SHAPE.width // SHAPE.heads, x)
    keys, taps = x.new_zeros(size, 0, 2 * SHAPE.width), x.new_zeros(size, SHAPE.kernel - 1, x.shape[2])
    start = model.subsampling_state(size, batch.features)

    def drop(module: nn.Module, times: int, *tensors: Tensor) -> Callable[[], None]:
        def both() -> None:
            for tensor in tensors * times:
                y = module.train()(tensor)
                y.backward(y.detach())

        return both

    predicted = model.predictor(batch.targets).detach()
    heads = Plain(model, LossConfig(ctc=0))
    pairs: dict[str, tuple[int, Callable[[], object], Callable[[], object]]] = {
        "subsampling": (
            1,
            trained(model.subsampling, lambda: model.subsampling(batch.features, start)),
            trained(plain.subsampling, lambda: plain.subsampling(batch.features)),
        ),
        "dropout": (
            SHAPE.layers,
            drop(ours.dropout, 4, x),
            # After both activations, on the attention weights, and four times as ours.
            drop(theirs.dropout, 1, wide, wide, scores, x, x, x, x),
        ),
        "feed-forward": (
            2 * SHAPE.layers,
            trained(ours.ffn1, lambda: ours.ffn1(x)),
            trained(theirs.ffn1, lambda: theirs.ffn1(x)),
        ),
        "attention": (
            SHAPE.layers,
            trained(ours.attention, lambda: ours.attention(x, keys, mask, turn)[0]),
            trained(theirs.attention, lambda: theirs.attention(x, mask)),
        ),
        "convolution": (
            SHAPE.layers,
            trained(ours.convolution, lambda: ours.convolution(x, taps)[0]),
            trained(theirs.convolution, lambda: theirs.convolution(x)),
        ),
        "joiner and loss": (
            1,
            trained(model, lambda: heads._transducer(x, frames, batch, CONTEXT.step)["loss"]),
            trained(
                plain,
                lambda: looped_loss(
                    plain.joiner(x, predicted), batch.targets, frames, batch.labels
                ).sum(),
            ),
        ),
    }
    optimisers = []
    for module in (model, plain):
        for p in module.parameters():
            p.grad = torch.randn_like(p)
    optimisers.append(build_optimiser(OptimiserConfig(), model.named_parameters()).step)
    optimisers.append(torch.optim.AdamW(plain.parameters(), lr=1e-3).step)
    pairs["optimiser"] = (1, *optimisers)
    print(f"  {'part':16} {'ours':>9} {'plain':>9} {'saved':>9}")
    for name, (times, *both) in pairs.items():
        mine, other = (times * ms for ms in in_turns(*both))
        print(f"  {name:16} {mine:6.1f} ms {other:6.1f} ms {other - mine:6.1f} ms {other / mine:5.1f} x")


if __name__ == "__main__":
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    print(f"{platform.machine()}, torch {torch.__version__}, {threads} threads, float32")
    batch = make_batch()
    print(f"one step, {batch.seconds:.0f} s of speech, B{len(batch.frames)}, median of {ROUNDS}")
    compare_steps(batch)
    print("parts, forward + backward, times their number in a step")
    compare_parts(batch)
