"""Sub-networks: the largest is the model, each is its own copy to the bit, groups stay whole."""

from typing import Any

import pytest
import torch

from large import FORMATS, MODELS, SPACE, UNITS, large, space_of
from pocketscribe.errors import UserError
from pocketscribe.models import Chunking, Recogniser, stored_parameters
from pocketscribe.models.saved import Saved, load_model, save_packed
from pocketscribe.models.subnets import Space, SpaceConfig, extract, sliced
from pocketscribe.training.masks import settle


def said(found: Recogniser, tensors: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
    """Logits of some frames and contexts, by the model's weights or by others."""

    class Said(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = found

        def forward(self) -> torch.Tensor:
            generator = torch.Generator().manual_seed(1)
            x, frames = torch.randn(2, 40, 80, generator=generator), torch.tensor([40, 28])
            encoded, _ = found.encode(x, frames, Chunking(4, 8))
            contexts = torch.tensor([[1, 2], [3, 4]])
            predicted = found.joiner.predictor(found.predictor.step(contexts))
            joined = found.joiner(found.joiner.encoder(encoded), predicted[:, None])
            return torch.cat([joined, found.ctc_logits(encoded)], -1)

    module = Said()
    named = {f"model.{name}": t for name, t in (tensors or {}).items()}
    return torch.func.functional_call(module, named, ()) if tensors else module()


@pytest.mark.parametrize("name", MODELS)
def test_the_largest_is_the_model_and_each_is_its_own_copy(name: str) -> None:
    whole = large(MODELS[name])
    space = space_of(name, whole)
    assert space.sub_config(space.largest) == whole.config
    drawn = [space.draw(torch.Generator().manual_seed(seed)) for seed in range(6)]
    for sizes in (space.largest, space.smallest, *drawn):
        config = space.sub_config(sizes)
        copy = extract(whole, config)
        with torch.device("meta"):
            small = Recogniser(config, UNITS).eval()
        found = said(small, sliced(whole, small))
        assert torch.equal(found, said(copy))
        if sizes == space.largest:
            assert torch.equal(found, said(whole))
            assert copy.state_dict().keys() == whole.state_dict().keys()
        else:
            assert stored_parameters(copy) < stored_parameters(whole)
        assert copy.config.encoder.layers == sizes.layers == len(copy.encoder.blocks)
        for block, inner in zip(copy.encoder.blocks, sizes.inner, strict=True):
            assert block.ffn1.up.bias.shape == (inner,)
            if name == "factored":
                assert block.ffn1.up.weight.stored.shape[1] == sizes.rank
    assert len({str(s) for s in drawn}) > 3


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_the_slices_and_nothing_else(name: str) -> None:
    whole = large(MODELS[name])
    space = space_of(name, whole)
    config = space.sub_config(space.smallest)
    with torch.device("meta"):
        small = Recogniser(config, UNITS).train()
    copy = extract(whole, config)
    said(small, sliced(whole, small)).square().sum().backward()
    said(copy).square().sum().backward()
    slopes = dict(copy.named_parameters())
    # Where a copy's gradient goes, sliced likewise, and zero everywhere else.
    grads = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
    total = sum(g.abs().sum().item() for g in grads.values())
    assert total == pytest.approx(
        sum(p.grad.abs().sum().item() for p in slopes.values() if p.grad is not None), rel=1e-4
    )
    bias = whole.encoder.blocks[0].ffn1.up.bias.grad
    assert torch.equal(bias[:32], copy.encoder.blocks[0].ffn1.up.bias.grad)
    assert bias[32:].abs().sum() == 0


def test_by_hand() -> None:
    """Which numbers of which tensors: the first units, of each stacked frame and each head."""
    whole = large({})
    space = Space(whole, SPACE)
    small = extract(whole, space.sub_config(space.smallest))
    conv2 = whole.subsampling.conv2.weight()
    assert torch.equal(small.subsampling.conv2.weight(), conv2[:16])  # as stacked as ever
    here, there = small.encoder.blocks[1].attention, whole.encoder.blocks[1].attention
    assert torch.equal(here.query.weight(), there.query.weight()[:12, :16])  # two heads of six
    assert torch.equal(here.out.weight(), there.out.weight()[:16, :12])
    assert torch.equal(small.joiner.predictor.weight(), whole.joiner.predictor.weight()[:12, :8])
    assert torch.equal(small.auxiliary["ctc"].weight, whole.auxiliary["ctc"].weight[:, :16])


def test_a_sub_network_is_an_ordinary_model(tmp_path: Any) -> None:
    whole = large(MODELS["formatted"])
    space = Space(whole, SPACE)
    small = extract(whole, space.sub_config(space.smallest))
    settle(small)
    path = tmp_path / "small.pocket"
    save_packed(path, Saved(small, "{}"))
    assert torch.equal(said(extract_shipped(path, small)), said(small))


def extract_shipped(path: Any, small: Recogniser) -> Recogniser:
    """What a file holds, with the heads of training that it does not."""
    found = load_model(path).model
    found.auxiliary = small.auxiliary
    return found


@pytest.mark.parametrize(
    ("change", "space", "line"),
    [
        ({}, {"width": (32,)}, "supernet.width: 32 is no size of a model with width = 24"),
        ({}, {"rank": (6,)}, "supernet.rank: 6 is no size of a model with rank = 0"),
        ({}, {"layers": (0,)}, "supernet.layers: 0 is no size of a model with layers = 4"),
        (
            {"sharing": {"blocks": 2}},
            {"layers": (3,)},
            "supernet.layers: 3 layers are no whole repetitions of sharing.blocks = 2",
        ),
        ({"formats": FORMATS}, {"width": (18,)}, "supernet.width: 18 does not divide into groups"),
        ({"formats": FORMATS}, {"inner": (33,)}, "supernet.inner: 33 does not divide into groups"),
        ({"formats": FORMATS}, {"heads": (1,)}, "supernet.heads: 1 x 6 channels do not divide"),
    ],
)
def test_sizes_that_do_not_fit(change: dict[str, Any], space: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as refused:
        Space(large(change), SpaceConfig(**space))
    assert line in str(refused.value)


def test_layers_that_differ_inside() -> None:
    """No sub-network is wider than the model in any layer, whatever is chosen or claimed."""
    model = large({"encoder": {"inner": [64, 32, 64, 32]}})
    space = Space(model, SpaceConfig(width=(16,), inner=(24, 48)))
    assert space.largest.inner == (64, 32, 64, 32) and space.smallest.inner == (24,) * 4
    generator = torch.Generator().manual_seed(0)
    drawn = [space.draw(generator) for _ in range(50)]
    assert {sizes.inner[1] for sizes in drawn} == {24, 32}
    assert {sizes.inner[0] for sizes in drawn} == {24, 48, 64}
    for sizes in drawn[:5]:
        assert extract(model, space.sub_config(sizes)).config.encoder.insides == sizes.inner
    with pytest.raises(UserError, match=r"sizes\.inner: \[64, 48, 64, 32\] are no sizes of"):
        space.sub_config(space.largest.model_copy(update={"inner": (64, 48, 64, 32)}))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"width": 10**9}, "sizes.width: 1000000000 is no size of 24 or less"),
        ({"layers": 0, "inner": ()}, "sizes.layers: 0 is no size"),
        ({"rank": 3}, "sizes.rank: 3 is no size of 0 or less"),
        ({"inner": (32,)}, "sizes.inner: [32] are no sizes of ["),
        ({"inner": (32, 10**9)}, "sizes.inner"),
    ],
)
def test_sizes_that_a_file_claims(change: dict[str, Any], line: str) -> None:
    space = Space(large({}), SPACE)
    with pytest.raises(UserError) as refused:
        space.sub_config(space.smallest.model_copy(update=change))
    assert line in str(refused.value)


def test_layers_that_share_either_feed_forward_have_one_width_inside() -> None:
    """The second one alone is shared: by all, or by two and two."""
    for across, groups in (("all", [0, 0, 0, 0]), (2, [0, 0, 2, 2])):
        sharing = {"share": [{"modules": ["ffn2"], "across": across}]}
        whole = large({"sharing": sharing})
        space = Space(whole, SpaceConfig(inner=(8,)))
        assert space.groups == groups[: whole.config.encoder.layers]
        for seed in range(8):
            extract(whole, space.sub_config(space.draw(torch.Generator().manual_seed(seed))))
