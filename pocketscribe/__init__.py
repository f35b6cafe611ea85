"""Pocketscribe trains streaming speech recognisers, shrinks them, and ships them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pocketscribe.api import Model

__all__ = ["load"]
__version__ = "0.1.0"


def load(
    model: str | Path,
    *,
    beam: int | None = None,
    lm: str | Path | None = None,
    lm_scale: float | None = None,
    label_bonus: float | None = None,
    hotwords: Sequence[str] = (),
    hotword_score: float | None = None,
    chunk: int | Literal["full"] | None = None,
    device: str = "cpu",
    engine: bool | None = None,
) -> "Model":
    """Opens a run's folder, a checkpoint, or an exported file or folder.

    Args:
        beam: width of the beam; 1 is greedy, and is taken where neither of the next is given.
        lm: a language model's file (`pocketscribe lm`).
        lm_scale, label_bonus: a language model's weight, and what each label is worth beside it.
        hotwords: words and phrases to prefer.
        hotword_score: what each unit of them is worth, in nats.
        chunk: latency in frames of 40 ms, out of those the model was trained for.
        device: cpu, cuda or auto.
        engine: whether the native engine is to run it; None: where it is installed and can.

    Raises:
        pocketscribe.errors.UserError: there is no such model, or it is damaged.
    """
    from pocketscribe.api import Model  # here: PyTorch takes seconds to import
    from pocketscribe.decoding.searcher import DecodingConfig
    from pocketscribe.export.open import open_model

    search = DecodingConfig.given(
        "load",
        beam=beam,
        lm=lm,
        lm_scale=lm_scale,
        label_bonus=label_bonus,
        hotwords=[hotwords] if isinstance(hotwords, str) else list(hotwords),
        hotword_score=hotword_score,
    )
    return Model(open_model(Path(model), search, chunk, device, engine))
