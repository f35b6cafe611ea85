"""`run --stage`: some stages of a recipe and what they stand on, as they are in a whole run."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from called import Call, check_refused
from pocketscribe.files import read_json
from pocketscribe.recipes import reading
from pocketscribe.recipes.reading import read_recipe
from runs import assert_equal
from tiny import TINY_RECIPE, run_here

SHORT = "audio_hours = 0.01\nbatch_seconds = 10\nvalidations = 0\n"
ROWS = f"""
[[stage]]
name = "more"
from = "float"
{SHORT}
[[stage]]
name = "thin"
model = {{ encoder = {{ width = 8 }} }}
{SHORT}
[[stage]]
name = "taught"
from = "thin"
teacher = "more"
{SHORT}
[evaluate]
stages = ["taught"]
"""


@pytest.fixture
def rows(recipe: Path, prepared_beside: Callable[[Path], Path]) -> Path:
    text = TINY_RECIPE.replace("audio_hours = 0.06", "audio_hours = 0.01") + ROWS
    recipe.write_text(text, encoding="utf-8")
    prepared_beside(recipe)
    return recipe


@pytest.fixture
def upper(rows: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A recipe of one stage of its own, and one that starts from the shipped recipe `tiny`."""
    monkeypatch.setattr(reading, "shipped", lambda: {"tiny": rows})

    def write(speech: str = "") -> Path:
        path = rows.with_name("upper.toml")
        text = f"""
base = "tiny"
{speech}
[[stage]]
name = "own"
{SHORT}
[[stage]]
name = "theirs"
from = "tiny/thin"
{SHORT}
"""
        path.write_text(text, encoding="utf-8")
        return path

    return write


def trained(run: Path) -> set[str]:
    return {file.parent.name for file in run.glob("*/model.safetensors")}


def test_what_a_stage_stands_on(rows: Path) -> None:
    recipe = read_recipe(str(rows))

    def needed(*names: str) -> list[str]:
        return [stage.name for stage in recipe.needed(names)]

    assert needed("thin") == ["thin"]
    assert needed("more") == ["float", "more"]
    assert needed("thin", "more") == ["float", "more", "thin"]
    assert needed("taught") == ["float", "more", "thin", "taught"]


def test_a_run_in_parts_is_the_run(rows: Path) -> None:
    whole, parts = rows.with_name("whole"), rows.with_name("parts")
    run_here(rows, whole)
    first = run_here(rows, parts, stages=["thin"])
    assert trained(parts) == {"thin"} and set(first["models"]) == {"thin"}
    second = run_here(rows, parts, stages=["more"])
    assert trained(parts) == {"thin", "more", "float"}
    assert set(second["models"]) == {"thin", "more"}, "what was scored before is kept"
    assert second["models"]["thin"] == first["models"]["thin"]
    results = run_here(rows, parts)
    assert set(results["models"]) == {"thin", "more", "taught"}
    for name in ("float", "more", "thin", "taught"):
        file = Path(name) / "model.safetensors"
        assert_equal(load_file(parts / file), load_file(whole / file))


def test_no_more_of_another_run_than_is_needed(upper: Callable[..., Path]) -> None:
    recipe = upper()
    folder, other = recipe.with_name("upper"), recipe.with_name("tiny")
    run_here(recipe, folder, stages=["own"])
    assert trained(other) == set(), "its units are known without its model"
    run_here(recipe, folder)
    assert trained(other) == {"thin"}
    units = {read_json(run / "units.json")["model"] for run in (folder, other)}
    assert len(units) == 1


def test_units_are_those_of_the_model_that_a_later_stage_starts_from(
    upper: Callable[..., Path],
) -> None:
    """Else what was trained by itself would spell otherwise than in a whole run."""
    recipe = upper('[speech]\nunits = { kind = "bpe", size = 30 }')
    run_here(recipe, recipe.with_name("upper"), stages=["own"])
    own, theirs = (read_json(recipe.with_name(run) / "units.json") for run in ("upper", "tiny"))
    assert own == theirs and len(own["symbols"]) < 30


def test_no_such_stage(rows: Path, call: Call) -> None:
    out = rows.with_name("none")
    ended = call("run", rows, "--stage", "thick", "--out", out)
    check_refused(ended, "tiny has no stage 'thick' (it has float, more, thin, taught)")
    assert not out.exists()
    assert call("run", rows, "--stage", "thin", "--out", out).code == 0
    assert trained(out) == {"thin"} and (out / "tiny-thin.safetensors").is_file()
