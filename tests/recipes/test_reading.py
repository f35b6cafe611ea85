"""Recipes out of files: what they stand on, changes on top, and what is no recipe."""

from pathlib import Path

import pytest

from pocketscribe.errors import UserError
from pocketscribe.recipes import reading
from pocketscribe.recipes.reading import Outside, read_recipe, shipped
from pocketscribe.recipes.size import size
from pocketscribe.training.loop import TrainingConfig

SHIPPED = shipped()


@pytest.fixture
def recipe(two_stages: Path) -> Path:
    return two_stages


def test_a_change_to_one_stage_is_to_no_other(recipe: Path) -> None:
    """Not to the one that it is like, nor to those that are like it."""
    like = """
[[stage]]
name = "third"
like = "second"
from = "second"

[[stage]]
name = "fourth"
like = "third"
from = "third"
"""
    text = recipe.read_text() + "optimiser = { lr = 0.5 }\n" + like
    recipe.write_text(text, encoding="utf-8")
    found = read_recipe(str(recipe), ["stage.third.optimiser.lr=0.25"])
    assert [stage.optimiser.lr for stage in found.stage[1:]] == [0.5, 0.25, 0.5]


def test_reads_a_file(recipe: Path) -> None:
    found = read_recipe(str(recipe))
    assert found.name == "mine"
    first, second = found.stage
    assert (first.name, first.from_, first.audio_hours) == ("first", None, 2.0)
    assert (second.name, second.from_, second.train) == ("second", "first", None)
    assert issubclass(type(first), TrainingConfig)
    # What any stage hears is prepared once, whatever its weight there.
    heard = [(c.corpus, c.weight) for c in found.corpora]
    assert heard == [("fsdd", 1.0), ("speechocean762", 1.0), ("synthetic", 1.0)]


@pytest.mark.parametrize(
    ("change", "place", "value"),
    [
        ("stage.0.audio_hours=0.5", "stage.0.audio_hours", 0.5),
        ("stage.1.audio_hours=3", "stage.1.audio_hours", 3.0),
        ("stage.0.precision=bf16", "stage.0.precision", "bf16"),
        ('stage.0.precision="bf16"', "stage.0.precision", "bf16"),
        ("stage.0.optimiser.kind=adamw", "stage.0.optimiser.kind", "adamw"),
        ("model.chunks.sizes=[4, 'full']", "model.chunks.sizes", (4, "full")),
        ("model.encoder.layers = 2", None, None),
        ("speech.train.1.weight=0.5", "speech.train.1.weight", 0.5),
        ("speech.units={ kind = 'unigram', size = 99 }", "speech.units.size", 99),
        ("evaluate.beam=4", "evaluate.beam", 4),
        ("speech.test.0.where={ age_group = 'child' }", "speech.test.0.where.age_group", "child"),
        ("name=other", "name", "other"),
    ],
)
def test_set(recipe: Path, change: str, place: str | None, value: object) -> None:
    if place is None:  # a space belongs to no key
        with pytest.raises(UserError, match="unknown key"):
            read_recipe(str(recipe), [change])
        return
    found: object = read_recipe(str(recipe), [change])
    for part in place.split("."):
        if isinstance(found, tuple):
            found = found[int(part)]
        else:
            found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value and type(found) is type(value)


def test_later_changes_win(recipe: Path) -> None:
    assert read_recipe(str(recipe), ["stage.0.seed=1", "stage.0.seed=2"]).stage[0].seed == 2


def test_stages_go_by_their_names(recipe: Path) -> None:
    read = read_recipe(str(recipe), ["stage.second.seed=1"])
    assert [stage.seed for stage in read.stage] == [0, 1]


ON_MINE = """
base = "{mine}"

[model]
encoder = {{ width = 48 }}

[[stage]]
name = "tuned"
like = "{mine}/second"
from = "digits/float"
seed = 7

[[stage]]
name = "longer"
like = "tuned"
from = "tuned"
optimiser = {{ lr = 0.5 }}
"""


