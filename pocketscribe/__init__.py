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
    hotwords: Sequence[str] = (),
    chunk: int | Literal["full"] | None = None,
    device: str = "cpu",
    engine: bool | None = None,
) -> "Model":
    """Opens a run's folder, a checkpoint, or an exported file or folder.

    Args:
        beam: width of the beam; 1 is greedy, and is taken where neither of the next is given.
        lm: a language model's file (`pocketscribe lm`).
        hotwords: words and phrases to prefer.
        chunk: latency in frames of 40 ms, out of those the model was trained for.
        device: cpu, cuda or auto.
        engine: whether the native engine is to run it; None: where it is installed and can.

    Raises:
        pocketscribe.errors.UserError: there is no such model, or it is damaged.
    """
    from pocketscribe.api import Model  # here: PyTorch takes seconds to import
    from pocketscribe.decoding.searcher import SearchConfig
    from pocketscribe.export.open import open_model

    search = SearchConfig.read({"beam": beam, "lm": lm, "hotwords": list(hotwords)}, "load")
    return Model(open_model(Path(model), search, chunk, device, engine))
