"""Few bits and N:M in a model that is not ours: a Conformer of Hugging Face's, random weights."""

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import Wav2Vec2ConformerConfig, Wav2Vec2ConformerForCTC

from pocketscribe.errors import UserError
from pocketscribe.training.masks import MaskConfig, Masks, settle_masks
from pocketscribe.weights import FormatRule, compress
from pocketscribe.weights.packing import unpack

RULES = (
    FormatRule(match="*feature_extractor*", bits=8),
    FormatRule(match="*.depthwise_conv", bits=8),
    FormatRule(match="*pointwise_conv*", bits=4, sparsity="1:4"),
    FormatRule(match="*encoder.layers.*", bits=4, sparsity="2:4", activations=8),
    FormatRule(match="lm_head", bits=2, symmetric=False, block=16),
)


@pytest.fixture
def conformer() -> Wav2Vec2ConformerForCTC:
    torch.manual_seed(0)
    config = Wav2Vec2ConformerConfig(
        vocab_size=12,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16, 16),
        conv_stride=(4, 4),
        conv_kernel=(8, 4),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        conv_depthwise_kernel_size=5,
        mask_time_prob=0.0,
        layerdrop=0.0,
    )
    return Wav2Vec2ConformerForCTC(config)


def loss(model: Wav2Vec2ConformerForCTC) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    audio = torch.randn(2, 1600, generator=generator)
    labels = torch.randint(1, 12, (2, 5), generator=generator)
    return model(input_values=audio, labels=labels).loss


def test_it_learns_under_its_formats(conformer: Wav2Vec2ConformerForCTC) -> None:
    float_loss = loss(conformer.eval()).item()
    weights = compress(conformer, RULES)
    assert len(weights) > 25
    conformer.train()
    masks = Masks(weights, MaskConfig(update="every_step"))
    optimiser = torch.optim.Adam(conformer.parameters(), lr=2e-3)
    losses = []
    for step in range(30):
        masks.begin(step / 30, max(step - 1, 0) / 30)
        optimiser.zero_grad()
        found = loss(conformer)
        found.backward()
        optimiser.step()
        losses.append(found.item())
    assert losses[0] != pytest.approx(float_loss, rel=1e-4)
    assert losses[-1] < 0.7 * losses[0]
    conformer.eval()
    settle_masks(weights.values())
    for name, weight in weights.items():
        layer = conformer.get_submodule(name)
        out, fan_in = weight.stored.shape
        matrix = layer.weight.detach().flatten(1)
        assert torch.equal(unpack(weight.packed(), (out, fan_in), weight.format), matrix), name
        assert weight.packed_bytes == sum(part.nbytes for part in weight.packed().values())
        if weight.format.pattern is not None and fan_in % 4 == 0:
            kept = (matrix != 0).unflatten(1, (-1, 4)).sum(-1)
            assert kept.max() <= weight.format.pattern[0], name
    up = weights["wav2vec2_conformer.encoder.layers.0.ffn1.intermediate_dense"]
    assert len(torch.unique(up.matrix()[0])) <= 15
    out, fan_in = up.stored.shape
    assert {out, fan_in} == {64, 32}
    # Of each four weights two in 4 bits, and 3 bits to say which; a float16 a row.
    assert up.packed_bytes == 64 * 32 // 4 * (2 * 4 + 3) // 8 + 2 * out


def test_a_layer_that_no_rule_names_is_left_alone(conformer: Wav2Vec2ConformerForCTC) -> None:
    before = {name: p.detach().clone() for name, p in conformer.named_parameters()}
    [weight] = compress(conformer, [FormatRule(match="lm_head", bits=4)]).values()
    for name, parameter in conformer.named_parameters():
        ours = "lm_head.parametrizations.weight.original"
        assert torch.equal(parameter, before["lm_head.weight" if name == ours else name])
    assert not torch.equal(conformer.lm_head.weight, before["lm_head.weight"])
    twin = copy.deepcopy(conformer)  # goes its own way
    with torch.no_grad():
        twin.lm_head.parametrizations.weight.original.zero_()
    assert not twin.lm_head.weight.any() and conformer.lm_head.weight.any()
    assert torch.equal(weight.stored, before["lm_head.weight"])


def test_shared_weights_stay_shared() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(8, 16), "out": nn.Linear(16, 8, bias=False)})
    model["out"].weight = model["table"].weight
    compress(model, [FormatRule(match="*", bits=4)])
    assert len(list(model.parameters())) == 1
    with torch.no_grad():
        model["table"].parametrizations.weight.original.mul_(2)
    assert torch.equal(model["table"].weight, model["out"].weight)


def test_refused() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(8, 16), "out": nn.Linear(16, 8, bias=False)})
    with pytest.raises(UserError, match="'encoder' fits no weight"):
        compress(model, [FormatRule(match="out", bits=4), FormatRule(match="encoder")])
    assert compress(model, [FormatRule(match="out")]) == {}, "a plain format is one too"
    model["out"].weight = model["table"].weight
    with pytest.raises(UserError, match="another layer's too, under another format"):
        compress(model, [FormatRule(match="out", bits=4)])
