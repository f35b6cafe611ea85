"""Recipes as people write them: shipped ones, and what is refused."""

from pathlib import Path

import pytest

from pocketscribe.errors import UserError, UserHint
from pocketscribe.recipes.reading import read_recipe, shipped
from pocketscribe.recipes.recipe import Recipe

SHARED = """model = { sharing = { blocks = 1 } }, formats = [
  { match = "encoder.blocks.0.*", bits = 8 }, { match = "*", bits = 4 }]""".replace("\n", "")


def finetune(keys: str) -> str:
    """The change that makes a fine-tuning of the second stage."""
    return f'stage.1={{ name = "second", from = "first", audio_hours = 1, {keys} }}'


@pytest.fixture
def recipe(two_stages: Path) -> Path:
    return two_stages


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_recipes(name: str) -> None:
    found = read_recipe(name)
    assert found.name == name and found.speech.test
    assert Recipe.read(found.model_dump(by_alias=True, mode="json"), "again") == found


def test_a_ctc_model_has_no_other_heads_to_train(recipe: Path) -> None:
    changes = (finetune("heads_only = true"), "model.head=ctc")
    with pytest.raises(UserError, match=r"stage 'second': heads_only: a CTC model has no heads"):
        read_recipe(str(recipe), changes)
    assert read_recipe(str(recipe), changes[:1]).stage[1].heads_only


def test_a_teacher_has_something_to_teach(recipe: Path) -> None:
    changes = ["stage.second.teacher=first", "stage.second.distil.ctc=0.0"]
    assert read_recipe(str(recipe), changes).stage[1].taught_by == "first"
    with pytest.raises(UserError, match=r"has a CTC head, and distil\.lattice is of a transducer"):
        read_recipe(str(recipe), [*changes, "model.head=ctc"])
    changes = ["stage.second.teacher=first", "stage.second.distil.lattice=0.0"]
    full = [*changes, "stage.second.loss.transducer=full"]
    assert read_recipe(str(recipe), full).stage[1].distil.ctc == 1.0, "no windows are asked for"


def test_sentences_that_are_scored_are_not_read_in_training(recipe: Path) -> None:
    """Synthetic voices read the whole of a file, whatever the split."""
    spoken = '[{ corpus = "synthetic", split = "%s", texts = "a.txt" }]'
    changes = [f"speech.{name}={spoken % name}" for name in ("train", "test")]
    with pytest.raises(UserError, match="its score would tell nothing"):
        read_recipe(str(recipe), changes)
    changes[1] = changes[1].replace("a.txt", "b.txt")
    assert read_recipe(str(recipe), changes).speech.test


def test_heads_that_nothing_trains_are_known(recipe: Path) -> None:
    for change, trained in (
        ("{}", True),
        ("{ ctc = 0.0 }", False),
        ("{ ctc = 0.0, consistency = 1.0 }", True),
        ("{ transducer = 'full' }", False),
    ):
        found = read_recipe(str(recipe), [f"stage.first.loss={change}"])
        assert found.stage[0].trains_all_heads == trained, change
    taught = read_recipe(str(recipe), ["stage.second.loss.ctc=0.0", "stage.second.teacher=first"])
    assert taught.stage[1].trains_all_heads, "by the teacher's"


def test_a_rank_that_saves_nothing_is_told_once(recipe: Path) -> None:
    """Of the recipe's own model, and not of every size of its supernet."""
    changes = ['model.ranks=[{ match = "*.ffn?.up", rank = 170 }]', "stage.first.supernet={}"]
    with pytest.warns(UserHint, match="rank 170 for .* a rank saves up to") as said:
        read_recipe(str(recipe), changes)
    assert len(said) == 1


