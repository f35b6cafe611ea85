"""Few bits and N:M for a model that is not ours: any `torch.nn.Module`, by the names of its layers.

    from pocketscribe.weights import FormatRule, compress
    weights = compress(model, [FormatRule(match="*.feed_forward*", bits=4, sparsity="2:4")])

From then on the model multiplies by formatted weights, and gradients pass straight through to the
ones it had. `training.masks.Masks(weights, MaskConfig())` schedules masks as in our own stages;
`weight.packed()` gives a layer's true bits, and `weight.packed_bytes` their count.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.utils import parametrize

from pocketscribe.errors import UserError
from pocketscribe.weights.format import Format, FormatRule
from pocketscribe.weights.quantise import fake_quantise_rows
from pocketscribe.weights.rules import check_rules, resolve
from pocketscribe.weights.weight import Pipeline

KINDS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d)


class Borrowed(Pipeline):
    """A parameter of a layer that is not ours, as a matrix: all axes but the first are fan-in.

    So a pointwise convolution is formatted like the linear map that it is.
    """

    def __init__(self, key: str, parameter: Tensor, format: Format) -> None:
        super().__init__(key, format)
        self._lent = [parameter]  # in a list, so that it is registered in its own module alone

    @property
    def stored(self) -> Tensor:
        return self._lent[0].flatten(1)

    def forward(self, original: Tensor) -> Tensor:
        """The formatted parameter; torch calls this whenever the layer reads its weight."""
        self._lent[0] = original
        return self.matrix().view_as(original)


def compress(module: nn.Module, rules: Sequence[FormatRule]) -> dict[str, Borrowed]:
    """Puts the weights of linear, embedding and convolution layers under formats, in place.

    Returns each by its layer's name. First matching rule wins, as in a recipe; layers that no rule
    matches stay as they are.

    Raises:
        UserError: a rule decides for no layer; two layers with one weight are given two formats.
    """
    found: dict[str, Borrowed] = {}
    formats: dict[int, Format] = {}
    layers = {name: m for name, m in module.named_modules() if isinstance(m, KINDS)}
    check_rules(rules, layers, "compress")
    for name, layer in layers.items():
        format = resolve(name, rules, Format).for_rows_of(layer.weight[0].numel())
        if formats.setdefault(id(layer.weight), format) != format:
            raise UserError(f"{name}: its weight is another layer's too, under another format")
        if format.plain:
            continue
        found[name] = Borrowed(name, layer.weight, format)
    for name, weight in found.items():
        parametrize.register_parametrization(layers[name], "weight", weight)
        if weight.format.activations is not None and isinstance(layers[name], nn.Linear):
            layers[name].register_forward_pre_hook(_rounded(weight.format.activations))
    return found


def _rounded(bits: int):  # type: ignore[no-untyped-def]
    """A hook that rounds a layer's input as an integer kernel does."""
    return lambda layer, inputs: (fake_quantise_rows(inputs[0], bits), *inputs[1:])
