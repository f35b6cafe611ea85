"""A search in a run: resumable, within its limits, and what `export --budget` makes of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pocketscribe.errors import UserError
from pocketscribe.evaluation import dev
from pocketscribe.files import read_json
from pocketscribe.models.saved import load_model
from pocketscribe.recipes.size import size
from pocketscribe.search.deploy import export_under
from pocketscribe.search.frontier import frontier_of, within
from tiny import TINY_RECIPE, run_here

SUPERNET = """
supernet = { layers = [1], width = [8, 12], heads = [1], inner = [32, 48], random = 1 }

[[stage]]
name = "searched"
from = "float"
audio_hours = 0
search = { candidates = 24, generation = 8, utterances = 3, formats = [
  { name = "int8", rules = [{ match = "*", bits = 8 }] },
  { name = "int4", rules = [{ match = "*", bits = 4, sparsity = "2:4" }] },
] }
"""
MadeOnce = Callable[..., Path]


@pytest.fixture(scope="session")
def searched(made_once: MadeOnce) -> Path:
    """The folder of a run whose last stage searched."""

    def make(folder: Path) -> None:
        folder.mkdir()
        recipe = folder / "sizes.toml"
        recipe.write_text(TINY_RECIPE + SUPERNET)
        run_here(recipe, folder / "run")

    return made_once("searched", make) / "run"


def test_the_frontier_goes_with_the_model(searched: Path) -> None:
    file = searched / "sizes.safetensors"
    points = frontier_of(load_model(file).card, "test")
    assert points
    found = read_json(searched / "searched" / "search.json")["scored"]
    assert 15 < len(found) <= 24  # where all are known, it ends
    assert {row["candidate"]["formats"] for row in found} == {"int8", "int4"}
    assert [p.bytes for p in points] == sorted(p.bytes for p in points)
    assert any(p.confirmed.ci_low < p.confirmed.ci_high for p in points) or len(points) == 1
    assert [p.errors for p in points] == sorted((p.errors for p in points), reverse=True)
    assert (searched / "searched" / "frontier.png").stat().st_size > 5_000
    assert len(size(str(searched))["frontier"]) == len(points)


def test_export_under_a_budget(searched: Path, tmp_path: Path) -> None:
    points = frontier_of(load_model(searched / "sizes.safetensors").card, "test")
    out = tmp_path / "small.pocket"
    for point in points:
        chosen, written = export_under(searched, point.bytes, "packed", out)
        assert chosen == within(points, point.bytes)[0]
        assert written == out.stat().st_size == chosen.bytes <= point.bytes  # to the byte
        model = load_model(out).model
        assert model.config.encoder.width == chosen.candidate.sizes.width
        assert model.config.formats == chosen.rules
    with pytest.raises(UserError) as refused:
        export_under(searched, points[0].bytes - 1, "packed", tmp_path / "none.pocket")
    assert f"the smallest sub-network takes {points[0].bytes:,}" in str(refused.value)
    with pytest.raises(UserError, match="nothing was measured"):
        export_under(searched, 10**6, "packed", out, milliseconds=5.0)
    # For other runtimes the file itself is held against the budget.
    _, written = export_under(searched, 10**6, "safetensors", tmp_path / "small.safetensors")
    assert written == (tmp_path / "small.safetensors").stat().st_size
    with pytest.raises(UserError, match="for safetensors the smallest sub-network takes"):
        export_under(searched, points[-1].bytes, "safetensors", tmp_path / "none.safetensors")
    assert not list(tmp_path.glob("*none*"))


def test_goes_on_from_what_was_scored(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its scores, it makes the same frontier without scoring a candidate again."""
    points = frontier_of(load_model(searched / "sizes.safetensors").card, "test")
    again = tmp_path / "run"
    (again / "searched").mkdir(parents=True)
    for name in ("recipe.json", "units.json", "float/model.safetensors", "searched/search.json"):
        (again / name).parent.mkdir(exist_ok=True)
        (again / name).write_bytes((searched / name).read_bytes())
    decoded, decode = [], dev.decode
    monkeypatch.setattr(dev, "decode", lambda *args: decoded.append(args) or decode(*args))
    run_here(searched.parent / "sizes.toml", again)
    assert frontier_of(load_model(again / "sizes.safetensors").card, "test") == points
    assert 0 < len(decoded) < 24  # to confirm the best, and no more

    (again / "searched" / "model.safetensors").unlink()
    scores = again / "searched" / "search.json"
    scores.write_text(scores.read_text().replace('"model": "', '"model": "0', 1))
    with pytest.raises(UserError, match=r"search\.json: scores of another model"):
        run_here(searched.parent / "sizes.toml", again)
    scores.write_text('{"made_by": {}}')
    with pytest.raises(UserError, match=r"search\.json: key 'scored' is missing"):
        run_here(searched.parent / "sizes.toml", again)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("stage.1.search.budget=9kB", r"search\.budget = 9kB: the smallest sub-network takes"),
        ("stage.1.search.budget=much", "much: write bytes, such as 2MB or 500kB"),
        ("stage.1.search.milliseconds=3", "latency = true"),
        ("stage.0.supernet.width=[10]", "10 does not divide into groups of 2:4"),
        ("speech.dev=[]", "a search, or a choice by loss, needs speech to choose by"),
    ],
)
def test_refusals(searched: Path, tmp_path: Path, change: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        run_here(searched.parent / "sizes.toml", tmp_path / "run", change)


def test_a_model_without_sub_networks(searched: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.toml"
    searches = SUPERNET.partition("[[stage]]")[2]
    plain.write_text(f"{TINY_RECIPE}\n[[stage]]{searches}")
    with pytest.raises(UserError, match="no stage that it comes from has a supernet"):
        run_here(plain, tmp_path / "run")
    plain.write_text(TINY_RECIPE)
    run_here(plain, tmp_path / "run")
    with pytest.raises(UserError, match="it has no frontier"):
        export_under(tmp_path / "run" / "float", 10**6, "packed", tmp_path / "x.pocket")


TAKEN = """
[[stage]]
name = "student"
from = "searched"
take = { search = "searched", budget = "1MB" }
cut = { layers = "first", units = "first" }
teacher = "searched"
audio_hours = 0.005
batch_seconds = 10

[[stage]]
name = "bits"
like = "student"
from = "student"
take = { formats = true }
"""


def begun(searched: Path, folder: Path) -> Path:
    """A run that has everything of `searched` but its last stages, and its recipe."""
    recipe = folder / "taken.toml"
    recipe.write_text(TINY_RECIPE + SUPERNET + TAKEN)
    for name in ("units.json", "float/model.safetensors", "searched/model.safetensors"):
        (folder / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "run" / name).write_bytes((searched / name).read_bytes())
    return recipe


def test_a_stage_takes_what_was_found(searched: Path, tmp_path: Path) -> None:
    run_here(begun(searched, tmp_path), tmp_path / "run")
    points = frontier_of(load_model(searched / "sizes.safetensors").card, "test")
    best = within(points, 10**6)[0]
    student = load_model(tmp_path / "run" / "student" / "model.safetensors").model.config
    shipped = load_model(tmp_path / "run" / "taken.pocket").model.config
    for config in (student, shipped):
        assert config.encoder.width == best.candidate.sizes.width
        assert config.encoder.insides == best.candidate.sizes.inner
    assert student.formats == () and shipped.formats == best.rules


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("stage.2.take.budget=9kB", "a budget of 9,000 bytes: the smallest sub-network takes"),
        ("stage.2.take.search=float", "that stage does not search"),
        ("stage.2.take.search=other", r"take\.search = 'other' is no earlier stage"),
        ("stage.2.take.search=todm/supernet", "'todm/supernet': that stage does not search"),
        ("stage.2.take.search=models/digits.safetensors", "safetensors': that stage does not"),
    ],
)
def test_nothing_to_take(searched: Path, tmp_path: Path, change: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        run_here(begun(searched, tmp_path), tmp_path / "run", change)