def test_a_recipe_stands_on_another_and_a_stage_on_a_stage(recipe: Path, tmp_path: Path) -> None:
    upper = tmp_path / "upper.toml"
    upper.write_text(ON_MINE.format(mine=recipe), encoding="utf-8")
    base, found = read_recipe(str(recipe)), read_recipe(str(upper))
    assert found.name == "upper" and found.speech == base.speech
    assert found.model.encoder.width == 48 != base.model.encoder.width
    assert found.model.encoder.layers == base.model.encoder.layers
    tuned, longer = found.stage
    assert (tuned.audio_hours, tuned.seed, tuned.from_) == (1.0, 7, "digits/float")
    assert (longer.audio_hours, longer.seed, longer.from_) == (1.0, 7, "tuned")
    assert (tuned.optimiser.lr, longer.optimiser.lr) == (None, 0.5)
    upper.write_text(ON_MINE.format(mine=recipe.name), encoding="utf-8")
    assert read_recipe(str(upper)) == found, "a base lies beside the recipe that stands on it"
    # What a stage starts from decides its model, trained or not.
    digits = read_recipe("digits").model
    assert found.model_of("longer", Outside(tmp_path).config) == digits
    assert size(str(upper))["parameters_stored"] == size("digits")["parameters_stored"]


def test_a_stage_may_be_like_one_of_any_shipped_recipe(recipe: Path) -> None:
    text = recipe.read_text() + '[[stage]]\nname = "more"\nlike = "todm/start"\nseed = 9\n'
    recipe.write_text(text, encoding="utf-8")
    [*_, more] = read_recipe(str(recipe)).stage
    [start, *_] = read_recipe("todm").stage
    assert more == start.model_copy(update={"name": "more", "seed": 9})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('base = "upper"', "upper.toml: base = 'upper': give another recipe's name or file"),
        ("base = 3", "upper.toml: base = 3: give another recipe's name or file"),
        ('base = "nowhere"', "recipe 'nowhere': neither a file nor a shipped recipe"),
        (
            'base = "digits"\n[[stage]]\nname = "a"\nlike = "b"',
            "upper.toml: stage.0.like = 'b': no such stage before it (known: digits/float)",
        ),
        (
            '[[stage]]\nname = "a"\nlike = "quickstart/b"',
            "upper.toml: stage.0.like = 'quickstart/b': no such stage before it (known: quick",
        ),
        (
            '[[stage]]\nname = "a"\nlike = ["a"]',
            "upper.toml: stage.0.like = ['a']: no such stage before it (known: none)",
        ),
        (
            '[[stage]]\nname = "a"\nlike = ["digits/float"]',
            "upper.toml: stage.0.like = ['digits/float']: no such stage before it (known: none)",
        ),
        (
            '[[stage]]\nname = "1"\naudio_hours = 1\n[[stage]]\nname = "a"\nlike = 1',
            "upper.toml: stage.1.like = 1: no such stage before it (known: 1)",
        ),
    ],
)
def test_no_such_base_or_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: str
) -> None:
    (tmp_path / "upper.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(reading, "shipped", lambda: {"upper": tmp_path / "upper.toml", **SHIPPED})
    with pytest.raises(UserError) as refused:
        read_recipe(str(tmp_path / "upper.toml"))
    assert line in str(refused.value)


@pytest.mark.parametrize("text", ["stage = [", "\x00", "a = 1\na = 2"])
def test_what_is_no_toml(recipe: Path, text: str) -> None:
    recipe.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"mine\.toml: not readable as TOML \(.* \(at "):
        read_recipe(str(recipe))


def test_what_is_no_text(recipe: Path) -> None:
    recipe.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"mine\.toml: not readable as TOML"):
        read_recipe(str(recipe))


@pytest.mark.parametrize("name", ["nowhere.toml", "quickstrat", "", "."])
def test_no_such_recipe(name: str) -> None:
    with pytest.raises(UserError, match=r"neither a file nor a shipped recipe .*digits, english"):
        read_recipe(name)
