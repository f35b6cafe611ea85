"""Every level of sharing equals a plain model that was given the same numbers again and again.

The reference is brute force: a model without any sharing, each of whose matrices is filled with
what the shared model multiplies by. Outputs must agree, and the gradient of a shared tensor must be
the sum of the gradients of its copies.
"""

import re
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from pocketscribe.errors import UserError
from pocketscribe.models import (
    Chunking,
    ModelConfig,
    Recogniser,
    start_from,
    stored_parameters,
    virtual_parameters,
)
from pocketscribe.weights import RankRule, Sharing, Weights, convert
from pocketscribe.weights.convert import matrix_of

BLOCKS = {"blocks": 2, "order": "cyclic"}
CONSECUTIVE = {"blocks": 2, "order": "consecutive"}
SHARE = {"share": [{"modules": ["ffn1", "convolution.out"], "across": "all"}]}
GROUPS = {"share": [{"modules": ["attention"], "across": 2}, {"modules": ["ffn1"]}]}
TIE = {"tie": [["ffn1", "ffn2"], ["attention.key", "attention.value"]]}
FLIPPED = {"tie": [["ffn1.up", "ffn1.down^T", "ffn2.up", "ffn2.down^T"]]}
RANK = [{"match": "*.attention.*", "rank": 3}, {"match": "*.ffn?.*", "rank": 5, "scale": True}]
SHARED_U = [{"match": "encoder.*", "rank": 4, "share_factor": "u", "across": 2}]
SHARED_V = [{"match": "encoder.*", "rank": 4, "share_factor": "v"}]

SCALED = [{"match": "*.ffn?.*", "scale": True}, {"match": "*.attention.*", "scale": True}]
FEWER_SCALES = [{"match": "*.ffn1.*", "scale": True}]
FULL = Chunking(None)

CASES: dict[str, tuple[dict[str, Any], Sequence[dict[str, Any]]]] = {
    "blocks": (BLOCKS, ()),
    "consecutive": (CONSECUTIVE, ()),
    "share": (SHARE, ()),
    "groups": (GROUPS, ()),
    "tie": (TIE, ()),
    "transposed": (FLIPPED, ()),
    "rank": ({}, RANK),
    "shared u": ({}, SHARED_U),
    "shared v": ({}, SHARED_V),
    "transposed factors": (FLIPPED, SHARED_U),
    "all four": ({**BLOCKS, **SHARE, **TIE}, SHARED_U),
    "all four, consecutive": ({**CONSECUTIVE, **GROUPS, **TIE}, SHARED_V),
}


def config(sharing: dict[str, Any], weights: Sequence[dict[str, Any]] = ()) -> ModelConfig:
    data = {
        "encoder": {"width": 16, "layers": 4, "heads": 2, "kernel": 4, "dropout": 0.0},
        "predictor": 16,
        "joiner": 16,
        "subsampling": 8,
        "sharing": sharing,
        "ranks": weights,
    }
    return ModelConfig.read(data, "test")


def model(sharing: dict[str, Any], weights: Sequence[dict[str, Any]] = ()) -> Recogniser:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ranks that save nothing at this size
        return Recogniser(config(sharing, weights), 12)


def scrambled(shared: Recogniser) -> Recogniser:
    """With scales that do something."""
    with torch.no_grad():
        for name, parameter in shared.named_parameters():
            if name.endswith(".scale"):
                parameter.uniform_(0.5, 1.5)
    return shared


def unshared(shared: Recogniser) -> Recogniser:
    """A model without sharing or rank that computes the same."""
    plain = model({})
    tensors = dict(shared.named_parameters(remove_duplicate=False))
    layers = dict(shared.named_modules(remove_duplicate=False))
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            layer, _, leaf = name.removesuffix(".stored").rpartition(".")
            if leaf == "weight" and hasattr(layers[layer], "matrix"):
                parameter.copy_(layers[layer].matrix())
            else:
                parameter.copy_(tensors[name])
    return plain


