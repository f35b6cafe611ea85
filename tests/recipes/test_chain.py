"""Stages that stand on stages: students of students, and sizes taken out of a supernet."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pocketscribe.errors import UserError
from pocketscribe.models.saved import load_model
from pocketscribe.models.subnets import extract
from pocketscribe.training.loop import Training
from runs import MODEL, assert_equal, run_in_two_processes, step_of
from tiny import TINY_RECIPE, run_here

CHAIN = """
[[stage]]
name = "first"
like = "float"
from = "float"
teacher = "float"
cut = { units = "gradient" }
distil = { encoder = 1.0 }
audio_hours = 0.02
model = { encoder = { width = 12, heads = 1, head_width = 8 } }

[[stage]]
name = "second"
like = "first"
from = "first"
teacher = "first"
cut = { units = "norm" }
distil = { nodes = "teacher", keep = true }
augment = { versions = 2 }
model = { encoder = { width = 8 }, joiner = 12 }
"""


@pytest.fixture
def chain(recipe: Path, tiny_run: Path, prepared_beside: Callable) -> Callable[[str], Path]:
    """Folders of runs of a chain of two students, whose first teacher is trained already."""
    recipe.write_text(TINY_RECIPE + CHAIN, encoding="utf-8")
    runs = prepared_beside(recipe)

    def start(name: str) -> Path:
        (runs / name).mkdir()
        shutil.copytree(tiny_run / "float", runs / name / "float")
        shutil.copyfile(tiny_run / "units.json", runs / name / "units.json")
        return runs / name

    return start


def test_a_chain_killed_in_its_second_stage_ends_as_one_that_was_not(
    recipe: Path, chain: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = chain("whole"), chain("broken")
    results = run_here(recipe, whole)
    assert results["models"]["second"]["methods"] == ["distilled"]
    sizes = [
        load_model(whole / n / "model.safetensors").model for n in ("float", "first", "second")
    ]
    assert [m.config.encoder.width for m in sizes] == [16, 12, 8]
    step = Training._step

    def dies(training: Training, *given: object) -> object:
        if training.folder.parent.name == "second" and training.progress.step == 4:
            raise KeyboardInterrupt
        return step(training, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", dies)
        with pytest.raises(KeyboardInterrupt):
            run_here(recipe, broken)
    assert step_of(broken / "second" / "checkpoint" / "state.json") == 4
    assert run_here(recipe, broken)["models"].keys() == results["models"].keys()
    for name in ("first", "second"):
        file = Path(name) / "model.safetensors"
        assert_equal(load_file(broken / file), load_file(whole / file))


def test_a_teacher_that_cannot_teach_is_told_before_the_first_stage(
    recipe: Path, tmp_path: Path
) -> None:
    """Its stage would come last: hours later, otherwise."""
    last = '[[stage]]\nname = "last"\nteacher = "float"\naudio_hours = 1\nmodel = { head = "ctc" }'
    recipe.write_text(TINY_RECIPE + last, encoding="utf-8")
    with pytest.raises(UserError, match="teacher 'float' has a transducer head, its student a ctc"):
        run_here(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_two_processes_distil_as_one_does(recipe: Path, chain: Callable[[str], Path]) -> None:
    one, two = chain("one"), chain("two")
    run_here(recipe, one)
    run_in_two_processes(recipe, two)
    for name in ("first", "second"):
        file = Path(name) / "model.safetensors"
        here, there = load_file(one / file), load_file(two / file)
        for key, value in here.items():
            # What the teacher said is rounded to float16, which may fall either way.
            torch.testing.assert_close(there[key], value, rtol=1e-3, atol=1e-3, msg=key)


SUPERNET = """
[[stage]]
name = "supernet"
like = "float"
from = "float"
audio_hours = 0.01
supernet = { width = [8], inner = [32], joiner = [12] }

[[stage]]
name = "small"
from = "supernet"
audio_hours = 0
cut = { layers = "first", units = "first" }
model = { encoder = { width = 8, head_width = 8, inner = [32] }, joiner = 12 }
"""


def test_a_size_is_taken_out_of_a_supernet_also_of_two_processes(
    recipe: Path, chain: Callable[[str], Path]
) -> None:
    recipe.write_text(TINY_RECIPE + SUPERNET, encoding="utf-8")
    folder = chain("supernet")
    run_here(recipe, folder)
    large, small = (
        load_model(folder / name / "model.safetensors").model for name in ("supernet", "small")
    )
    start = load_model(folder / MODEL).model
    assert not torch.equal(large.joiner.out.bias, start.joiner.out.bias), "it has learnt"
    assert_equal(small.state_dict(), extract(large, small.config).state_dict())

    two = chain("two")
    run_in_two_processes(recipe, two)
    found = load_model(two / "supernet" / "model.safetensors").model
    torch.testing.assert_close(found.state_dict(), large.state_dict(), rtol=1e-3, atol=1e-3)
