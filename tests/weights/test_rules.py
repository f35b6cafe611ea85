"""The first matching rule decides, for ranks and formats alike; one that never decides is wrong."""

import pytest
from torch import nn

from pocketscribe.errors import UserError
from pocketscribe.weights import FormatRule, RankRule, Weights, WeightSpec, compress, resolve
from pocketscribe.weights.format import Format


def ranks(*pairs: tuple[str, int | None]) -> list[RankRule]:
    return [RankRule(match=match, rank=rank) for match, rank in pairs]


def test_the_first_matching_rule_wins() -> None:
    chosen = ranks(("encoder.*.ffn?.up", 8), ("encoder.*", 4), ("*", None))
    assert resolve("encoder.blocks.0.ffn1.up", chosen, WeightSpec) == WeightSpec(rank=8)
    assert resolve("encoder.blocks.0.attention.key", chosen, WeightSpec) == WeightSpec(rank=4)
    assert resolve("joiner.out", chosen, WeightSpec) == WeightSpec()
    assert resolve("encoder.blocks.0.ffn1.up", chosen[::-1], WeightSpec) == WeightSpec()
    assert resolve("Encoder.x", ranks(("encoder.*", 4)), WeightSpec) == WeightSpec(), "case counts"
    assert resolve("anything", (), WeightSpec) == WeightSpec()


def test_formats_too() -> None:
    rules = [FormatRule(match="*.depthwise", bits=8), FormatRule(match="*", bits=4)]
    assert resolve("a.depthwise", rules, Format) == Format(bits=8)
    assert resolve("a.up", rules, Format) == Format(bits=4)
    assert resolve("a.up", rules[:1], Format) == Format()


def check(rules: list[RankRule] | tuple = (), formats: list[FormatRule] | tuple = ()) -> None:
    weights = Weights(rules, formats=formats)
    weights.linear("a.up", 8, 8)
    weights.depthwise("a.depthwise", 8, 4)
    weights.check()


def test_a_rule_that_decides_for_nothing_is_refused() -> None:
    everything, few = FormatRule(match="*", bits=8), FormatRule(match="*.depthwise", bits=4)
    check(formats=[few, everything])
    with pytest.raises(
        UserError, match=r"^formats: match = '\*\.depthwise' has no effect: earlier"
    ):
        check(formats=[everything, few])
    with pytest.raises(UserError, match=r"^formats: match = 'x' fits no weight \(they .* a\.up, a"):
        check(formats=[FormatRule(match="x", bits=4)])
    with pytest.raises(UserError, match=r"^model\.ranks: match = '\*\.up' has no effect: earl"):
        check(ranks(("a.*", 2), ("*.up", 4)))
    with pytest.raises(UserError, match=r"'a\.depthwise' has no effect: it fits no linear map"):
        check(ranks(("*.up", 2), ("a.depthwise", 2)))


def test_so_it_is_in_models_that_are_not_ours() -> None:

    model = nn.ModuleDict({"out": nn.Linear(8, 8)})
    with pytest.raises(UserError, match=r"^compress: match = 'out' has no effect: earlier rules"):
        compress(model, [FormatRule(match="*", bits=8), FormatRule(match="out", bits=4)])
