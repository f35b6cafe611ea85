"""`size` equals the files' bytes, to the byte; its parts add up."""

from math import prod
from pathlib import Path
from typing import Any

import pytest

from pocketscribe.export.export import export
from pocketscribe.export.size import size_of_file, size_of_model
from pocketscribe.models import ModelConfig, Recogniser, deployed_parameters
from pocketscribe.models.saved import Saved


def check(found: dict[str, Any], total: int, parameters: int) -> None:
    documented = {"bytes", "bits_per_weight", "parameters_stored", "parameters_virtual", "parts"}
    assert found.keys() in (documented, documented | {"tensors", "layers", "state_bytes"})
    assert found["bytes"] == total == sum(found["parts"].values())
    assert found["parameters_stored"] == found["parameters_virtual"] == parameters
    assert found["bits_per_weight"] == pytest.approx(8 * total / parameters, abs=1e-3)
    assert all(count > 0 for count in found["parts"].values())


@pytest.fixture(scope="module")
def parameters(saved: Saved) -> int:
    return sum(p.numel() for p in deployed_parameters(saved.model).values())


def test_checkpoint(model_path: Path, parameters: int, saved: Saved) -> None:
    found = size_of_file(model_path)
    check(found, model_path.stat().st_size, parameters)
    assert found["parts"].keys() == {
        "auxiliary",
        "encoder.blocks.0",
        "header",
        "joiner",
        "normalisation",
        "predictor",
        "subsampling",
    }
    block = saved.model.encoder.blocks[0].parameters()
    assert found["parts"]["encoder.blocks.0"] == 4 * sum(p.numel() for p in block)


def test_half_precision_file(tmp_path: Path, model_path: Path, parameters: int) -> None:
    out = tmp_path / "half.safetensors"
    export(model_path, "safetensors", out)
    found = size_of_file(out)
    check(found, out.stat().st_size, parameters)
    assert "auxiliary" not in found["parts"], "what training alone needs does not ship"
    weights = found["bytes"] - found["parts"]["header"] - found["parts"]["normalisation"]
    assert weights == 2 * parameters


@pytest.mark.parametrize("kind", ["onnx_folder", "sherpa_folder", "int8_folder"])
def test_exported_folder(kind: str, request: pytest.FixtureRequest, parameters: int) -> None:
    folder: Path = request.getfixturevalue(kind)
    files = {p.name: p.stat().st_size for p in folder.iterdir()}
    found = size_of_file(folder)
    check(found, sum(files.values()), parameters)
    assert found["parts"] == files


def test_a_card_beside_the_files_is_not_counted(onnx_folder: Path, tmp_path: Path) -> None:
    for path in onnx_folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "README.md").write_text("a card")
    assert size_of_file(tmp_path) == size_of_file(onnx_folder)


def test_a_model_in_no_file_yet(
    saved: Saved, parameters: int, model_path: Path, tmp_path: Path
) -> None:
    """As it will ship."""
    found = size_of_model(saved.model)
    check(found, 2 * (parameters + 2 * 80), parameters)
    out = tmp_path / "half.safetensors"
    export(model_path, "safetensors", out)
    in_file = size_of_file(out)
    assert found["tensors"] == in_file["tensors"]
    assert found["parts"] == {k: v for k, v in in_file["parts"].items() if k != "header"}


def test_tensors_take_what_they_take_in_the_file(saved: Saved, model_path: Path) -> None:
    exact = size_of_file(model_path)["tensors"]
    assert all(row["bytes"] == 4 * prod(row["shape"]) for row in exact)
    assert all(
        row["bytes"] == 2 * prod(row["shape"]) for row in size_of_model(saved.model)["tensors"]
    )


def test_a_shared_weight_is_counted_once(saved: Saved, parameters: int) -> None:
    plain = saved.model.encoder.blocks[0]
    ties = {"sharing": {"tie": [["ffn1.up", "ffn2.up"]]}}
    config = ModelConfig.read(saved.model.config.model_dump(mode="json") | ties, "tied")
    found = size_of_model(Recogniser(config, saved.model.vocabulary))
    assert found["bytes"] == 2 * (parameters - plain.ffn2.up.weight.stored.numel() + 2 * 80)
    row = next(row for row in found["tensors"] if row["tensor"] == "encoder.blocks.0.ffn1.up")
    assert row["serves"] == ["encoder.blocks.0.ffn1.up", "encoder.blocks.0.ffn2.up"]
