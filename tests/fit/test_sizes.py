"""What fits into a budget: the widest that does, and nothing that does not."""

import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cards import card_of
from pocketscribe.errors import UserError
from pocketscribe.export.size import size_of_model
from pocketscribe.fit.sizes import (
    LATER_BYTES,
    STAGE_BYTES,
    Room,
    cuts,
    fits_whole,
    room,
    searched,
    toml,
    whole,
)
from pocketscribe.fit.ways import DIRECT, Choice
from pocketscribe.models import ModelConfig, Recogniser
from pocketscribe.models.saved import Saved, save_packed
from pocketscribe.models.subnets import Space, SpaceConfig
from pocketscribe.recipes.reading import read_recipe
from pocketscribe.recipes.recipe import Recipe, merged
from pocketscribe.training.masks import settle
from talkative import characters

UNITS = characters()
HEADER = 5_000
WIDTHS = {"predictor": 80, "joiner": 64, "subsampling": 32}
SMALL = (
    "model.encoder={ family = 'conformer', width = 64, layers = 1, heads = 4, kernel = 4 }",
    *(f"model.{name}={width}" for name, width in WIDTHS.items()),
)


@pytest.fixture(scope="module")
def direct() -> Recipe:
    return read_recipe("fit_direct", SMALL)


@pytest.fixture(scope="module")
def with_supernet() -> Recipe:
    return read_recipe("fit", SMALL)


def holds(arrays: int) -> Room:
    """The room of a budget of so many bytes beside the header."""
    return Room(f"{arrays + HEADER}B", HEADER, len(UNITS))


def value(choices: Sequence[Choice], key: str) -> Any:
    [choice] = [choice for choice in choices if choice.key == key]
    return tomllib.loads(f"value = {choice.value}")["value"]


def small_bits(recipe: Recipe) -> Any:
    [last] = [stage for stage in recipe.stage if stage.name == "low_bits"]
    return last.model_dump(mode="json")["formats"]


def made(config: ModelConfig, change: dict[str, Any], formats: Any) -> Recogniser:
    data = merged(config.model_dump(mode="json"), change) | {"formats": formats}
    return Recogniser(ModelConfig.read(data, "test"), len(UNITS))


def arrays(config: ModelConfig, change: dict[str, Any], formats: Any) -> int:
    with torch.device("meta"):
        return int(size_of_model(made(config, change, formats))["bytes"])


def even(share: float) -> dict[str, Any]:
    """Of SMALL: every width in eights, whole heads of 16."""

    def eights(width: int) -> int:
        return max(8, 8 * round(share * width / 8))

    encoder = {"width": eights(64), "heads": max(1, round(4 * share)), "head_width": 16}
    return {"encoder": encoder, **{name: eights(width) for name, width in WIDTHS.items()}}


@pytest.fixture(scope="module")
def by_share(direct: Recipe) -> dict[float, int]:
    """Bytes of the arrays of every even cut in few bits."""
    formats = small_bits(direct)
    shares = [part / 64 for part in range(8, 65)]
    return {share: arrays(direct.model, even(share), formats) for share in shares}


