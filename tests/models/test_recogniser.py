"""The recogniser: streaming equals offline, nothing looks ahead, padding is nothing.

B batch, T feature frames, S encoder frames, F mel bins, D width, U labels, V vocabulary.
"""

import pytest
import torch
from torch import Tensor

from pocketscribe.config import Config
from pocketscribe.errors import UserError
from pocketscribe.models import (
    MELS,
    ChunkConfig,
    Chunking,
    ConformerConfig,
    ModelConfig,
    Recogniser,
    deployed_parameters,
)
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.weights import RankRule

VOCABULARY = 11
CHUNKINGS = [Chunking(1, 0), Chunking(1, 4), Chunking(3, 0), Chunking(4, 8), Chunking(8, 8)]


def config(**changes: object) -> ModelConfig:
    plain = {
        "encoder": ConformerConfig(width=16, layers=2, heads=2, kernel=5, ffn=2),
        "chunks": ChunkConfig(sizes=(4, "full"), left=8),
        "predictor": 8,
        "joiner": 12,
        "subsampling": 10,
    }
    return ModelConfig(**{**plain, **changes})


def recogniser(seed: int = 0, **changes: object) -> Recogniser:
    torch.manual_seed(seed)
    model = Recogniser(config(**changes), VOCABULARY).eval()
    model.mean.normal_()
    model.inverse_std.uniform_(0.5, 2)
    return model


