"""Configs: what is refused, and that one line says where, what and what is allowed instead."""

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from pocketscribe.config import Config, read_bytes
from pocketscribe.errors import UserError
from pocketscribe.recipes.reading import read_recipe
from pocketscribe.recipes.recipe import Recipe


class Round(Config):
    shape: Literal["round"] = "round"
    radius: int


class Square(Config):
    shape: Literal["square"] = "square"
    side: int
    corner: float = Field(default=0.0, ge=0)


class Tool(Config):
    name: str = "tool"
    size: int = Field(default=3, gt=0)
    weight: float = 1.0
    sharp: bool = False
    lengths: tuple[int | Literal["full"], ...] = ()
    where: Path | None = None
    head: Annotated[Round | Square, Field(discriminator="shape")] | None = None
    heads: tuple[Annotated[Round | Square, Field(discriminator="shape")], ...] = ()
    from_: str | None = Field(default=None, alias="from")

    @model_validator(mode="after")
    def _check(self) -> "Tool":
        if self.name == "bad" and self.sharp:
            raise ValueError("Name and sharp do not go together")
        return self


def refusal(config: type[Config], data: Any) -> str:
    with pytest.raises(UserError) as caught:
        config.read(data, "some.toml")
    message = str(caught.value)
    assert message.startswith("some.toml: ")
    return message.removeprefix("some.toml: ")


def test_reads_plain_data() -> None:
    data = {
        "size": 4,
        "weight": 2,  # an integer is a number
        "lengths": [8, "full"],
        "where": "a/b",
        "head": {"shape": "square", "side": 1},
        "from": "there",
    }
    tool = Tool.read(data, "some.toml")
    assert tool.size == 4 and tool.weight == 2.0 and tool.lengths == (8, "full")
    assert tool.where == Path("a/b") and tool.head == Square(side=1) and tool.from_ == "there"


def test_is_frozen_and_survives_json() -> None:
    tool = Tool.read({"head": {"shape": "round", "radius": 2}, "from": "x"}, "some.toml")
    with pytest.raises(ValidationError, match="frozen"):
        tool.size = 5  # type: ignore[misc]
    assert Tool.model_validate_json(tool.model_dump_json(by_alias=True)) == tool


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"size": "4"}, 'size = "4": input should be a valid integer'),
        ({"size": 4.0}, "size = 4.0: input should be a valid integer"),
        ({"size": True}, "size = true: input should be a valid integer"),
        ({"size": 0}, "size = 0: input should be greater than 0"),
        ({"sharp": 1}, "sharp = 1: input should be a valid boolean"),
        ({"weight": True}, "weight = true: input should be a valid number"),
        ({"weight": float("nan")}, "weight = NaN: input should be a finite number"),
        ({"weight": float("inf")}, "weight = Infinity: input should be a finite number"),
        ({"weight": float("-inf")}, "weight = -Infinity: input should be a finite number"),
        ({"name": 3}, "name = 3: input should be a valid string"),
        ({"lengths": 8}, "lengths = 8: input should be a valid array"),
        ({"lengths": [8, "all"]}, "lengths.1 = \"all\": input should be a valid integer or 'full'"),
        ({"lengths": [True]}, "lengths.0 = true: input should be a valid integer or 'full'"),
        ({"head": {"shape": "square"}}, "key 'head.side' is missing"),
        ({"heads": [{"shape": "round"}]}, "key 'heads.0.radius' is missing"),
        (
            {"head": {"shape": "square", "side": 1, "corner": -1}},
            "head.corner = -1: input should be greater than or equal to 0",
        ),
        ({"name": "bad", "sharp": True}, "name and sharp do not go together"),
    ],
)
def test_one_line_says_what_is_wrong(data: dict[str, Any], line: str) -> None:
    assert refusal(Tool, data) == line


def test_unknown_key_names_the_near_and_the_allowed() -> None:
    allowed = "(allowed here: from, head, heads, lengths, name, sharp, size, weight, where)"
    assert refusal(Tool, {"sise": 4}) == f"unknown key 'sise'; did you mean 'size'? {allowed}"
    assert refusal(Tool, {"qqq": 4}) == f"unknown key 'qqq' {allowed}"


def test_unknown_key_goes_before_the_key_that_it_leaves_missing() -> None:
    assert refusal(Round, {"radios": 4}) == (
        "unknown key 'radios'; did you mean 'radius'? (allowed here: radius, shape)"
    )


def test_a_key_is_named_as_the_file_writes_it() -> None:
    assert "did you mean 'from'?" in refusal(Tool, {"form": "x"})
    assert "unknown key 'from_'" in refusal(Tool, {"from_": "x"})


def test_in_a_union_only_the_chosen_members_keys_are_allowed() -> None:
    line = "unknown key '{}.radius' (allowed here: corner, shape, side)"
    square = {"shape": "square", "side": 1, "radius": 2}
    assert refusal(Tool, {"head": square}) == line.format("head")
    fine = {"shape": "round", "radius": 2}
    assert refusal(Tool, {"heads": [fine, square]}) == line.format("heads.1")