@pytest.mark.parametrize("case", CASES)
def test_equals_a_model_without_sharing(case: str) -> None:
    shared = scrambled(model(*CASES[case]))
    plain = unshared(shared)
    x, frames = torch.randn(2, 64, 80), torch.tensor([64, 48])
    outputs = []
    for each in (shared, plain):
        y, lengths = each.encode(x, frames, Chunking(4, 8))
        valid = torch.arange(y.shape[1]) < lengths[:, None]
        outputs.append(y * valid.unsqueeze(-1))
        outputs[-1].square().sum().backward()
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    assert stored_parameters(shared) < stored_parameters(plain)
    # By the chain rule through the matrices that the layers use: sums over all of these.
    layers = dict(shared.named_modules(remove_duplicate=False))
    pulled = [
        (layers[name].matrix() * layer.weight.stored.grad).sum()
        for name, layer in plain.named_modules()
        if name.startswith("encoder.") and hasattr(layer, "weight") and hasattr(layer, "matrix")
    ]
    parts = {n: p for n, p in shared.encoder.named_parameters() if p.ndim > 1}
    found = torch.autograd.grad(torch.stack(pulled).sum(), [*parts.values()], allow_unused=True)
    slopes = {name: slope for name, slope in zip(parts, found, strict=True) if slope is not None}
    assert {n.split(".")[-3] for n in parts.keys() - slopes} == {"depthwise"}, "no matrices"
    for name, slope in slopes.items():
        torch.testing.assert_close(parts[name].grad, slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_counts(case: str) -> None:
    """Stored is what is held; virtual is the plain model, and the scales that it has not."""
    shared = model(*CASES[case])
    scales = sum(p.numel() for n, p in shared.named_parameters() if n.endswith(".scale"))
    assert virtual_parameters(shared) == stored_parameters(model({})) + scales
    named = [n for n, _ in shared.named_parameters() if not n.startswith("auxiliary.")]
    assert stored_parameters(shared) == sum(shared.get_parameter(n).numel() for n in named)


def test_twelve_layers_of_four_blocks_hold_four() -> None:
    def held(layers: int, sharing: dict[str, Any]) -> int:
        data = {"encoder": {"width": 32, "layers": layers, "heads": 2}, "sharing": sharing}
        recogniser = Recogniser(ModelConfig.read(data, "test"), 12)
        weights = {id(p): p.numel() for p in recogniser.encoder.parameters() if p.ndim > 1}
        return sum(weights.values())

    assert held(12, {"blocks": 4}) == held(4, {}) == held(12, {}) // 3


def test_the_map_in_words() -> None:
    def layer(sharing: dict[str, Any], name: str) -> str:
        return str(Sharing(**sharing).key(name, 12))

    assert layer({"blocks": 4}, "e.b.7.ffn1.up") == "e.b.3.ffn1.up"
    assert layer({"blocks": 4, "order": "consecutive"}, "e.b.7.ffn1.up") == "e.b.2.ffn1.up"
    share = Sharing.read({"share": [{"modules": ["ffn1"], "across": 3}]}, "x")
    assert str(share.key("e.b.7.ffn1.up", 12)) == "e.b.6.ffn1.up"
    assert str(share.key("e.b.7.ffn10.up", 12)) == "e.b.7.ffn10.up", "a name, not a prefix"
    tie = Sharing.read({"tie": [["a.key", "a.value"], ["up", "down^T"]]}, "x")
    assert str(tie.key("e.b.7.a.value", 12)) == "e.b.7.a.key"
    assert str(tie.key("e.b.7.down", 12)) == "e.b.7.up"
    assert tie.key("e.b.7.down", 12).transposed and not tie.key("e.b.7.up", 12).transposed
    assert str(Sharing(blocks=2).key("joiner.out", 12)) == "joiner.out", "in no stack of layers"


def test_norms_biases_and_scales_are_each_layers_own() -> None:
    shared = model({"blocks": 1}, [{"match": "encoder.*", "scale": True}])
    private = {
        suffix: {id(p) for n, p in shared.encoder.named_parameters() if n.endswith(suffix)}
        for suffix in ("norm.weight", "up.bias", "up.scale")
    }
    assert {k: len(v) for k, v in private.items()} == {
        "norm.weight": 4 * 6,
        "up.bias": 4 * 2,
        "up.scale": 4 * 2,
    }


@pytest.mark.parametrize("case", CASES)
def test_converting_a_shared_model_to_its_own_sharing_changes_nothing(case: str) -> None:
    """The mean of equal matrices is that matrix, and of rank r its SVD at rank r."""
    source, target = model(*CASES[case]), model(*CASES[case])
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.zero_()
    convert(source.weights, target.weights)
    for name, use in target.weights.uses.items():
        expected = matrix_of(source.weights.uses[name])
        torch.testing.assert_close(matrix_of(use), expected, rtol=1e-4, atol=1e-5)


def test_conversion_is_the_mean_and_the_best_low_rank_fit() -> None:
    source = model({})
    target = model({"blocks": 2}, [{"match": "*.ffn1.*", "rank": 3, "share_factor": "u"}])
    start_from(target, source)

    def trained(layer: int, module: str) -> torch.Tensor:
        return source.weights.uses[f"encoder.blocks.{layer}.{module}"].weight.stored.detach()

    mean = (trained(1, "attention.key") + trained(3, "attention.key")) / 2
    use = target.weights.uses["encoder.blocks.3.attention.key"]
    torch.testing.assert_close(use.weight.stored.detach(), mean)
    # One U for both blocks: no other rank-3 pair of maps with one U is nearer.
    side = torch.cat([(trained(b, "ffn1.up") + trained(b + 2, "ffn1.up")) / 2 for b in (0, 1)], 1)
    u, s, v = torch.linalg.svd(side, full_matrices=False)
    best = (u[:, :3] * s[:3]) @ v[:3]
    found = [matrix_of(target.weights.uses[f"encoder.blocks.{b}.ffn1.up"]) for b in (0, 1)]
    torch.testing.assert_close(torch.cat(found, 1), best, rtol=1e-4, atol=1e-5)
    # What is nobody's matrix came along: norms, biases, training's heads.
    name = "encoder.blocks.3.ffn1.up.bias"
    torch.testing.assert_close(target.get_parameter(name), source.get_parameter(name))


def encoded(recogniser: Recogniser) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        return recogniser.eval().encode(torch.randn(2, 64, 80), torch.tensor([64, 64]), FULL)[0]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (({}, SCALED), ({}, ())),  # folded in
        (({}, SCALED), ({}, FEWER_SCALES)),  # folded in or carried over, layer by layer
        (({**BLOCKS, **FLIPPED}, SCALED), ({}, ())),
        ((FLIPPED, ()), ({}, SCALED)),  # starts at one
        (({}, [{"match": "*.ffn?.*", "rank": 5, "scale": True}]), ({}, ())),
        (({}, SCALED), ({}, [{"match": "*.ffn?.*", "rank": 16}])),  # factors of full rank
    ],
)
def test_private_scales_are_not_lost(theirs: tuple, ours: tuple) -> None:
    source, target = scrambled(model(*theirs)), model(*ours)
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            if name.endswith(".scale"):
                parameter.fill_(3)
    start_from(target, source)
    torch.testing.assert_close(encoded(target), encoded(source), rtol=1e-4, atol=1e-5)


