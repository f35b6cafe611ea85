"""Where layers come from: a model asks for a layer by name and never touches a weight itself."""

from collections.abc import Sequence

import torch

from pocketscribe.errors import UserError
from pocketscribe.weights.layers import Conv1d, Embedding, Linear
from pocketscribe.weights.spec import Rule, WeightSpec, resolve
from pocketscribe.weights.weight import Weight


class Weights:
    """Hands out layers by name, each built on the stored tensors that its spec asks for.

    Two names with equal keys get the same `Weight` object: that is all there is to sharing.
    """

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self.rules = tuple(rules)
        self.stored: dict[str, Weight] = {}

    def linear(self, name: str, fan_in: int, out: int, *, bias: bool = True) -> Linear:
        """A linear map (pointwise convolutions are linear maps)."""
        spec = resolve(name, self.rules)
        if spec.rank is None:
            return Linear(self._weight(name, out, fan_in), out if bias else None)
        return self._low_rank(name, fan_in, out, spec, bias)

    def embedding(self, name: str, count: int, width: int) -> Embedding:
        # Unit variance whatever the width: rows are looked up, not summed over.
        return Embedding(self._weight(name, count, width, init_scale=width**0.5))

    def depthwise(self, name: str, channels: int, kernel: int, *, bias: bool = True) -> Conv1d:
        return Conv1d(self._weight(name, channels, kernel), channels if bias else None)

    def _low_rank(self, name: str, fan_in: int, out: int, spec: WeightSpec, bias: bool) -> Linear:
        """Balanced factors U√S and √S V of a full draw, so that training starts where it would."""
        assert spec.rank is not None
        rank = min(spec.rank, fan_in, out)
        full = Weight("", out, fan_in, init_scale=3**-0.5).stored.detach()
        u, s, v = torch.linalg.svd(full, full_matrices=False)
        left = self._weight(f"{name}.u", out, rank)
        right = self._weight(f"{name}.v", rank, fan_in)
        with torch.no_grad():
            left.stored.copy_(u[:, :rank] * s[:rank].sqrt())
            right.stored.copy_(s[:rank].sqrt().unsqueeze(1) * v[:rank])
        return Linear(left, out if bias else None, right)

    def _weight(self, name: str, out: int, fan_in: int, init_scale: float = 3**-0.5) -> Weight:
        weight = self.stored.get(name)
        if weight is None:
            weight = self.stored[name] = Weight(name, out, fan_in, init_scale)
        elif tuple(weight.stored.shape) != (out, fan_in):
            raise UserError(
                f"{name}: cannot share a stored {tuple(weight.stored.shape)} tensor with a "
                f"{(out, fan_in)} one: tie only weights of one shape"
            )
        return weight
