"""A recipe is sized before anything is trained."""

from pathlib import Path

import pytest

from pocketscribe.errors import UserError
from pocketscribe.files import read_json
from pocketscribe.recipes.reading import shipped
from pocketscribe.recipes.size import size
from runs import TWO_STAGES


def test_pieces(two_stages: Path) -> None:
    smaller = size(str(two_stages))  # 256 pieces by default
    units = '[speech]\nunits = { kind = "bpe", size = 500 }'
    two_stages.write_text(TWO_STAGES.replace("[speech]", units), encoding="utf-8")
    larger = size(str(two_stages))
    assert "units" not in larger["note"] and "header" in larger["note"]
    # A unit costs an embedding of 256, and an output of 256 with its bias.
    assert larger["bytes"] - smaller["bytes"] == 2 * (500 - 256) * (256 + 256 + 1)
    assert sum(larger["parts"].values()) == larger["bytes"]
    assert 16.0 < larger["bits_per_weight"] < 16.1, "the normalisation is no parameter"


def test_characters_are_not_known_yet() -> None:
    found = size("quickstart")
    assert "counted with 30 units; the transcripts decide" in found["note"]


def test_it_need_not_fit_this_machine(two_stages: Path) -> None:
    big = "[model]\nencoder = { width = 4096, layers = 28, ffn = 16, heads = 64 }\n"
    two_stages.write_text(big + TWO_STAGES, encoding="utf-8")
    assert size(str(two_stages))["bytes"] > 5e10


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped(name: str) -> None:
    assert size(name)["bytes"] > 1e5


def test_the_promised_sizes() -> None:
    """The paper's 5M, all of it; equal stored parameters; a tenth of float32, in twice float16."""
    librispeech = size("shared_lowrank_librispeech")
    assert librispeech["parameters_stored"] < 5e6 < 6 * 5e6 < librispeech["parameters_virtual"]
    rows = size("shared_lowrank_ablation")["models"]
    small = rows["small"]["parameters_stored"]
    for row in ("blocks", "modules", "parts", "factors", "combination"):
        assert abs(rows[row]["parameters_stored"] / small - 1) < 0.03
        assert rows[row]["parameters_virtual"] > 1.5 * small
    packed, plain = size("usm_lite"), size("english")
    assert packed["parameters_stored"] == plain["parameters_stored"]
    assert packed["bytes"] < 0.1 * 2 * plain["bytes"]
    for base, end in (("english", "third"), ("librispeech", "third")):
        suffix = "" if base == "english" else "_librispeech"
        students = size(f"progressive{suffix}")["models"]
        teacher = size(base)["parameters_stored"]
        assert students[end]["parameters_stored"] < 0.36 * teacher
    large, tenth = size("librispeech"), size("usm_lite_librispeech")
    assert tenth["bytes"] < 0.094 * 2 * large["bytes"]


def test_trained(tiny_run: Path) -> None:
    """The plan was right but for the number of characters, training's heads, the header."""
    trained, planned = size(str(tiny_run)), size(str(tiny_run.with_name("tiny.toml")))
    for part in ("encoder.blocks.0", "subsampling", "normalisation"):
        assert trained["parts"][part] == planned["parts"][part]
    units = len(read_json(tiny_run / "units.json")["symbols"])
    less = planned["parts"]["predictor"] - trained["parts"]["predictor"]
    assert less == 2 * 16 * (30 - units)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.toml"])
def test_neither(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}.*: neither"):
        size(name)