def test_there_are_the_promised_recipes() -> None:
    assert shipped().keys() >= {"quickstart", "digits", "english", "usm_lite"}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("stage.0.audio_hours", "--set stage.0.audio_hours: write KEY=VALUE, such as"),
        ("=3", "--set =3: write KEY=VALUE"),
        ("stage.2.seed=1", "--set stage.2.seed=1: the recipe has no place 'stage.2.seed'"),
        ("stage.third.seed=1", "the recipe has no place 'stage.third.seed'"),
        ("stage.0.name.x=1", "the recipe has no place 'stage.0.name.x'"),
        (
            "stage.1.from=nowhere",
            "stage 'second': from = 'nowhere' is no earlier stage (earlier: fi",
        ),
        (
            "stage.0.from=second",
            "stage 'first': from = 'second' is no earlier stage (earlier: none; another",
        ),
        ("stage.1.from=second", "stage 'second': from = 'second' is no earlier stage"),
        ("stage.1.name=first", "two stages are named 'first'; names must differ"),
        ("stage.1.name=../up", 'stage.1.name = "../up": string should match pattern'),
        ("stage.0.kind=train", "unknown key 'stage.0.kind'"),
        ('evaluate.stages=["third"]', "evaluate.stages: no stage is named 'third'"),
        ("stage.0.audio_hours=0", "audio_hours = 0 needs from: the stage whose model is converted"),
        ("stage.0.heads_only=true", "heads_only needs from: the model whose heads are trained"),
        ("stage.0.audio_hours=-1", "stage.0.audio_hours = -1: input should be greater than or"),
        (
            "stage.0.audio_hours=long",
            'stage.0.audio_hours = "long": input should be a valid number',
        ),
        ("stage=[]", "stage = []: "),
        ("stage=[1]", "stage.0 = 1: input should be an object"),
        ("stage.0=3", "stage.0 = 3: input should be an object"),
        ("x=" + "[" * 1900, "--set x: not readable as TOML (maximum recursion depth"),
        ("x=" + "9" * 5000, "--set x: not readable as TOML (more than 100000 characters, or 2000"),
        (".".join("x" * 3000) + "=1", "maximum recursion depth exceeded"),
        ("model.encoder.width=100000000", "width = 100000000: input should be less than or equal"),
        ("model.predictor=0x" + "f" * 1900, "predictor = 6"),
        ("stage.0.seed=10000000000", "stage.0.seed = 10000000000: input should be less than"),
        ("name=../up", 'name = "../up": string should match pattern'),
        ("stage.0.loss.transducer=half", "input should be 'pruned' or 'full'"),
        (finetune("formats = []"), "stage.1.formats = []: "),
        (
            finetune('formats = [{ match = "*", bits = 3 }]'),
            "stage.1.formats.0.bits = 3: input should be 8, 4 or 2",
        ),
        (
            finetune('formats = [{ match = "*", block = 32 }]'),
            "symmetric, block and clip say how to quantise: give bits too",
        ),
        (
            finetune('formats = [{ match = "*", activations = 8 }]'),
            "activations are integers where weights are: give bits too",
        ),
        (
            finetune('formats = [{ match = "*", sparsity = "4:2" }]'),
            "sparsity",
        ),
        (
            finetune('sampled_bits = [2], formats = [{ match = "*", bits = 2 }]'),
            "sampled_bits.0 = 2: input should be 8 or 4",
        ),
        (
            finetune('teacher = "third", formats = [{ match = "*", bits = 4 }]'),
            "teacher = 'third' is no earlier stage",
        ),
        (
            finetune('loss = { transducer = "full" }, teacher = "first"'),
            "distil.nodes = 'student' are the windows of the pruned loss",
        ),
        (finetune("distil = { ctc = 2.0 }"), "distil needs a teacher"),
        (
            finetune('take = { search = "first", budget = "1MB" }, cut = { units = "first" }'),
            "stage 'second': take.search = 'first': that stage does not search",
        ),
        (
            finetune('heads_only = true, formats = [{ match = "*", bits = 8 }]'),
            "heads_only leaves the model as it is: leave out cut, teacher, formats and supernet",
        ),
        (
            finetune('heads_only = true, loss = { transducer = "full", ctc = 0.0 }'),
            "heads_only: this loss asks none of the heads",
        ),
        (
            finetune("model = { encoder = { layers = 3 } }"),
            "stage 'second': model.encoder.layers is 3 here and",
        ),
        (
            finetune('patience = 3, formats = [{ match = "*", bits = 4, sparsity = "2:4" }]'),
            "stage 'second': patience would stop by scores from before the N:M masks are whole",
        ),
        (finetune('teacher = "first", supernet = {}'), "a supernet's largest network teaches the"),
        (
            finetune("supernet = { width = [4096] }"),
            "stage 'second': supernet.width: 4096 is no size of a model with width =",
        ),
        (
            finetune("cut = {}, model = { encoder = { width = 4000 } }"),
            "stage 'second': model.encoder.width is 4000 here and",
        ),
        (
            finetune("cut = {}, model = { encoder = { layers = 0 } }"),
            "stage 'second': model: encoder.layers = 0: input should be greater than 0",
        ),
        ('stage.0={ name = "a", audio_hours = 1, cut = {} }', "cut needs from: the model of which"),
        (
            finetune('teacher = "first", distil = { lattice = 0.0, ctc = 0.0 }'),
            "distil: every weight is 0; leave the teacher out",
        ),
        (
            finetune('teacher = "first", distil = { keep = true }'),
            "distil.keep needs nodes that stay: 'teacher', 'path' or 'all', not 'student'",
        ),
        (
            finetune('teacher = "first", distil = { keep = true, nodes = "teacher" }'),
            "distil.keep needs augment.versions",
        ),
        (
            finetune('formats = [{ match = "nothing", bits = 4 }]'),
            "stage 'second': formats: match = 'nothing' fits no weight",
        ),
        (
            finetune(SHARED),
            "formats gives the two different formats; one tensor ships in one format",
        ),
        ("stage.1.from=nowhere/float", "'nowhere/float': neither a model nor a stage of a run"),
        ("stage.1.from=digits/nothing", "digits has no stage 'nothing' (it has float)"),
        ("speech.train=[]", "speech.train = []: "),
        ("speech.bad_share=2", "speech.bad_share = 2: input should be less than or equal to 1"),
        ("evaluate.beam=1001", "evaluate.beam = 1001: input should be less than or equal to 1000"),
        ("evaluate.beam=0", "evaluate.beam = 0: input should be greater than or equal to 1"),
        ("speech={}", "key 'speech.train' is missing"),
        ("speech.train.0.weight=1e308", "speech.train.0.weight = 1e+308: "),
        ("speech.train.0.seed=1", "speech.train.0: 'seed' belongs to corpus = 'synthetic' alone"),
        ("modle.head=ctc", "unknown key 'modle'; did you mean 'model'?"),
        (
            "speech.dev=[{ corpus = 'fsdd', split = 'test' }]",
            "speech: dev and test name 'fsdd test' ",
        ),
        (
            "stage.0.train=[{ corpus = 'fsdd', split = 'all' }]",
            "speech.test: 'fsdd test' is trained on as 'fsdd all'",
        ),
    ],
)
def test_one_line_says_what_is_wrong(recipe: Path, change: str, line: str) -> None:
    with pytest.raises(UserError) as refused:
        read_recipe(str(recipe), [change])
    assert line in str(refused.value)
    assert str(refused.value).startswith(("mine.toml: ", "--set "))


def test_a_search_needs_sub_networks() -> None:
    line = "stage 'search': search: no stage that it comes from has a supernet"
    with pytest.raises(UserError, match=line):
        read_recipe("todm", ["stage.6.from=start"])
