"""Recorded noise to train among: a user's folder of recordings, as features that were made once.

Dimensions: T feature frames (10 ms), F mel bins.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from pocketscribe.errors import UserError
from pocketscribe.speech.features import HOP_SECONDS
from pocketscribe.speech.prepare import Prepared


class NoiseBank:
    """Recordings that pieces are drawn from."""

    def __init__(self, prepared: Prepared) -> None:
        """`prepared` without transcripts; UserError where it holds nothing."""
        self._cuts = list(prepared.cuts)
        if not self._cuts:
            listed = prepared.folder / "bad.tsv"
            raise UserError(f"augment.noise: nothing there is a recording to use; see {listed}")

    def draw(self, frames: int, generator: torch.Generator) -> Float[Tensor, "T F"]:
        """So many frames of mean power 1, from anywhere in a recording, repeated if it is short."""
        cut = self._cuts[_below(len(self._cuts), generator)]
        start = _below(max(cut.num_frames - frames, 0) + 1, generator)
        taken = min(frames, cut.num_frames)
        piece = cut.truncate(offset=start * HOP_SECONDS, duration=taken * HOP_SECONDS)
        x = torch.from_numpy(piece.load_features())
        x = x - x.exp().mean().log()
        return x.repeat(-(-frames // len(x)), 1)[:frames]


def _below(most: int, generator: torch.Generator) -> int:
    return int(torch.randint(most, (), generator=generator))
