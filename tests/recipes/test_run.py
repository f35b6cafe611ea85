"""A run scores and ships what it trained, runs nothing twice, and takes models from elsewhere."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from pocketscribe.errors import UserError
from pocketscribe.export.open import model_file
from pocketscribe.files import read_json
from pocketscribe.models.saved import load_model, save_model
from pocketscribe.recipes import reading
from pocketscribe.recipes.run import Run
from runs import MODEL, copied
from tiny import TINY_RECIPE, run_here


def test_a_finished_run(tiny_run: Path) -> None:
    assert {p.name for p in tiny_run.iterdir()} == {
        "float",
        "lock",
        "recipe.json",
        "results.json",
        "tiny.safetensors",
        "units.json",
    }
    results = read_json(tiny_run / "results.json")
    assert results["recipe"] == "tiny"
    [model] = results["models"].values()
    assert list(model["scores"]) == ["synthetic dev", "synthetic test"]
    for result in model["scores"].values():
        assert result["utterances"] == 3 and len(result["hypotheses"]) == 3
        assert 0 <= result["ci_low"] <= result["wer"] <= result["ci_high"]
        assert result["bytes"] == (tiny_run / "tiny.safetensors").stat().st_size
    card = load_model(tiny_run / "tiny.safetensors").card
    assert card["recipe"] == "tiny"
    [stage] = card["stages"]
    assert stage["name"] == "float" and stage["skipped_steps"] == 0
    assert stage["audio_hours_heard"] == pytest.approx(0.06, abs=0.01)
    [part] = stage["trained_on"]
    hours = part.pop("hours")
    assert part == {"corpus": "synthetic", "kind": "digits", "count": 24} and 0.005 < hours < 0.05
    for title, result in model["scores"].items():
        assert card["scores"][title] == {
            k: result[k] for k in ("wer", "ci_low", "ci_high", "words")
        }
    assert any((tiny_run / "float").glob("events.out.tfevents.*")), "TensorBoard's log"
    assert not (tiny_run / "float" / "checkpoint").exists(), "nothing goes on from there"


def test_test_speech_is_not_trained_on_by_another_name(tiny_run: Path, tmp_path: Path) -> None:
    """As a folder is called by its name, its path, or by way of a link."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    for other in (f"{tmp_path}/./mine", f"{folder}/", f"{tmp_path}/link"):
        train = f'speech.train=[{{ corpus = "{folder}", split = "all" }}]'
        test = f'speech.test=[{{ corpus = "{other}", split = "test" }}]'
        with pytest.raises(UserError, match=r"speech\.test: .* is trained on as"):
            run_here(tiny_run.with_name("tiny.toml"), tmp_path / "run", train, test)


def test_nothing_is_run_twice(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def times() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in tiny_run.rglob("*.*") if p.name != "recipe.json"}

    before = times()
    monkeypatch.delattr(Run, "_train")
    monkeypatch.delattr("pocketscribe.recipes.speech.prepare")
    monkeypatch.delattr("pocketscribe.recipes.shipping.evaluate")
    results = run_here(tiny_run.with_name("tiny.toml"), tiny_run)
    assert results == read_json(tiny_run / "results.json")
    assert times() == before


