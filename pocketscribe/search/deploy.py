"""From a supernet to a file: a sub-network in its formats, an ordinary model."""

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pocketscribe.errors import UserError
from pocketscribe.export.export import FOLDERS, check_target, export_saved
from pocketscribe.export.open import model_file
from pocketscribe.files import replacing
from pocketscribe.models import ModelConfig, stored_parameters
from pocketscribe.models.chunks import Chunk
from pocketscribe.models.saved import Saved, load_model, save_packed
from pocketscribe.models.subnets import Space, SpaceConfig, extract
from pocketscribe.search.frontier import Confirmed, Point, frontier_of, within
from pocketscribe.training.masks import settle
from pocketscribe.weights import FormatRule

OF_THE_WHOLE = ("frontier", "scores")  # what a supernet's card says and a sub-network's does not


def take(
    supernet: Saved,
    config: ModelConfig,
    rules: Sequence[FormatRule],
    confirmed: Confirmed | None = None,
) -> Saved:
    """A sub-network in post-training formats, as its file will hold it."""
    model = extract(supernet.model, config.model_copy(update={"formats": tuple(rules)})).eval()
    if rules:
        settle(model)
    card: dict[str, Any] = {k: v for k, v in supernet.card.items() if k not in OF_THE_WHOLE}
    card["parameters"] = stored_parameters(model)
    if confirmed is not None:
        card["scores"] = {"dev, the half that confirms": confirmed.model_dump(mode="json")}
    return Saved(model, supernet.units, card)


def packed_bytes(saved: Saved) -> int:
    """Of its packed file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pocket"
        save_packed(path, saved)
        return path.stat().st_size


def export_under(
    model: Path,
    budget: int,
    to: str,
    out: Path,
    *,
    int8: bool = False,
    chunk: Chunk = None,
    milliseconds: float | None = None,
) -> tuple[Point, int]:
    """Writes the best sub-network of a searched supernet whose file is within the budget.

    Returns its point of the frontier, and the bytes that a device must hold.

    Raises:
        UserError: there is no frontier, or nothing on it is that small or that fast.
    """
    check_target(to, out)
    supernet = load_model(model_file(model))
    points = frontier_of(supernet.card, str(model))
    if not points:
        raise UserError(
            f"{model}: --budget chooses among what a search has found, and it has no frontier; "
            "run a recipe whose last stage searches, such as todm"
        )
    space = Space(supernet.model, SpaceConfig())
    sizes: list[int] = []
    for point in within(points, budget, milliseconds):
        taken = take(
            supernet, space.sub_config(point.candidate.sizes), point.rules, point.confirmed
        )
        with suppress(_TooLargeError), replacing(out, folder=to in FOLDERS) as beside:
            sizes.append(export_saved(taken, to, beside, int8=int8, chunk=chunk))
            if sizes[-1] > budget:
                raise _TooLargeError
            return point, sizes[-1]
    raise UserError(
        f"a budget of {budget:,} bytes: for {to} the smallest sub-network takes {min(sizes):,}"
    )


class _TooLargeError(Exception):
    """What was written is over the budget, and is taken back."""
