"""Whose weights a training may end with: the best of these on dev.

Its last ones; their averages over its end; with patience, those that were best on dev meanwhile;
and, where it began with a trained model, half way from there: that is often better than both ends
on other speech (arXiv 2109.01903).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pocketscribe.models import Recogniser

AVERAGED_SHARES = (0.3, 0.1)  # of a training: the ends over which weights are averaged
AVERAGE_EVERY = 10  # steps between two snapshots of an average
LAST, BEST, HALF_WAY = "last", "best on dev", "half way from its start"


class Candidates:
    """What may be chosen from, of one model.

    Attributes:
        kept: averages and the best so far by CANDIDATE/PARAMETER, as a checkpoint keeps them.
    """

    def __init__(self, model: Recogniser, *, trained: bool) -> None:
        """`trained` says that the model has been trained before this training."""
        self.model = model
        self.start = {n: p.detach().clone() for n, p in model.named_parameters() if trained}
        self.kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def average(self, step: int, done: float, snapshots: dict[str, int]) -> None:
        """Every few steps, folds the model's weights into each average that has begun by now.

        `done` is the share of the training that is behind it, `snapshots` what each average holds.
        """
        for share in AVERAGED_SHARES:
            if step % AVERAGE_EVERY or done < 1 - share:
                continue
            which = f"mean of the last {share:.0%}"
            snapshots[which] = snapshots.get(which, 0) + 1
            if snapshots[which] == 1:
                self._keep(which)
                continue
            for name, parameter in self.model.named_parameters():
                self.kept[f"{which}/{name}"].lerp_(parameter, 1 / snapshots[which])

    def keep_best(self) -> None:
        """The model's weights are the best on dev so far."""
        self._keep(BEST)

    @torch.no_grad()
    def choose(self, score: Callable[[str], float | None]) -> str:
        """Puts the best into the model; its last ones where nothing can be scored. Says which.

        `score` hears which candidate lies in the model, and says its errors on dev, None without.
        """
        parameters = dict(self.model.named_parameters())
        last = {name: p.detach().clone() for name, p in parameters.items()}
        found = {LAST: last}
        if self.start:
            found[HALF_WAY] = {name: torch.lerp(self.start[name], last[name], 0.5) for name in last}
        for key, tensor in self.kept.items():
            which, name = key.split("/", 1)
            found.setdefault(which, {})[name] = tensor

        def fill(which: str) -> None:
            for name, tensor in found[which].items():
                parameters[name].copy_(tensor)

        scores: dict[str, float] = {}
        for which in found:
            fill(which)
            errors = score(which) if len(found) > 1 else None
            scores[which] = math.inf if errors is None else errors
        chosen = min(scores, key=lambda which: scores[which])
        fill(chosen)
        return chosen

    def _keep(self, which: str) -> None:
        for name, parameter in self.model.named_parameters():
            self.kept[f"{which}/{name}"] = parameter.detach().clone()