def test_scales_are_carried_over_bit_for_bit() -> None:
    source, target = scrambled(model({}, SCALED)), model({}, FEWER_SCALES)
    start_from(target, source)
    for name, use in target.weights.uses.items():
        if use.scale is not None:
            assert torch.equal(use.scale, source.weights.uses[name].scale)
            assert torch.equal(use.weight.stored, source.weights.uses[name].weight.stored)


@pytest.mark.parametrize("rank", [4, 9])
def test_factors_are_balanced_and_as_large_as_the_full_draw(rank: int) -> None:
    spec = RankRule(match="*", rank=rank, share_factor="u")
    weights = Weights([spec], layers=6)
    layers = [weights.linear(f"e.{i}.up", 24, 40) for i in range(6)]
    assert len({id(layer.weight) for layer in layers}) == 1
    assert len({id(layer.factor) for layer in layers}) == 6
    for layer in layers:
        assert layer.factor is not None
        v = layer.factor().detach()
        gram = v @ v.T
        assert torch.allclose(gram, torch.diag(gram.diag()), atol=1e-5), "rows of √S V"
    sizes = torch.tensor([layer.matrix().detach().norm() for layer in layers])
    assert (sizes / sizes[0] - 1).abs().max() < 0.25


def test_only_how_weights_are_stored_may_differ() -> None:
    """4 -> 2 layers and 2 -> 4 heads fit tensor by tensor, and are another function."""
    source = model({})

    def other(vocabulary: int = 12, **changes: Any) -> Recogniser:
        data = source.config.model_dump(mode="json")
        data["encoder"] |= changes.pop("encoder", {})
        return Recogniser(ModelConfig.read({**data, **changes}, "test"), vocabulary)

    for target, line in [
        (
            other(encoder={"layers": 2}),
            "model.encoder.layers is 2 here and 4 in the model to start",
        ),
        (other(encoder={"heads": 4}), "model.encoder.heads is 4 here and 2 in"),
        (other(encoder={"kernel": 5}), "model.encoder.kernel is 5 here and 4 in"),
        (other(joiner=8), "model.joiner is 8 here and 16 in"),
        (other(head="ctc"), "model.head is ctc here and transducer in"),
        (other(vocabulary=13), "model.vocabulary is 13 here and 12 in"),
    ]:
        before = {name: p.clone() for name, p in target.named_parameters()}
        with pytest.raises(UserError, match=re.escape(line)):
            start_from(target, source)
        assert all(torch.equal(p, before[name]) for name, p in target.named_parameters())
    free = {
        "encoder": {"dropout": 0.5},
        "chunks": {"sizes": [2], "left": 4},
        "formats": [{"match": "*", "bits": 8}],
    }
    target = other(**free)
    start_from(target, source)
    assert all(torch.equal(p, target.get_parameter(n)) for n, p in source.named_parameters())