def speech(batch: int, frames: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, frames, MELS, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def offline(model: Recogniser, x: Tensor, chunking: Chunking) -> Tensor:
    frames = torch.full((x.shape[0],), x.shape[1])
    encoded, lengths = model.encode(x, frames, chunking)
    assert (lengths == x.shape[1] // FACTOR).all()
    return encoded


@torch.no_grad()
def streamed(model: Recogniser, x: Tensor, chunking: Chunking) -> Tensor:
    """Chunk by chunk; the last one is as short as what is left of whole encoder frames."""
    assert chunking.size is not None
    state = model.initial_state(x.shape[0], chunking.left)
    found = []
    whole = x.shape[1] // FACTOR * FACTOR
    for chunk in x[:, :whole].split(FACTOR * chunking.size, dim=1):
        y, state = model.step(chunk, state)
        found.append(y)
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("frames", [4, 31, 32, 64, 127, 205])
@pytest.mark.parametrize("chunking", CHUNKINGS)
def test_streaming_is_offline(chunking: Chunking, frames: int) -> None:
    model, x = recogniser(), speech(3, frames)
    expected = offline(model, x, chunking)
    assert expected.shape == (3, frames // FACTOR, 16)
    torch.testing.assert_close(streamed(model, x, chunking), expected, atol=1e-4, rtol=0)


def test_streaming_is_offline_far_beyond_the_left_context() -> None:
    """Positions and counters must not drift: 40 s at the size of a real model's chunks."""
    model, x = recogniser(), speech(1, 4000)
    chunking = Chunking(16, 64)
    expected = offline(model, x, chunking)
    torch.testing.assert_close(streamed(model, x, chunking), expected, atol=1e-4, rtol=0)


def test_streaming_is_offline_with_low_rank_weights_and_other_shapes() -> None:
    model = recogniser(
        encoder=ConformerConfig(width=24, layers=3, heads=3, kernel=2, ffn=1),
        ranks=(RankRule(match="*.ffn1.*", rank=3), RankRule(match="subsampling.*", rank=4)),
    )
    x, chunking = speech(2, 100), Chunking(4, 8)
    expected = offline(model, x, chunking)
    torch.testing.assert_close(streamed(model, x, chunking), expected, atol=1e-4, rtol=0)


def test_ragged_batch_is_each_utterance_alone() -> None:
    model = recogniser()
    lengths = torch.tensor([205, 37, 4, 130, 3])  # the last holds no whole encoder frame
    x = speech(5, 205)
    for chunking in (*CHUNKINGS, Chunking(None)):
        with torch.no_grad():
            together, frames = model.encode(x, lengths, chunking)
        assert torch.equal(frames, lengths // FACTOR)
        assert together.isfinite().all()
        for i, count in enumerate(lengths[:4].tolist()):
            alone = offline(model, x[i : i + 1, :count], chunking)[0]
            torch.testing.assert_close(together[i, : count // 4], alone, atol=1e-4, rtol=0)


def test_padding_is_never_heard() -> None:
    model = recogniser()
    x = speech(2, 90)
    lengths = torch.tensor([90, 41])
    other = x.clone()
    other[1, 41:] = 1e3
    for chunking in (*CHUNKINGS, Chunking(None)):
        with torch.no_grad():
            a, _ = model.encode(x, lengths, chunking)
            b, _ = model.encode(other, lengths, chunking)
        # Encoder frame 9 ends with feature 4 * 9 + 3 = 39: all ten are clean.
        torch.testing.assert_close(a[1, :10], b[1, :10])
        torch.testing.assert_close(a[0], b[0])


@pytest.mark.parametrize("chunking", CHUNKINGS)
def test_nothing_beyond_the_chunk_is_heard(chunking: Chunking) -> None:
    model, x = recogniser(), speech(1, 128)
    assert chunking.size is not None
    before = offline(model, x, chunking)
    for frame in (0, 5, 17):  # an encoder frame, and the end of its chunk
        end = (frame // chunking.size + 1) * chunking.size
        later = x.clone()
        later[:, FACTOR * end :] += 3.0
        after = offline(model, later, chunking)
        assert torch.equal(after[:, :end], before[:, :end])
        assert not torch.allclose(after[:, end:], before[:, end:])


def test_a_frame_hears_its_whole_chunk_and_full_context_hears_all() -> None:
    model, x = recogniser(), speech(1, 96)
    later = x.clone()
    later[:, -1] += 3.0  # the last of the 24 encoder frames
    for chunking, first in ((Chunking(8, 8), 16), (Chunking(None), 0)):
        changed = (offline(model, later, chunking) - offline(model, x, chunking)).abs() > 1e-6
        assert changed[0].any(-1).nonzero().min().item() == first


def test_left_context_bounds_attention() -> None:
    """One block with a kernel of 2: frame i hears at most its left context and one frame more."""
    model = recogniser(encoder=ConformerConfig(width=16, layers=1, heads=2, kernel=2, ffn=1))
    x = speech(1, 160)  # 40 encoder frames
    early = x.clone()
    early[:, :4] += 3.0  # heard by encoder frames 0 and 1
    chunking = Chunking(4, 8)
    changed = (offline(model, early, chunking) - offline(model, x, chunking)).abs() > 1e-6
    # Chunks 0, 1 and 2 attend to frames 0 and 1; the convolution carries it one frame further.
    assert changed[0].any(-1).nonzero().max().item() == 12


def test_state_is_named_batch_first_and_keeps_its_shapes() -> None:
    model = recogniser()
    state = model.initial_state(3, 8)
    shapes = {name: tuple(t.shape) for name, t in state.items()}
    assert shapes == {
        "past": (3, 3, MELS),
        "keys": (3, 2, 8, 32),
        "frames": (3, 2, 4, 16),
        "seen": (3, 1),
    }
    assert all((t == 0).all() and t.dtype == torch.float32 for t in state.values())
    for count in (4, 8, 8):
        with torch.no_grad():
            _, new = model.step(speech(3, 16), state)
        assert list(new) == list(state)  # runtimes match states by position
        assert {name: tuple(t.shape) for name, t in new.items()} == shapes
        assert (new["seen"] == count).all()
        state = new


def test_streams_of_one_batch_are_independent_and_may_be_of_any_age() -> None:
    model, x = recogniser(), speech(2, 64)
    chunking = Chunking(4, 8)
    with torch.no_grad():
        _, old = model.step(x[:1, :16], model.initial_state(1, 8))
        fresh = model.initial_state(1, 8)
        both = {name: torch.cat([old[name], fresh[name]]) for name in old}
        y, _ = model.step(torch.cat([x[:1, 16:32], x[1:, :16]]), both)
    torch.testing.assert_close(y[0], offline(model, x[:1], chunking)[0, 4:8], atol=1e-4, rtol=0)
    torch.testing.assert_close(y[1], offline(model, x[1:], chunking)[0, :4], atol=1e-4, rtol=0)


def joint_loss(model: Recogniser, chunking: Chunking) -> Tensor:
    """Something that every deployed part has a hand in."""
    encoded, _ = model.encode(speech(2, 64), torch.tensor([64, 40]), chunking)
    if model.config.head == "ctc":
        return model.ctc_logits(encoded).log_softmax(-1)[..., 3].sum()
    labels = torch.randint(1, VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(0))
    predicted = model.predictor(labels)
    encoder, predictor = model.joiner.encoder(encoded), model.joiner.predictor(predicted)
    logits = model.joiner(encoder.unsqueeze(2), predictor.unsqueeze(1))
    assert logits.shape == (2, 16, 7, VOCABULARY)
    return logits.log_softmax(-1)[..., 3].sum()


@pytest.mark.parametrize("head", ["transducer", "ctc"])
@pytest.mark.parametrize("chunking", [Chunking(4, 8), Chunking(None)])
def test_the_gradient_reaches_every_deployed_parameter(head: str, chunking: Chunking) -> None:
    model = recogniser(head=head, ranks=(RankRule(match="*.ffn2.*", rank=3),)).train()
    joint_loss(model, chunking).backward()
    for name, parameter in deployed_parameters(model).items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


def test_deployed_parameters_are_all_but_trainings_own() -> None:
    transducer, ctc = recogniser(), recogniser(head="ctc")
    deployed = deployed_parameters(transducer)
    everything = dict(transducer.named_parameters())
    left_out = {name.split(".")[1] for name in everything.keys() - deployed.keys()}
    assert left_out == {"ctc", "simple_encoder", "simple_predictor"}
    assert {name.split(".")[0] for name in deployed} == {
        "subsampling",
        "encoder",
        "predictor",
        "joiner",
    }
    assert deployed_parameters(ctc).keys() == dict(ctc.named_parameters()).keys()
    assert {name.split(".")[0] for name in deployed_parameters(ctc)} == {
        "subsampling",
        "encoder",
        "ctc",
    }


def test_ctc_logits_come_from_the_models_head_or_the_auxiliary_one() -> None:
    encoded = torch.randn(2, 5, 16)
    ctc, transducer = recogniser(head="ctc"), recogniser()
    assert torch.equal(ctc.ctc_logits(encoded), ctc.ctc(encoded))
    assert torch.equal(transducer.ctc_logits(encoded), transducer.auxiliary["ctc"](encoded))
    assert ctc.ctc_logits(encoded).shape == (2, 5, VOCABULARY)


def test_predictor_steps_as_it_runs() -> None:
    predictor = recogniser().predictor
    labels = torch.tensor([[3, 4, 0, 5], [1, 2, 3, 4]])
    whole = predictor(labels)
    assert whole.shape == (2, 5, 8)
    context = torch.tensor([[-1, 0], [-1, 0]])
    for u in range(5):
        torch.testing.assert_close(whole[:, u], predictor.step(context))
        if u < 4:
            context = torch.cat([context[:, 1:], labels[:, u : u + 1]], dim=1)


def test_normalisation_is_part_of_the_model() -> None:
    model, plain = recogniser(), recogniser()
    plain.mean.zero_()
    plain.inverse_std.fill_(1)
    x = speech(1, 40)
    normalised = (x - model.mean) * model.inverse_std
    for chunking in (Chunking(4, 8), Chunking(None)):
        torch.testing.assert_close(
            offline(model, x, chunking), offline(plain, normalised, chunking)
        )


def test_dropout_is_off_in_evaluation_and_on_in_training() -> None:
    model, x = recogniser(), speech(1, 40)
    chunking = Chunking(None)
    assert torch.equal(offline(model, x, chunking), offline(model, x, chunking))
    model.train()
    assert not torch.equal(offline(model, x, chunking), offline(model, x, chunking))


@pytest.mark.parametrize(
    ("kind", "data", "line"),
    [
        (
            ConformerConfig,
            {"width": 20, "heads": 4},
            "encoder.width / heads = 5 must be even: pairs are rotated",
        ),
        (ConformerConfig, {"kernel": 1}, "kernel = 1: input should be greater than or equal to 2"),
        (ConformerConfig, {"dropout": 0.95}, "dropout = 0.95: input should be less than 0.9"),
        (ModelConfig, {"head": "rnn"}, "head = \"rnn\": input should be 'transducer' or 'ctc'"),
        (ModelConfig, {"joiner": 0}, "joiner = 0: input should be greater than 0"),
    ],
)
def test_impossible_shapes_are_refused(kind: type[Config], data: dict, line: str) -> None:
    with pytest.raises(UserError) as caught:
        kind.read(data, "x.toml")
    assert str(caught.value) == f"x.toml: {line}"
