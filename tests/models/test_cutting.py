"""A student that is a part of its teacher: the very numbers, and the same outputs where it can."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from large import UNITS, large
from pocketscribe.errors import UserError
from pocketscribe.models import Chunking, Recogniser
from pocketscribe.models.cutting import check_cut, cut, plain
from pocketscribe.models.recogniser import stored_parameters
from pocketscribe.speech.batches import Batch
from pocketscribe.training.cutting import CutConfig, by_gradient, by_norm, cut_from
from pocketscribe.training.objectives import LossConfig, Plain, StepContext

CHUNKING = Chunking(4, 8)
SMALL = {
    "encoder": {"width": 16, "layers": 2, "heads": 2, "head_width": 6, "ffn": 2},
    "predictor": 12,
    "joiner": 8,
    "subsampling": 8,
}


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


FAMILIES = [{}, {"encoder": {"family": "mhssm", "modes": 4}}]


@pytest.mark.parametrize("family", FAMILIES, ids=["conformer", "mhssm"])
def test_all_of_a_model_is_the_model(family: dict[str, Any]) -> None:
    source, target = large(family), large(family, seed=5)
    cut_from(target, source, CutConfig(), None)
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[name]), name


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


@pytest.mark.parametrize("family", FAMILIES, ids=["conformer", "mhssm"])
def test_every_number_of_a_cut_is_one_of_its_source(family: dict[str, Any]) -> None:
    """Looked up one by one, by hand, in the layers and channels that were asked for."""
    source, target = large(family), large(family, SMALL, seed=5)
    width = torch.tensor([0, 2, 3, 5, 7, 8, 9, 11, 12, 13, 15, 16, 18, 20, 21, 23])
    sizes = {"predictor": 12, "joiner": 8, "subsampling": 8}
    kept = {name: torch.arange(size) + 1 for name, size in sizes.items()} | {"width": width}
    mixer = "ssm" if family else "attention"
    for layer in (1, 3):
        block = f"encoder.blocks.{layer}"
        kept |= {f"{block}.ffn1": torch.arange(32) * 2, f"{block}.ffn2": torch.arange(32) * 3}
        kept |= {f"{block}.{mixer}": torch.tensor([0, 3]), f"{block}.convolution": width + 0}
    cut(source, target, [1, 3], kept)
    student, teacher = target.encoder.blocks[1], source.encoder.blocks[3]
    three = torch.arange(32) * 3
    assert torch.equal(student.ffn2.up.weight(), teacher.ffn2.up.weight()[three][:, width])
    assert torch.equal(student.ffn2.up.bias, teacher.ffn2.up.bias[three])
    assert torch.equal(student.norm.weight, teacher.norm.weight[width])
    heads = torch.tensor([*range(6), *range(18, 24)])  # the first and the last of four, six each
    here, there = getattr(student, mixer), getattr(teacher, mixer)
    assert torch.equal(here.value.weight(), there.value.weight()[heads][:, width])
    assert torch.equal(here.out.weight(), there.out.weight()[width][:, heads])
    if family:
        assert torch.equal(here.state_space.read, there.state_space.read[[0, 3]])
    one = torch.arange(8) + 1
    stacked = torch.cat([one, one + 16, one + 32])
    conv2 = source.subsampling.conv2.weight()
    assert torch.equal(target.subsampling.conv2.weight(), conv2[width][:, stacked])
    assert torch.equal(target.auxiliary["ctc"].weight, source.auxiliary["ctc"].weight[:, width])


def test_a_cut_can_be_shared_and_factored() -> None:
    """As ever, out of whole matrices: the mean of a block's layers."""
    source, whole = large(), large(SMALL, seed=5)
    shared = large(SMALL, {"sharing": {"blocks": 1}}, seed=5)
    factored = large(SMALL, {"ranks": [{"match": "encoder.*.ffn?.*", "rank": 16}]}, seed=5)
    for target in (whole, shared, factored):
        cut_from(target, source, CutConfig(layers="last"), None)
    layers = [block.ffn1.up.weight() for block in whole.encoder.blocks]
    both = shared.encoder.blocks[0].ffn1.up.weight()
    torch.testing.assert_close(both, torch.stack(layers).mean(0))
    torch.testing.assert_close(factored.encoder.blocks[0].ffn1.up.matrix(), layers[0])
    assert stored_parameters(shared) < stored_parameters(whole)
    assert torch.equal(plain(shared).encoder.blocks[1].ffn1.up.weight(), both)


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


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"encoder": {"width": 32}}, "encoder.width is 32 here and 24 in the model that it is cut"),
        ({"encoder": {"ffn": 8}}, "encoder.inner (width x ffn) is 192 here and 96"),
        ({"encoder": {"heads": 2}}, "encoder.head_width is 12 here and 6 in the model that it is"),
        ({"encoder": {"kernel": 8}}, "encoder.kernel is 8 here and 4"),
        ({"encoder": {"family": "mhssm"}}, "encoder.family is mhssm here and conformer"),
        ({"joiner": 40}, "model.joiner is 40 here and 20"),
    ],
)
def test_what_cannot_be_cut(change: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as refused:
        check_cut(large(change).config, large().config)
    assert line in str(refused.value)


@pytest.mark.parametrize("units", ["first", "norm"])
def test_a_layer_that_is_kept_is_no_narrower_than_asked(units: str) -> None:
    def uneven(inner: list[int]) -> Recogniser:
        encoder = {"width": 16, "layers": len(inner), "heads": 2, "head_width": 6, "inner": inner}
        return large({**SMALL, "encoder": encoder})

    with pytest.raises(UserError, match=r"blocks\.0\..*: 16 units are asked, and .* has 8"):
        cut_from(uneven([16]), uneven([8, 16]), CutConfig(layers="first", units=units), None)
