"""Shallow fusion: a language model that has a say in a beam search.

Dimensions: V vocabulary.
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pocketscribe.lm.kneser_ney import FIRST, START
from pocketscribe.lm.ngram import ROWS, Ngram


class ShallowFusion:
    """A `Guide`: `scale` x the model's log-probability of a label, and a bonus for each label."""

    def __init__(self, model: Ngram, scale: float, bonus: float) -> None:
        self.model, self.scale, self.bonus = model, scale, bonus
        self.start = model.after(0, START)
        self.scores = lru_cache(maxsize=ROWS)(self._scores)

    def _scores(self, state: int) -> Float[Tensor, " V"]:
        found = self.scale * self.model.log_probs_after(state) + self.bonus
        found[:FIRST] = 0
        return torch.from_numpy(found.astype(np.float32))

    def after(self, state: int, label: int) -> int:
        return self.model.after(state, label)

    def owed(self, state: int) -> float:
        return 0.0
