"""Which layers and units a student keeps: the same outputs where it can, the loss's own choice."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from large import MODELS, SMALL, UNITS, large
from pocketscribe.errors import UserError
from pocketscribe.models import Chunking, Recogniser
from pocketscribe.models.cutting import cut
from pocketscribe.speech.batches import Batch
from pocketscribe.training.cutting import CutConfig, by_gradient, by_norm, cut_from
from pocketscribe.training.objectives import LossConfig, Plain, StepContext

CHUNKING = Chunking(4, 8)
FAMILIES = [MODELS["conformer"], MODELS["mhssm"]]


def encoded(found: Recogniser) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    features, frames = torch.randn(2, 40, 80, generator=generator), torch.tensor([40, 28])
    with torch.no_grad():
        return found.encode(features, frames, CHUNKING)[0]


def dev() -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    features, frames = torch.randn(3, 60, 80, generator=generator), torch.tensor([60, 48, 60])
    targets = torch.randint(1, UNITS, (3, 5), generator=generator)
    return [Batch(features, frames, targets, torch.tensor([5, 3, 4]), 1.68, 168)]


@pytest.mark.parametrize("family", FAMILIES, ids=["conformer", "mhssm"])
def test_all_of_a_model_is_the_model(family: dict[str, Any]) -> None:
    source, target = large(family), large(family, seed=5)
    cut_from(target, source, CutConfig(), None)
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[name]), name


def test_heads_that_a_model_came_without_say_nothing() -> None:
    """They are there before it is loaded, drawn at random, and not afterwards."""
    one, other = large({}), large({}, seed=5)
    shipped = {n: t for n, t in one.state_dict().items() if not n.startswith("auxiliary.")}
    other.load_state_dict({**other.state_dict(), **shipped})
    assert not torch.equal(by_norm(one)["width"], by_norm(other)["width"])
    one.auxiliary = other.auxiliary = nn.ModuleDict()
    assert torch.equal(by_norm(one)["width"], by_norm(other)["width"])


@pytest.mark.parametrize("family", FAMILIES, ids=["conformer", "mhssm"])
def test_the_worthiest_first_is_the_same_model_in_another_order(family: dict[str, Any]) -> None:
    source, target = large(family), large(family, seed=5)
    cut_from(target, source, CutConfig(ranked=True), None)
    contexts = torch.tensor([[1, 2], [3, 4]])
    here, there = (
        m.joiner(
            m.joiner.encoder(encoded(m)), m.joiner.predictor(m.predictor.step(contexts))[:, None]
        )
        for m in (target, source)
    )
    torch.testing.assert_close(here, there, atol=1e-4, rtol=1e-4)
    moved = 0
    before = by_norm(source)
    for name, worth in by_norm(target).items():
        if name:
            torch.testing.assert_close(worth, before[name].sort(descending=True).values)
            moved += not torch.equal(worth, before[name])
    assert moved > 10

    shipped, target = large(family), large(family, seed=5)
    shipped.auxiliary = nn.ModuleDict()
    heads = {name: tensor.clone() for name, tensor in target.auxiliary.state_dict().items()}
    cut_from(target, shipped, CutConfig(ranked=True), None)
    assert all(torch.equal(heads[name], t) for name, t in target.auxiliary.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES, ids=["conformer", "mhssm"])
def test_units_that_do_nothing_can_go(family: dict[str, Any]) -> None:
    """Insides whose maps out are zero: without them, chosen by either measure, nothing changes."""
    sizes = {"encoder": {"heads": 2, "head_width": 6}, "joiner": 8}
    source, target = large(family), large(family, sizes, seed=5)
    gone = {"joiner": [0, *range(3, 14)]}
    for i in range(4):
        name = "ssm" if family else "attention"
        gone[f"encoder.blocks.{i}.{name}"] = [i % 2, 2 + i % 2]
    with torch.no_grad():
        for sized in source.weights.dims.sized:
            for axis, dim in enumerate(sized.dims):
                if dim.name in gone:
                    places = dim.places(torch.tensor(gone[dim.name]))
                    sized.tensor.index_fill_(axis, places, 0.0)
    for config, speech in ((CutConfig(), None), (CutConfig(units="gradient"), dev())):
        cut_from(target, source, config, speech)
        torch.testing.assert_close(encoded(target), encoded(source), atol=1e-5, rtol=1e-4)
        frames, contexts = torch.randn(2, 24), torch.tensor([[1, 2], [3, 4]])
        logits = [
            m.joiner(m.joiner.encoder(frames), m.joiner.predictor(m.predictor.step(contexts)))
            for m in (source, target)
        ]
        torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-4)


def test_the_largest_norms_stay() -> None:
    source, target = large(), large({"joiner": 8}, seed=5)
    loud = torch.tensor([1, 4, 5, 9, 10, 12, 17, 19])
    with torch.no_grad():
        source.joiner.out.weight.stored[:, loud] *= 100
    cut_from(target, source, CutConfig(), None)
    assert torch.equal(target.joiner.out.weight(), source.joiner.out.weight()[:, loud])
    assert by_norm(source)["joiner"].topk(8).indices.sort().values.equal(loud)


def dev_loss(found: Recogniser) -> float:
    loss = LossConfig() if found.auxiliary else LossConfig(transducer="full", ctc=0.0)
    context = StepContext(1_000_000, found.config.chunks.streaming)
    with torch.no_grad():
        batch = replace(dev()[0], features=dev()[0].features.to(found.mean.dtype))
        return Plain(found, loss)(batch, context)["loss"].item()


def shipped() -> Recogniser:
    """A model without the heads that only training needs."""
    model = large()
    model.auxiliary = nn.ModuleDict()
    return model


@pytest.mark.parametrize("made", [large, shipped])
def test_a_gradient_says_what_the_loss_would_lose(made: Callable[[], Recogniser]) -> None:
    """Against the loss of models in which one unit is a little smaller, in all of its tensors."""
    source = made().double()
    found = by_gradient(source, [replace(dev()[0], features=dev()[0].features.double())])
    for name, unit in (("joiner", 3), ("encoder.blocks.2.attention", 1), ("subsampling", 7)):
        losses = []
        for change in (1e-3, -1e-3):  # the encoder adds up in float32
            moved = made().double()
            with torch.no_grad():
                for sized in moved.weights.dims.sized:
                    for axis, dim in enumerate(sized.dims):
                        if dim.name == name:
                            places = dim.places(torch.tensor([unit]))
                            factors = torch.ones(len(dim)).index_fill(0, places, 1 + change)
                            factors = factors.unflatten(
                                0, (-1, *[1] * (sized.tensor.ndim - axis - 1))
                            )
                            sized.tensor.mul_(factors)
            losses.append(dev_loss(moved) / dev()[0].total_frames)
        slope = (losses[0] - losses[1]) / 2e-3
        assert found[name][unit].item() == pytest.approx(slope**2, rel=2e-2)


@pytest.mark.parametrize(
    ("layers", "kept"), [("first", [0, 1]), ("last", [2, 3]), ("even", [0, 3]), ("dropped", None)]
)
def test_layers_that_are_kept(layers: str, kept: list[int] | None) -> None:
    """Dropped are those without which the loss is least, one after the other."""
    source, target = large(), large({"encoder": {"layers": 2}}, seed=5)
    if kept is None:
        kept = [0, 1, 2, 3]
        for count in (3, 2):
            losses = {}
            for out in kept:
                thinner = large({"encoder": {"layers": count}})
                cut(source, thinner, [i for i in kept if i != out], {})
                losses[out] = dev_loss(thinner)
            kept.remove(min(losses, key=lambda out: losses[out]))
    cut_from(target, source, CutConfig(layers=layers), dev())
    for here, there in enumerate(kept):
        found = target.encoder.blocks[here].ffn1.up.weight()
        assert torch.equal(found, source.encoder.blocks[there].ffn1.up.weight())


@pytest.mark.parametrize("layers", ["even", "first", "last", "dropped"])
@pytest.mark.parametrize("units", ["norm", "first", "gradient"])
def test_a_choice_listens_or_is_made_without_speech(
    layers: Literal["even", "first", "last", "dropped"],
    units: Literal["norm", "first", "gradient"],
) -> None:
    """So that a recipe knows whether to ask for some."""
    config = CutConfig(layers=layers, units=units)
    assert config.listens is (layers == "dropped" or units == "gradient")
    if not config.listens:
        deaf, hearing = large(SMALL, seed=5), large(SMALL, seed=5)
        cut_from(deaf, large(), config, None)
        cut_from(hearing, large(), config, dev())
        for (name, one), other in zip(
            deaf.state_dict().items(), hearing.state_dict().values(), strict=True
        ):
            assert torch.equal(one, other), name


@pytest.mark.parametrize("units", ["first", "norm"])
def test_a_layer_that_is_kept_is_no_narrower_than_asked(units: str) -> None:
    def uneven(inner: list[int]) -> Recogniser:
        encoder = {"width": 16, "layers": len(inner), "heads": 2, "head_width": 6, "inner": inner}
        return large({**SMALL, "encoder": encoder})

    with pytest.raises(UserError, match=r"blocks\.0\..*: 16 units are asked, and .* has 8"):
        cut_from(uneven([16]), uneven([8, 16]), CutConfig(layers="first", units=units), None)
