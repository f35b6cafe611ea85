"""MODEL is a run, a stage, a file or an exported folder; anything else is refused by one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pocketscribe.errors import UserError
from pocketscribe.export.export import check_target
from pocketscribe.export.onnx_runtime import OnnxRuntime
from pocketscribe.export.open import model_file, open_model
from pocketscribe.export.sherpa_runtime import SherpaRuntime
from pocketscribe.export.torch_runtime import TorchRuntime


@pytest.fixture
def run_folder(tmp_path: Path, model_path: Path) -> Path:
    """A run of two stages, both done."""
    stages = [{"name": "first"}, {"name": "second"}]
    (tmp_path / "recipe.json").write_text(json.dumps({"name": "mine", "stage": stages}))
    for stage in stages:
        (tmp_path / stage["name"]).mkdir()
        shutil.copyfile(model_path, tmp_path / stage["name"] / "model.safetensors")
    return tmp_path


def test_a_run_is_its_last_stage(run_folder: Path) -> None:
    assert model_file(run_folder) == run_folder / "second" / "model.safetensors"


@pytest.mark.parametrize("shipped", ["mine.safetensors", "mine.pocket"])
def test_a_scored_run_is_the_file_it_ships(run_folder: Path, shipped: str) -> None:
    (run_folder / shipped).touch()
    assert model_file(run_folder) == run_folder / shipped


def test_a_stage_is_its_model(run_folder: Path) -> None:
    assert model_file(run_folder / "first") == run_folder / "first" / "model.safetensors"


def test_a_file_is_itself(model_path: Path, speech: dict[str, np.ndarray]) -> None:
    runtime = open_model(model_path)
    assert isinstance(runtime, TorchRuntime)
    assert runtime.bytes == model_path.stat().st_size
    assert runtime.chunking.size == 4, "the first chunking that can stream, out of full, 4, 8"
    assert open_model(model_path, chunk=8).chunking.size == 8
    [whole] = runtime.transcribe([speech["seconds"]], streaming=False)
    [streamed] = runtime.transcribe([speech["seconds"]], streaming=True)
    assert whole.tokens == streamed.tokens[: len(whole.tokens)] != []


def test_exported_folders(onnx_folder: Path, sherpa_folder: Path, int8_folder: Path) -> None:
    assert isinstance(open_model(onnx_folder), OnnxRuntime)
    assert isinstance(open_model(sherpa_folder), SherpaRuntime)
    assert isinstance(open_model(int8_folder), SherpaRuntime)
    assert open_model(onnx_folder, chunk=4).chunk == 4
    for folder in (onnx_folder, sherpa_folder):
        with pytest.raises(UserError, match=f"--chunk 8: {folder} was exported for chunks of 4"):
            open_model(folder, chunk=8)


def test_a_folder_for_another_runtime_is_refused_at_once(onnx_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(onnx_folder, tmp_path / "copy")
    for to in ("onnx", "sherpa-onnx"):
        check_target(to, copy)
    with pytest.raises(UserError, match=r"copy: holds '.*', which would be lost"):
        check_target("executorch", copy)


def test_chunk_that_was_not_trained_for(model_path: Path) -> None:
    with pytest.raises(UserError, match=r"--chunk 5: .* chunks of full, 4, 8"):
        open_model(model_path, chunk=5)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such model; give a run, a checkpoint or"):
        open_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no model in it"):
        open_model(tmp_path)


def test_unfinished_run(run_folder: Path) -> None:
    (run_folder / "second" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="not finished its stage 'second'; run it again"):
        open_model(run_folder)


def test_run_whose_recipe_is_damaged(tmp_path: Path) -> None:
    for text in ("{", "[]", "{}", '{"stage": []}'):
        (tmp_path / "recipe.json").write_text(text)
        with pytest.raises(UserError, match=r"recipe\.json"):
            open_model(tmp_path)


@pytest.mark.parametrize("harm", ["empty", "cut short", "garbage", "text"])
def test_damaged_file(tmp_path: Path, model_path: Path, harm: str) -> None:
    data = model_path.read_bytes()
    bad = {"empty": b"", "cut short": data[:-100], "garbage": b"\xff" * 5000, "text": b"hello\n"}
    path = tmp_path / "model.safetensors"
    path.write_bytes(bad[harm])
    with pytest.raises(UserError, match="not a readable model file"):
        open_model(path)