def test_the_widest_cut_that_fits(direct: Recipe, by_share: dict[float, int]) -> None:
    sizes = sorted(set(by_share.values()))
    next_larger = dict(zip(sizes, [*sizes[1:], 2 * sizes[-1]], strict=True))
    for size in (sizes[0], sizes[len(sizes) // 2], sizes[-1]):
        share = max(share for share, taken in by_share.items() if taken == size)
        for limit in (size, next_larger[size] - 1):
            found = cuts(direct.model, direct, holds(limit), "because")
            assert value(found, "stage.student.model") == even(share)
            assert value(found, "stage.halfway.model") == even(math.sqrt(share))
            assert found[0].reason == "because"


def test_no_cut_is_that_small(direct: Recipe, by_share: dict[float, int]) -> None:
    least = min(by_share.values())
    said = f"--budget {least + HEADER - 1}B: the smallest sub-network takes {least + HEADER:,} "
    with pytest.raises(UserError, match=said):
        cuts(direct.model, direct, holds(least - 1), "")


def test_an_inner_width_of_its_own_is_cut_alike(direct: Recipe) -> None:
    model = direct.model
    encoder = model.encoder.model_copy(update={"inner": (96,)})
    config = model.model_copy(update={"encoder": encoder})
    formats = small_bits(direct)
    half = even(0.5)
    half["encoder"]["inner"] = [48]
    limit = arrays(config, half, formats)
    found = cuts(config, direct, holds(limit), "")
    assert value(found, "stage.student.model") == half


def test_all_of_it_fits_in_eight_bits(direct: Recipe) -> None:
    config = direct.model
    found = whole(config, holds(10**6))
    eight = value(found, "stage.low_bits.formats")
    assert {rule["bits"] for rule in eight} == {8}
    for key in ("stage.halfway.model", "stage.student.model"):
        assert value(found, key) == even(1.0)
    size = arrays(config, even(1.0), eight)
    assert size == arrays(config, {}, eight)
    assert fits_whole(config, holds(size))
    assert not fits_whole(config, holds(size - 1))


def test_what_a_supernet_may_search(with_supernet: Recipe) -> None:
    found = searched(with_supernet.model, with_supernet, Room("100kB", HEADER, len(UNITS)))
    assert value(found, "stage.supernet.supernet") == {
        "width": [24, 32, 48, 56],
        "heads": [2, 3],
        "inner": [88, 128, 176],
        "predictor": [32, 40, 64],
        "joiner": [24, 32, 48],
        "random": 1,
    }
    read = read_recipe("fit", [*SMALL, *(choice.change for choice in found)])
    stages = {stage.name: stage for stage in read.stage}
    assert stages["search"].search.budget == stages["halfway"].take.budget == f"{98_000 * 3 // 2}"
    assert stages["student"].take.budget == stages["low_bits"].take.budget == f"{98_000}"
    assert LATER_BYTES == 2_000


def test_what_cannot_be_narrower_is_not_searched(with_supernet: Recipe) -> None:
    encoder = with_supernet.model.encoder.model_copy(update={"heads": 1, "head_width": 16})
    config = with_supernet.model.model_copy(update={"encoder": encoder, "joiner": 8})
    found = searched(config, with_supernet, holds(10**6))
    assert set(value(found, "stage.supernet.supernet")) == {"width", "inner", "predictor", "random"}


def test_no_sub_network_is_that_small(with_supernet: Recipe) -> None:
    """The least is the smallest sub-network's in the fewest bits."""
    config = with_supernet.model
    supernet = value(searched(config, with_supernet, holds(10**6)), "stage.supernet.supernet")
    del supernet["random"]
    with torch.device("meta"):
        space = Space(Recogniser(config, len(UNITS)), SpaceConfig.read(supernet, "test"))
    smallest = space.sub_config(space.smallest)
    [search] = [stage.search for stage in with_supernet.stage if stage.search]
    fewest = [rule.model_dump(mode="json") for rule in search.formats[-1].rules]
    least = arrays(smallest, {}, fewest)
    assert searched(config, with_supernet, holds(least))
    said = f"--budget {least + HEADER - 1}B: the smallest sub-network takes {least + HEADER:,} "
    with pytest.raises(UserError, match=said):
        searched(config, with_supernet, holds(least - 1))


def test_a_tight_cut_stays_in_the_budget_with_its_card(direct: Recipe, tmp_path: Path) -> None:
    """In the bits that it ships in, with a card as a run writes it."""
    folder = "/home/somebody/recordings of theirs"
    told = {"": " " * STAGE_BYTES * len(DIRECT.stages) + folder}
    loose = room("1MB", direct.model, direct, told, UNITS)
    assert loose.vocabulary == len(UNITS) and 5_000 < loose.header < 30_000
    tight = arrays(direct.model, even(0.9), small_bits(direct)) + loose.header
    found = cuts(direct.model, direct, loose._replace(budget=f"{tight}B"), "")
    model = made(direct.model, value(found, "stage.student.model"), small_bits(direct)).eval()
    settle(model)
    file = tmp_path / "cut.pocket"
    save_packed(file, Saved(model, UNITS.to_json(), card_of(folder)))
    assert tight - STAGE_BYTES * len(DIRECT.stages) < file.stat().st_size <= tight


def test_a_header_holds_the_card(direct: Recipe) -> None:
    short, long = (
        room("1MB", direct.model, direct, {"": " " * count}, UNITS) for count in (10, 1_010)
    )
    assert 1_000 <= long.header - short.header < 1_010  # a header is padded to eight bytes
    assert short.arrays == 10**6 - short.header
    assert "takes 12," in str(long.too_small(12_999 - long.header))


def test_toml_is_read_back() -> None:
    whole = {"width": 8, "inner": [1, 2], "share": 0.5, "name": 'ö "\\', "table": {"on": True}}
    assert tomllib.loads(f"value = {toml(whole)}")["value"] == whole
