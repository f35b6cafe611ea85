"""A search in a run: resumable, within its limits, and what `export --budget` makes of it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from by_size import errors_by_size, wer_by_size
from called import Call, check_refused
from pocketscribe.errors import UserError
from pocketscribe.evaluation.dev import Heard
from pocketscribe.evaluation.wer import WordErrorRate
from pocketscribe.export.export import export_saved
from pocketscribe.export.open import open_model
from pocketscribe.export.seal import folder_bytes
from pocketscribe.files import read_json
from pocketscribe.models import Recogniser, stored_parameters
from pocketscribe.models.saved import load_model
from pocketscribe.models.subnets import Space, SpaceConfig, extract
from pocketscribe.recipes.size import size
from pocketscribe.search import search as searching
from pocketscribe.search.deploy import export_under, packed_bytes, take
from pocketscribe.search.frontier import Candidate, Point, frontier_of, within
from pocketscribe.speech.units import Units
from tiny import TINY_RECIPE, run_here

DIGITS = Path(__file__).parents[2] / "models" / "digits.safetensors"

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
    """The folder of a run whose last stage searched, where errors fall with size."""

    def make(folder: Path) -> None:
        folder.mkdir()
        recipe = folder / "sizes.toml"
        recipe.write_text(TINY_RECIPE + SUPERNET)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(searching, "dev_errors", errors_by_size)
            run_here(recipe, folder / "run")

    return made_once("searched", make) / "run"


@pytest.fixture
def points(searched: Path) -> tuple[Point, ...]:
    return frontier_of(load_model(searched / "sizes.safetensors").card, "test")


def best_within(points: Sequence[Point], budget: int) -> Point:
    """By brute force; no two of them have as many errors."""
    return min((p for p in points if p.bytes <= budget), key=lambda p: p.wer + p.confirmed.wer)


def test_the_frontier_goes_with_the_model(searched: Path, points: tuple[Point, ...]) -> None:
    found = read_json(searched / "searched" / "search.json")["scored"]
    assert 15 < len(found) <= 24  # where all are known, it ends
    assert {row["candidate"]["formats"] for row in found} == {"int8", "int4"}
    assert len({p.bytes for p in points}) == len({p.errors for p in points}) == len(points) >= 3
    assert [p.bytes for p in points] == sorted(p.bytes for p in points)
    assert [p.errors for p in points] == sorted((p.errors for p in points), reverse=True)
    assert all(p.confirmed.ci_low < p.confirmed.wer < p.confirmed.ci_high for p in points)
    assert (searched / "searched" / "frontier.png").stat().st_size > 5_000
    assert len(size(str(searched))["frontier"]) == len(points)


def test_nothing_that_was_scored_is_better(searched: Path, points: tuple[Point, ...]) -> None:
    """Under every budget: by both halves of dev, of which one alone would choose otherwise."""
    supernet = load_model(searched / "sizes.safetensors")
    space = Space(supernet.model, SpaceConfig())
    rules = {point.candidate.formats: point.rules for point in points}
    costs = []
    for row in read_json(searched / "searched" / "search.json")["scored"]:
        candidate = Candidate.read(row["candidate"], "test")
        config = space.sub_config(candidate.sizes)
        taken = take(supernet, config, rules[candidate.formats], points[0].confirmed)
        wers = [wer_by_size(taken.model.config, half) for half in (False, True)]
        costs.append((packed_bytes(taken), sum(wers) / 2))
    for budget, _ in costs:
        least = min(errors for taken, errors in costs if taken <= budget)
        assert within(points, budget)[0].errors == pytest.approx(least)
    assert best_within(points, 10**6) != min(points, key=lambda p: p.wer)


def test_export_under_a_budget(searched: Path, points: tuple[Point, ...], tmp_path: Path) -> None:
    out = tmp_path / "small.pocket"
    for budget in [budget for point in points for budget in (point.bytes, point.bytes + 1)]:
        chosen, written = export_under(searched, budget, "packed", out)
        assert chosen == best_within(points, budget)
        assert written == out.stat().st_size == chosen.bytes <= budget  # to the byte
        model = load_model(out).model
        assert model.config.encoder.width == chosen.candidate.sizes.width
        assert model.config.formats == chosen.rules
    with pytest.raises(UserError) as refused:
        export_under(searched, points[0].bytes - 1, "packed", tmp_path / "none.pocket")
    assert f"the smallest sub-network takes {points[0].bytes:,}" in str(refused.value)
    with pytest.raises(UserError, match="nothing was measured"):
        export_under(searched, 10**6, "packed", out, milliseconds=5.0)


def test_for_other_runtimes_the_file_itself_is_held_against_the_budget(
    searched: Path, points: tuple[Point, ...], tmp_path: Path
) -> None:
    """The next best is taken where the best is larger than its packed file is."""
    supernet = load_model(searched / "sizes.safetensors")
    space = Space(supernet.model, SpaceConfig())
    sizes = {}
    for point in points:
        config = space.sub_config(point.candidate.sizes)
        taken = take(supernet, config, point.rules, point.confirmed)
        sizes[point] = export_saved(taken, "safetensors", tmp_path / "one.safetensors")
    best = best_within(points, 10**6)
    for budget in (sizes[best], sizes[best] - 1, min(sizes.values())):
        out = tmp_path / f"{budget}.safetensors"
        chosen, written = export_under(searched, budget, "safetensors", out)
        assert chosen == min((p for p in points if sizes[p] <= budget), key=lambda p: p.errors)
        assert written == sizes[chosen] == out.stat().st_size
        assert load_model(out).model.config.encoder.width == chosen.candidate.sizes.width
        assert (chosen == best) == (budget == sizes[best])
    smallest = f"for safetensors the smallest sub-network takes {min(sizes.values()):,}"
    with pytest.raises(UserError, match=smallest):
        export_under(searched, min(sizes.values()) - 1, "safetensors", tmp_path / "none")
    assert not list(tmp_path.glob("*none*"))


def test_export_under_a_budget_on_the_command_line(
    searched: Path, points: tuple[Point, ...], tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "small"
    ended = call("export", searched, "--budget", "1MB", "--to", "onnx", "--out", out)
    assert ended.code == 0, ended.err
    best = best_within(points, 10**6)
    assert ended.out == f"{best.described}\n{out}: {folder_bytes(out) / 1e6:.2f} MB\n"
    supernet = load_model(searched / "sizes.safetensors")
    config = Space(supernet.model, SpaceConfig()).sub_config(best.candidate.sizes)
    made = open_model(out)
    assert made.parameters_stored == stored_parameters(extract(supernet.model, config))
    assert made.transcribe([np.zeros(16_000, np.float32)], streaming=True)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (("--milliseconds", "5"), "export: --milliseconds goes with --budget"),
        (("--budget", "1MB", "--milliseconds", "0"), "--milliseconds 0.0: give a time above 0"),
        (("--budget", "1MB", "--milliseconds", "nan"), "give a time above 0"),
        (("--budget", "1MB", "--milliseconds", "5"), "search with latency = true"),
        (("--budget", "lots"), "--budget lots: write bytes, such as 2MB or 500kB"),
        (("--budget", "9kB"), "a budget of 9,000 bytes: the smallest sub-network takes"),
    ],
)
def test_limits_that_are_refused_on_the_command_line(
    searched: Path, tmp_path: Path, call: Call, limits: tuple[str, ...], said: str
) -> None:
    out = tmp_path / "none.pocket"
    check_refused(call("export", searched, "--to", "packed", "--out", out, *limits), said)
    assert not out.exists()


def test_goes_on_from_what_was_scored(
    searched: Path, points: tuple[Point, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its scores, it makes the same frontier without scoring a candidate again."""
    again = tmp_path / "run"
    (again / "searched").mkdir(parents=True)
    for name in ("recipe.json", "units.json", "float/model.safetensors", "searched/search.json"):
        (again / name).parent.mkdir(exist_ok=True)
        (again / name).write_bytes((searched / name).read_bytes())
    heard: list[int] = []

    def counted(model: Recogniser, dev: Sequence[Heard], units: Units) -> WordErrorRate:
        heard.append(len(dev))
        return errors_by_size(model, dev, units)

    monkeypatch.setattr(searching, "dev_errors", counted)
    run_here(searched.parent / "sizes.toml", again)
    assert frontier_of(load_model(again / "sizes.safetensors").card, "test") == points
    assert set(heard) == {1} and len(points) <= len(heard) < 24  # to confirm what may be best

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


def test_a_model_without_a_frontier(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it has no frontier"):
        export_under(tiny_run, 10**6, "packed", tmp_path / "x.pocket")


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


def test_a_stage_takes_what_was_found(
    searched: Path, points: tuple[Point, ...], tmp_path: Path
) -> None:
    run_here(begun(searched, tmp_path), tmp_path / "run")
    best = best_within(points, 10**6)
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
        (f"stage.2.take.search={DIGITS}", "safetensors': that stage does not"),
    ],
)
def test_nothing_to_take(searched: Path, tmp_path: Path, change: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        run_here(begun(searched, tmp_path), tmp_path / "run", change)