def test_an_unknown_member_of_a_union_lists_the_known_ones() -> None:
    line = refusal(Tool, {"head": {"shape": "oval"}})
    assert line.startswith("head = ") and "'round', 'square'" in line


def test_what_json_does_not_know_is_refused_like_any_wrong_type() -> None:
    line = refusal(Tool, {"size": date(2026, 1, 2)})
    assert line == 'size = "2026-01-02": input should be a valid integer'


def test_a_long_value_is_cut() -> None:
    assert len(refusal(Tool, {"size": "x" * 5000})) < 120


# The same for real recipes.

RECIPE = """
[speech]
train = [{ corpus = "fsdd" }]
[model]
encoder = { width = 96, heads = 4 }
[[stage]]
name = "float"
audio_hours = 1
"""


def recipe_refusal(folder: Path, text: str, *changes: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_recipe(str(path), changes)
    return str(caught.value)


def test_reads_a_recipe_and_changes_on_top(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE, encoding="utf-8")
    changes = ["model.encoder.layers=2", "stage.0.seed=7", "speech.units.kind=char"]
    recipe = read_recipe(str(path), changes)
    assert recipe.name == "mine" and recipe.model.encoder.width == 96
    assert recipe.model.encoder.layers == 2 and recipe.stage[0].seed == 7
    assert recipe.speech.units.kind == "char"
    again = Recipe.model_validate_json(recipe.model_dump_json(by_alias=True))
    assert again == recipe


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            "model.encoder.widht=3",
            "unknown key 'model.encoder.widht'; did you mean 'width'? (allowed here: delay,",
        ),
        (
            "model.encoder.width=100",
            "model.encoder: encoder.width / heads = 25 must be even",
        ),
        ('model.head="rnnt"', "model.head = \"rnnt\": input should be 'transducer' or 'ctc'"),
        (
            'model.chunks.sizes=["all"]',
            "model.chunks.sizes.0 = \"all\": input should be a valid integer or 'full'",
        ),
        (
            "model.chunks.sizes=[7]",
            "model.chunks: chunks.left = 64 is not a multiple of the chunk size 7",
        ),
        ("stage.0.audio_hours=inf", "stage.0.audio_hours = Infinity: input should be a finite"),
        ("stage.0.audio_hours=true", "stage.0.audio_hours = true: input should be a valid number"),
        ('stage.0.form="x"', "unknown key 'stage.0.form'; did you mean 'from'?"),
        (
            'stage.0.from="x"',
            "stage 'float': from = 'x' is no earlier stage (earlier: none; another",
        ),
        ("speech.train=[{}]", "key 'speech.train.0.corpus' is missing"),
        (
            'speech.dev=[{corpus="fsdd", kind="digits"}]',
            "speech.dev.0: 'kind' belongs to corpus = 'synthetic' alone",
        ),
        ("speech.train=2026-01-02", 'speech.train = "2026-01-02": input should be a valid array'),
        (
            'model.ranks=[{match="*", rnak=3}]',
            "unknown key 'model.ranks.0.rnak'; did you mean 'rank'? (allowed here: across, ",
        ),
    ],
)
def test_a_wrong_recipe_is_refused_by_one_line(tmp_path: Path, change: str, line: str) -> None:
    assert recipe_refusal(tmp_path, RECIPE, change).startswith(f"mine.toml: {line}")


def test_two_stages_of_one_name(tmp_path: Path) -> None:
    text = RECIPE + '[[stage]]\nname = "float"\naudio_hours = 2\n'
    line = "mine.toml: two stages are named 'float'; names must differ"
    assert recipe_refusal(tmp_path, text) == line


def test_what_is_no_toml_or_no_place_or_no_recipe(tmp_path: Path) -> None:
    assert "mine.toml: not readable as TOML" in recipe_refusal(tmp_path, "x = [[")
    assert "no place 'stage.3.seed'" in recipe_refusal(tmp_path, RECIPE, "stage.3.seed=1")
    assert "write KEY=VALUE" in recipe_refusal(tmp_path, RECIPE, "stage.0.seed")
    with pytest.raises(UserError, match=r"neither a file nor a shipped recipe .*quickstart"):
        read_recipe("quickstrat")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1.5MB", 1_500_000),
        ("1.5 mb", 1_500_000),
        ("2MiB", 2**21),
        ("500000", 500_000),
        (".5k", 500),
    ],
)
def test_bytes(text: str, size: int) -> None:
    assert read_bytes(text, "--budget") == size


@pytest.mark.parametrize(
    "text", ["1,5MB", "500,000", "1/2MB", "1.5.5MB", "2 MB please", "1.5MB/s", "0", "-1", "abc", ""]
)
def test_no_bytes(text: str) -> None:
    """What begins with a number is not yet one."""
    with pytest.raises(UserError, match="write bytes, such as 2MB or 500kB"):
        read_bytes(text, "--budget")
