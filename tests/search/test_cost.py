"""Bytes by arithmetic are the bytes of the model that one would build."""

from math import prod

import pytest
import torch

from large import MODELS, UNITS, large, space_of
from pocketscribe.models import Recogniser
from pocketscribe.models.packed import expected_layout
from pocketscribe.search.cost import FileBytes
from pocketscribe.weights import FormatRule

RULES = {
    "float16": (),
    "int8": (FormatRule(match="*", bits=8),),
    "mixed": (
        FormatRule(match="subsampling.*", bits=8, symmetric=False),
        FormatRule(match="encoder.*", bits=4, sparsity="2:4", block=8),
    ),
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", MODELS)
def test_every_sub_network_to_the_byte(name: str, rules: str) -> None:
    space = space_of(name, large(MODELS[name]))
    found = FileBytes(space, UNITS)
    generator = torch.Generator().manual_seed(0)
    drawn = [space.draw(generator) for _ in range(20)]
    for sizes in (space.largest, space.smallest, *drawn):
        config = space.sub_config(sizes).model_copy(update={"formats": RULES[rules]})
        with torch.device("meta"):
            laid = expected_layout(Recogniser(config, UNITS))
        built = sum(dtype.itemsize * prod(shape) for dtype, shape in laid.values())
        assert found(sizes, RULES[rules]) == built, sizes


def test_no_model_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    space = space_of("conformer", large({}))
    found = FileBytes(space, UNITS)
    monkeypatch.setattr(Recogniser, "__init__", lambda *_: pytest.fail("a model is built"))
    generator = torch.Generator().manual_seed(0)
    sizes = {found(space.draw(generator), RULES["mixed"]) for _ in range(100)}
    assert len(sizes) > 50