def test_layers_that_are_missing_or_of_another_size_are_refused() -> None:
    source, target = Weights(), Weights()
    source.linear("a", 4, 8)
    target.linear("a", 8, 4)
    with pytest.raises(UserError, match=r"^a: \(4, 8\) here, \(8, 4\) in the model to start from"):
        convert(source, target)
    with pytest.raises(UserError, match=r"^a: the model to start from has no such layer"):
        convert(Weights(), target)


def refused(sharing: dict[str, Any], weights: Sequence[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recogniser(config(sharing, weights), 12)


def test_refusals() -> None:
    refused({"tie": [["ffn1.up", "attention.out"]]}, (), r"attention\.out: cannot share the stored")
    refused({"share": [{"modules": ["ffn3"]}]}, (), r"no module is named 'ffn3' \(there are: atten")
    refused({"tie": [["ffn1", "fnn2"]]}, (), "no module is named 'fnn2'")
    refused({}, [{"match": "decoder.*", "rank": 2}], r"match = 'decoder\.\*' fits no weight")
    refused({"tie": [["ffn1"]]}, (), r"tie = \['ffn1'\]: a tie has two members or more")
    refused({"tie": [["ffn1.up^T", "ffn1.down"]]}, (), "comes first and so is stored as it is")
    refused({"blocks": 3}, (), r"sharing\.blocks = 3 must divide encoder\.layers = 4")
    refused({}, [{"match": "*", "share_factor": "u"}], "share_factor = 'u' needs a rank")
    refused({}, [{"match": "*", "rank": 2, "across": 2}], "across needs share_factor")
    tied, ranked = {"tie": [["ffn1", "ffn2"]]}, [{"match": "*.ffn1.*", "rank": 2}]
    refused(tied, ranked, r"ffn2\.up: is one with .*ffn1\.up by model\.sharing.* different ranks")
    refused({"blocks": 2}, [{"match": "encoder.blocks.0.*", "rank": 2}], "different ranks")
    refused({**tied, "share": [{"modules": ["ffn2"]}]}, (), "share names 'ffn2', which tie makes")
    refused({}, [{"match": "*.depthwise", "rank": 2}], "has no effect: it fits no linear map")
    twice = [{"match": "encoder.*", "rank": 2}, {"match": "*.ffn1.*", "rank": 4}]
    refused({}, twice, r"'\*\.ffn1\.\*' has no effect: earlier rules match")
    weights = Weights((), Sharing.read({"tie": [["a", "b^T"]]}, "x"))
    with pytest.raises(UserError, match="only a linear map"):
        weights.depthwise("e.0.b", 3, 4)


def test_a_rank_that_saves_nothing_is_told_with_the_break_even() -> None:
    """A 16 x 64 matrix: 1,024 numbers; rank r has 80 r: up to 12 saves."""

    def hints(**rule: object) -> list[str]:
        return list(Recogniser(config({}, [rule]), 12).weights.hints())

    [found] = hints(match="*.ffn?.up", rank=13)
    assert "rank 13 for '*.ffn?.up' stores 8,320 numbers of 64 x 16 maps" in found
    assert found.endswith("plain matrices 8,192; a rank saves up to 12")
    assert hints(match="*.ffn?.up", rank=12) == []
    # One U for all four layers: 16 r + 4 x 64 r / ... saves at higher ranks too.
    assert hints(match="*.ffn?.up", rank=14, share_factor="u") == []
    # 16 x 16 maps of attention save up to rank 7; what wide ones save must not hide that.
    found = hints(match="encoder.*", rank=8)
    assert [hint for hint in found if "of 16 x 16 maps" in hint and hint.endswith("up to 7")]


def test_a_factor_is_a_groups_or_a_layers_own() -> None:
    """A group goes by its first layer: a rule of that layer's own must not be shared unasked."""
    own = {"match": "encoder.blocks.0.ffn1.up", "rank": 4}
    shared = {"match": "*.ffn1.up", "rank": 4, "share_factor": "u"}
    with pytest.raises(UserError, match="its factor u is both shared and a layer's own"):
        Recogniser(ModelConfig.read({"ranks": [own, shared]}, "recipe"), 30)