def test_only_what_is_new_is_scored(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(tiny_run, tmp_path)
    scored = []

    def evaluate(runtime: object, corpus: object, root: Path | None) -> dict[str, object]:
        scored.append(corpus.title)
        return read_json(tiny_run / "results.json")["models"]["float"]["scores"]["synthetic test"]

    monkeypatch.setattr("pocketscribe.recipes.shipping.evaluate", evaluate)
    recipe = tiny_run.with_name("tiny.toml")
    before = '{corpus="synthetic", kind="digits", split="test", count=3}'
    more = f'speech.test=[{before}, {{corpus="fsdd", split="test"}}]'
    run_here(recipe, folder, more)
    assert scored == ["fsdd test"]
    run_here(recipe, folder, more.replace("3", "2"))  # the same title, another part
    assert scored == ["fsdd test", "synthetic test"]
    scored.clear()
    changes = [more, "evaluate.beam=2"]  # another way of scoring: all anew
    assert run_here(recipe, folder, *changes)["changed"] == changes
    assert scored == ["synthetic dev", "synthetic test", "fsdd test"]
    assert "changed" not in run_here(recipe, folder), "as the recipe has it again"


@pytest.mark.parametrize("results", ["kept", "deleted"])
def test_what_was_trained_again_ships_and_is_scored_again(
    tiny_run: Path, tmp_path: Path, results: str
) -> None:
    folder, recipe = copied(tiny_run, tmp_path), tiny_run.with_name("tiny.toml")
    again = load_model(folder / MODEL)
    if results == "deleted":
        (folder / "results.json").unlink()
    again.model.joiner.out.bias.data[0] += 100  # of blank
    save_model(folder / MODEL, again)
    [model] = run_here(recipe, folder)["models"].values()
    assert [score["wer"] for score in model["scores"].values()] == [1.0, 1.0]
    shipped = load_model(folder / "tiny.safetensors")
    assert shipped.model.joiner.out.bias[0] > 50
    assert shipped.card["scores"]["synthetic test"]["wer"] == 1.0


def test_stages_with_models_of_their_own(
    tiny_run: Path, tmp_path: Path, prepared_beside: Callable
) -> None:
    """A second stage starts from the first one's weights, shared; a third is smaller and new."""
    recipe = tmp_path / "two.toml"
    stage = "audio_hours = 0.01\nbatch_seconds = 10\nvalidations = 0\n"
    text = (
        TINY_RECIPE.replace("layers = 1", "layers = 2")
        + f"""
[[stage]]
name = "shared"
from = "float"
model = {{ sharing = {{ blocks = 1 }} }}
{stage}
[[stage]]
name = "thin"
model = {{ encoder = {{ width = 8 }} }}
{stage}
[evaluate]
stages = "all"
"""
    )
    recipe.write_text(text.replace("audio_hours = 0.06", "audio_hours = 0.01"), encoding="utf-8")
    folder = prepared_beside(recipe) / "run"
    results = run_here(recipe, folder)
    made = {name: model["methods"] for name, model in results["models"].items()}
    assert made == {"float": [], "shared": ["shared low-rank"], "thin": []}
    stored = {
        name: model["scores"]["synthetic test"]["parameters_stored"]
        for name, model in results["models"].items()
    }
    assert stored["thin"] < stored["shared"] < stored["float"]
    files = {model["file"] for model in results["models"].values()}
    assert files == {"two-float.safetensors", "two-shared.safetensors", "two.safetensors"}
    for model in results["models"].values():
        size = (folder / model["file"]).stat().st_size
        assert model["scores"]["synthetic test"]["bytes"] == size


def test_fine_tuned_stages_ship_packed(
    tiny_run: Path, tmp_path: Path, prepared_beside: Callable
) -> None:
    """Post-training and fine-tuned, from one float stage; what is scored is the packed file."""
    recipe = tmp_path / "small.toml"
    stage = """
[[stage]]
name = "NAME"
from = "float"
teacher = "float"
audio_hours = HOURS
batch_seconds = 10
validations = 0
formats = [{ match = "subsampling.*", bits = 8 }, { match = "*", bits = 4, sparsity = "2:4" }]
"""
    text = TINY_RECIPE.replace("audio_hours = 0.06", "audio_hours = 0.01")
    for name, hours in (("after", "0"), ("tuned", "0.02")):
        text += stage.replace("NAME", name).replace("HOURS", hours)
    recipe.write_text(text + '[evaluate]\nstages = "all"\n', encoding="utf-8")
    folder = prepared_beside(recipe) / "run"
    results = run_here(recipe, folder)
    files = [model["file"] for model in results["models"].values()]
    assert files == ["small-float.safetensors", "small-after.pocket", "small.pocket"]
    made = [model["methods"] for model in results["models"].values()]
    assert made == [[], ["int4 2:4"], ["int4 2:4"]], "taught by itself is not distilled"
    sizes = [(folder / file).stat().st_size for file in files]
    assert sizes[1] < sizes[0] and sizes[2] < sizes[0]
    first, after, tuned = (
        load_model(folder / n / "model.safetensors").model for n in ("float", "after", "tuned")
    )
    for key, weight in after.weights.stored.items():
        kept = weight.stored != 0
        assert torch.equal(weight.stored, first.weights.stored[key].stored * kept)
        assert not torch.equal(weight.stored, tuned.weights.stored[key].stored)
        shipped = load_model(folder / "small.pocket").model.weights.stored[key]
        assert torch.equal(shipped(), tuned.weights.stored[key]())
    card = load_model(folder / "small.pocket").card
    assert [stage["name"] for stage in card["stages"]] == ["float", "tuned"], "all that it heard"
    assert card["scores"].keys() == {"synthetic dev", "synthetic test"}
    assert model_file(folder) == folder / "small.pocket", "a run is what it ships"


def test_a_run_takes_the_model_of_another(
    recipe: Path, prepared_beside: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it stands on is trained first, in a run of its own; then it is known by its digest."""
    monkeypatch.setattr(reading, "shipped", lambda: {"tiny": recipe})
    recipe.write_text(TINY_RECIPE.replace("audio_hours = 0.06", "audio_hours = 0.01"))
    upper = recipe.with_name("upper.toml")
    stage = '[[stage]]\nname = "more"\nlike = "tiny/float"\nfrom = "tiny/float"\nseed = 3\n'
    upper.write_text('base = "tiny"\n' + stage, encoding="utf-8")
    runs = prepared_beside(recipe)
    run_here(upper, runs / "upper")
    made = runs / "tiny" / MODEL
    taken = read_json(runs / "upper" / "taken.json")
    assert taken == {"tiny/float": hashlib.sha256(made.read_bytes()).hexdigest()}
    assert not (runs / "tiny" / "results.json").exists(), "no more of it than is needed"
    card = load_model(runs / "upper" / "upper.safetensors").card
    assert [(s["name"], s["seed"]) for s in card["stages"]] == [("float", 0), ("more", 3)]
    # Another model in its place is noticed as long as there is something left to learn from it.
    shutil.rmtree(runs / "upper" / "more")
    saved = load_model(made)
    save_model(made, saved, half=True)
    with pytest.raises(UserError, match="tiny/float is another model than when this run began"):
        run_here(upper, runs / "upper")
    (runs / "upper" / "taken.json").write_text('{"tiny/float": 3}')
    with pytest.raises(UserError, match=r"taken\.json: models\.tiny/float = 3: "):
        run_here(upper, runs / "upper")


def test_a_shipped_model_gets_heads_and_stays_what_it_is(
    recipe: Path, tiny_run: Path, prepared_beside: Callable
) -> None:
    """What ships lacks what training alone needs; a teacher has to have it."""
    shipped = tiny_run / "tiny.safetensors"
    assert not load_model(shipped).model.auxiliary
    stage = f"""
[[stage]]
name = "teacher"
from = "{shipped}"
heads_only = true
audio_hours = 0.02

[[stage]]
name = "student"
from = "teacher"
teacher = "teacher"
audio_hours = 0.01

[[stage]]
name = "tuned"
from = "{shipped}"
audio_hours = 0.04
"""
    base, _, _ = TINY_RECIPE.partition("[[stage]]")
    recipe.write_text(base + stage, encoding="utf-8")
    run = prepared_beside(recipe) / "run"
    run_here(recipe, run)
    before = load_file(shipped)
    names = ("teacher", "student", "tuned")
    made = {name: load_file(run / name / "model.safetensors") for name in names}
    teacher = made.pop("teacher")
    assert all(torch.equal(teacher[name], t.float()) for name, t in before.items())
    assert {name.split(".")[0] for name in teacher.keys() - before.keys()} == {"auxiliary"}
    for name, found in made.items():  # tuned too: heads alone take a fifth of a short training
        same = [n for n, t in before.items() if t.ndim > 1 and torch.equal(found[n], t.float())]
        assert not same, name


def test_a_training_that_went_astray_leaves_nothing_that_looks_finished(
    recipe: Path, prepared_beside: Callable
) -> None:
    run = prepared_beside(recipe) / "run"
    with pytest.raises(UserError, match=r"run/float: .* no number in float16: lower the learning"):
        run_here(recipe, run, "stage.float.optimiser.lr=1e30", "stage.float.audio_hours=0.01")
    assert not (run / "float" / "model.safetensors").exists()
    assert not list(run.glob("*.safetensors"))


def test_heads_that_nothing_has_trained_teach_nobody(
    recipe: Path, prepared_beside: Callable
) -> None:
    run = prepared_beside(recipe) / "run"
    run_here(recipe, run, "stage.float.loss.ctc=0.0", "stage.float.audio_hours=0.01")
    assert not load_model(run / "float" / "model.safetensors").model.auxiliary
    taught = recipe.with_name("taught.toml")
    base, _, _ = TINY_RECIPE.partition("[[stage]]")
    stage = '[[stage]]\nname = "student"\nfrom = "run/float"\nteacher = "run/float"\n'
    taught.write_text(base + stage + "audio_hours = 0.01\n", encoding="utf-8")
    with pytest.raises(UserError, match="was saved without what training alone needs"):
        run_here(taught, run.with_name("other"))


def test_a_dev_part_of_which_nothing_can_be_scored_is_told_before_training(
    recipe: Path, prepared_beside: Callable, tmp_path: Path
) -> None:
    beside = prepared_beside(recipe)
    silent = tmp_path / "silent"
    silent.mkdir()
    soundfile.write(silent / "a.wav", np.zeros(16000), 16000)
    (silent / "a.txt").write_text("one")
    dev = f'speech.dev=[{{ corpus = "{silent}", split = "all" }}]'
    with pytest.raises(UserError, match=r"speech\.dev: nothing in .*silent.* can be scored"):
        run_here(recipe, beside / "run", dev, "speech.bad_share=1.0")
    assert not (beside / "run" / "float" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("{ encoder = { widht = 8 } }", "stage 'float': model: unknown key 'encoder.widht'"),
        ("{ sharing = { blocks = 3 } }", "sharing.blocks = 3 must divide encoder.layers = 1"),
        ('{ sharing = { share = [{ modules = ["ffn3"] }] } }', "no module is named 'ffn3'"),
        ('{ ranks = [{ match = "ffn3", rank = 2 }] }', "match = 'ffn3' fits no weight"),
        (
            '{ ranks = [{ match = "*.depthwise", rank = 2 }] }',
            "match = '*.depthwise' has no effect: it fits no linear map",
        ),
        (
            '{ ranks = [{ match = "*.ffn1.*", rank = 2 }], '
            'sharing = { tie = [["ffn1", "ffn2"]] } }',
            "encoder.blocks.0.ffn2.up: is one with encoder.blocks.0.ffn1.up by model.sharing, but",
        ),
        (
            '{ sharing = { tie = [["ffn1", "ffn2"]], share = [{ modules = ["ffn2"] }] } }',
            "share names 'ffn2', which tie makes 'ffn1'; share that",
        ),
    ],
)
def test_a_stage_without_a_possible_model_is_refused(recipe: Path, change: str, line: str) -> None:
    with pytest.raises(UserError, match=rf"^tiny\.toml: .*{re.escape(line)}"):
        run_here(recipe, recipe.parent / "run", f"stage.0.model={change}")
    assert not (recipe.parent / "run").exists()


def test_too_many_utterances_that_cannot_be_trained_on_stop_the_run(
    recipe: Path, tmp_path: Path
) -> None:
    """Fifty words in a second; the list of them is kept."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for index in range(3):
        noise = np.random.default_rng(index).normal(0, 0.1, 16000).astype(np.float32)
        soundfile.write(folder / f"{index}.wav", noise, 16000)
        words = "ONE TWO" if index else " ".join(["ONE TWO"] * 25)
        (folder / f"{index}.txt").write_text(words, encoding="utf-8")
    train = f"speech.train=[{{ corpus = {json.dumps(str(folder))} }}]"
    with pytest.raises(
        UserError, match=r"1 of 3 utterances cannot .* more than 5%; .*: 0\.wav: mor"
    ):
        run_here(recipe, tmp_path / "run", train)
    listed = read_json(tmp_path / "run" / "float" / "refused.json")
    assert listed == {"mine train": {"0.wav": "more labels than encoder frames"}}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ('speech.test=[{corpus="nowhere"}]', "'nowhere': neither a folder nor a corpus"),
        ('speech.dev=[{corpus="fsdd"}]', "'fsdd': neither .*; set POCKETSCRIBE_CORPORA"),
        ('speech.test.0.where={age="9"}', "columns, and corpus = 'synthetic' has none"),
        ('speech.train=[{corpus="librispeech"}]', "'librispeech': neither a folder"),
        ('stage.0.augment.noise="nowhere"', "'nowhere': neither a folder nor a corpus"),
        ('speech.train.0.engines=["espeak", "flite"]', "flite.* apt install flite"),
    ],
)
def test_a_missing_corpus_is_found_before_anything_is_trained(
    recipe: Path, change: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then nothing is left behind: the mended recipe may use the same folder."""
    monkeypatch.delenv("POCKETSCRIBE_CORPORA", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(recipe.parent)
    with pytest.raises(UserError, match=line):
        run_here(recipe, recipe.parent / "run", change)
    assert [p.name for p in recipe.parent.iterdir()] == ["tiny.toml"]
