"""A student that is a part of its teacher: the very numbers."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from large import MODELS, SMALL, large
from pocketscribe.errors import UserError
from pocketscribe.models.cutting import check_cut, cut, plain
from pocketscribe.models.recogniser import stored_parameters

WIDTH = torch.tensor([0, 2, 3, 5, 7, 8, 9, 11, 12, 13, 15, 16, 18, 20, 21, 23])
THREE = torch.arange(32) * 3


def kept(layers: Sequence[int], mixer: str = "attention") -> dict[str, Tensor]:
    """As many units of each dimension as SMALL has."""
    sizes = {"predictor": 12, "joiner": 8, "subsampling": 8}
    found = {name: torch.arange(size) + 1 for name, size in sizes.items()} | {"width": WIDTH}
    for layer in layers:
        block = f"encoder.blocks.{layer}"
        found |= {f"{block}.ffn1": torch.arange(32) * 2, f"{block}.ffn2": THREE}
        found |= {f"{block}.{mixer}": torch.tensor([0, 3]), f"{block}.convolution": WIDTH}
    return found


@pytest.mark.parametrize(("family", "mixer"), [("conformer", "attention"), ("mhssm", "ssm")])
def test_every_number_of_a_cut_is_one_of_its_source(family: str, mixer: str) -> None:
    """Looked up one by one, by hand, in the layers and channels that were asked for."""
    source, target = large(MODELS[family]), large(MODELS[family], SMALL, seed=5)
    cut(source, target, [1, 3], kept([1, 3], mixer))
    student, teacher = target.encoder.blocks[1], source.encoder.blocks[3]
    assert torch.equal(student.ffn2.up.weight(), teacher.ffn2.up.weight()[THREE][:, WIDTH])
    assert torch.equal(student.ffn2.up.bias, teacher.ffn2.up.bias[THREE])
    assert torch.equal(student.norm.weight, teacher.norm.weight[WIDTH])
    heads = torch.tensor([*range(6), *range(18, 24)])  # the first and the last of four, six each
    here, there = getattr(student, mixer), getattr(teacher, mixer)
    assert torch.equal(here.value.weight(), there.value.weight()[heads][:, WIDTH])
    assert torch.equal(here.out.weight(), there.out.weight()[WIDTH][:, heads])
    if family == "mhssm":
        assert torch.equal(here.state_space.read, there.state_space.read[[0, 3]])
    one = torch.arange(8) + 1
    stacked = torch.cat([one, one + 16, one + 32])
    conv2 = source.subsampling.conv2.weight()
    assert torch.equal(target.subsampling.conv2.weight(), conv2[WIDTH][:, stacked])
    assert torch.equal(target.auxiliary["ctc"].weight, source.auxiliary["ctc"].weight[:, WIDTH])


def test_a_cut_can_be_shared_and_factored() -> None:
    """As ever, out of whole matrices: the mean of a block's layers."""
    source, whole = large(), large(SMALL, seed=5)
    shared = large(SMALL, {"sharing": {"blocks": 1}}, seed=5)
    factored = large(SMALL, {"ranks": [{"match": "encoder.*.ffn?.*", "rank": 16}]}, seed=5)
    for target in (whole, shared, factored):
        cut(source, target, [2, 3], kept([2, 3]))
    layers = [block.ffn1.up.weight() for block in whole.encoder.blocks]
    both = shared.encoder.blocks[0].ffn1.up.weight()
    torch.testing.assert_close(both, torch.stack(layers).mean(0))
    torch.testing.assert_close(factored.encoder.blocks[0].ffn1.up.matrix(), layers[0])
    assert stored_parameters(shared) < stored_parameters(whole)
    assert torch.equal(plain(shared).encoder.blocks[1].ffn1.up.weight(), both)


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
