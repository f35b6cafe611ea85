"""Recipes: every shipped one reads; every wrong one is refused by its one clear line."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from pocketscribe.errors import UserError
from pocketscribe.recipes.recipe import Recipe, read_recipe, shipped
from pocketscribe.recipes.run import Run

SMALL = """
[speech]
train = [{ corpus = "synthetic", kind = "digits", count = 4 }]

[[stage]]
name = "one"
audio_hours = 0.01

[[stage]]
name = "two"
from = "one"
audio_hours = 0.01
"""


def small(folder: Path, text: str = SMALL) -> str:
    path = folder / "small.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_read(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.name == name
    assert recipe.speech.test


def test_a_recipe_survives_its_own_json(tmp_path: Path) -> None:
    recipe = read_recipe(small(tmp_path))
    again = Recipe.read(json.loads(recipe.model_dump_json(by_alias=True)), "recipe.json")
    assert again == recipe


def test_set_changes_numbers_strings_lists_and_stages(tmp_path: Path) -> None:
    changes = [
        "model.encoder.layers=3",
        "model.head=ctc",
        'model.chunks.sizes=[4, "full"]',
        "stage.1.audio_hours=7.5",
        'speech.units.kind="char"',
    ]
    recipe = read_recipe(small(tmp_path), changes)
    assert recipe.model.encoder.layers == 3
    assert recipe.model.head == "ctc"
    assert recipe.model.chunks.sizes == (4, "full")
    assert recipe.stage[1].audio_hours == 7.5
    assert recipe.speech.units.kind == "char"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.encoder.widht=4", ("'model.encoder.widht'", "did you mean 'width'", "heads")),
        ("model.encoder.width=wide", ("model.encoder.width", '"wide"', "integer")),
        ("model.encoder.width=30", ("width = 30", "multiple of 2 x heads")),
        ("model.head=rnn", ("model.head", '"rnn"', "'transducer' or 'ctc'")),
        ("model.chunks.sizes=[7]", ("chunks.left = 64", "multiple of the chunk size 7")),
        ("stage.1.from=three", ("'three'", "no earlier stage", "earlier: one")),
        ("stage.1.name=one", ("two stages are named 'one'",)),
        ("stage.0.audio_hours=-1", ("audio_hours", "-1", "greater than 0")),
        ("stage.0.kind=distil", ("stage.0.kind", '"distil"', "'train'")),
        ("speech.train.0.seed=x", ("speech.train.0.seed", "integer")),
        ("speech.train.0.corpus=fsdd", ("belongs to corpus = 'synthetic' alone",)),
        ("nonsense", ("--set nonsense", "KEY=VALUE")),
        ("stage.9.audio_hours=1", ("no place 'stage.9.audio_hours'",)),
    ],
)
def test_a_wrong_recipe_is_refused_by_one_line(
    tmp_path: Path, change: str, said: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as refused:
        read_recipe(small(tmp_path), [change])
    line = str(refused.value)
    assert "\n" not in line
    for part in said:
        assert part in line


def test_missing_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither a file nor a shipped recipe.*quickstart"):
        read_recipe("no_such_recipe")
    with pytest.raises(UserError, match=r"small\.toml: not readable as TOML"):
        read_recipe(small(tmp_path, "[speech\n"))
    with pytest.raises(UserError, match=r"small\.toml: key 'speech' is missing"):
        read_recipe(small(tmp_path, '[[stage]]\nname = "x"\naudio_hours = 1\n'))


def test_a_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    made = read_recipe(small(tmp_path))
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.json").write_text(json.dumps(json.loads(made.model_dump_json(by_alias=True))))
    Run(made, run, None, Console(quiet=True))  # the same recipe may go on
    other = read_recipe(small(tmp_path), ["model.encoder.layers=1"])
    with pytest.raises(UserError, match=r"another \[model\]; choose another --out"):
        Run(other, run, None, Console(quiet=True))
