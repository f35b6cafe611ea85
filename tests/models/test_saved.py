"""Saved models: what was written comes back bit for bit, and what is damaged is refused."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pocketscribe.errors import UserError
from pocketscribe.models import ConformerConfig, ModelConfig, Recogniser, tensors
from pocketscribe.models.packed import FORMAT as PACKED
from pocketscribe.models.saved import FORMAT, Saved, load_model, save_model
from pocketscribe.weights import RankRule
from redigested import save_digested

UNITS = "dW5pdHM="
CARD = {"trained_on": ["…", 3], "wer": 0.25}


def recogniser(**changes: Any) -> Recogniser:
    torch.manual_seed(0)
    encoder = ConformerConfig(width=16, layers=1, heads=2, kernel=3, ffn=1)
    plain = {"encoder": encoder, "predictor": 8, "joiner": 8, "subsampling": 8}
    model = Recogniser(ModelConfig(**{**plain, **changes}), 7)
    model.mean.normal_()
    model.inverse_std.uniform_(0.5, 2)
    return model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, Saved(recogniser(), UNITS, CARD))
    return path


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        return file.metadata()


def rewrite(
    path: Path, found: dict[str, torch.Tensor] | None = None, **changes: str | None
) -> None:
    """The same file with other tensors, or other entries (None: without it) in its header."""
    found = load_file(path) if found is None else found
    values = {k: v for k, v in {**header(path), **changes}.items() if v is not None}
    save_digested(path, values, {n: t.numpy() for n, t in found.items()})


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_model(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head": "ctc"},
        {"ranks": (RankRule(match="*.ffn1.*", rank=2), RankRule(match="*", rank=5))},
    ],
)
def test_what_was_written_comes_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = recogniser(**changes)
    save_model(tmp_path / "m.safetensors", Saved(model, UNITS, CARD))
    torch.manual_seed(99)
    saved = load_model(tmp_path / "m.safetensors")
    assert saved.units == UNITS and saved.card == CARD
    assert saved.model.config == model.config and saved.model.vocabulary == 7
    assert not saved.model.training
    wanted, found = tensors(model), tensors(saved.model)
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        assert torch.equal(tensor, found[name]), name


def test_half_is_float16_without_trainings_own(tmp_path: Path, path: Path) -> None:
    half = tmp_path / "half.safetensors"
    model = load_model(path).model
    save_model(half, Saved(model, UNITS), half=True)
    stored = load_file(half)
    assert {t.dtype for t in stored.values()} == {torch.float16}
    assert not [name for name in stored if name.startswith("auxiliary.")]
    found = tensors(load_model(half).model)
    for name in stored:
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], tensors(model)[name].half().float()), name
    assert half.stat().st_size < 0.7 * path.stat().st_size


def test_a_shared_tensor_is_stored_once(tmp_path: Path) -> None:
    model = recogniser()
    block = model.encoder.blocks[0]
    block.ffn2.up.weight = block.ffn1.up.weight  # what equal keys do
    save_model(tmp_path / "m.safetensors", Saved(model, UNITS))
    stored = load_file(tmp_path / "m.safetensors")
    assert "encoder.blocks.0.ffn1.up.weight.stored" in stored
    assert "encoder.blocks.0.ffn2.up.weight.stored" not in stored


def test_a_failed_save_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(found: Any, beside: Path, header: Any) -> None:
        beside.write_bytes(b"half of it")
        raise OSError("no space left")

    before = path.read_bytes()
    monkeypatch.setattr("pocketscribe.models.saved.save_file", full_disk)
    with pytest.raises(UserError, match=r"cannot be written \(no space"):
        save_model(path, Saved(recogniser(), UNITS))
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


def test_what_is_no_model_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    assert refusal(path) == "no such model file"
    assert refusal(tmp_path) == "no such model file"
    for content in (b"", b"abc", b"a" * 1000, struct.pack("<Q", 2**62) + b"{}"):
        path.write_bytes(content)
        assert refusal(path).startswith("not a readable model file")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_truncated(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert refusal(path).startswith("not a readable model file")


def test_nothing_is_unpickled(path: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"model": Trap()}, path)
    assert refusal(path).startswith("not a readable model file")
    assert not (tmp_path / "sprung").exists()


def test_another_format(path: Path) -> None:
    rewrite(path, format="pocketscribe-model-99")
    line = f"this version reads {FORMAT!r} and {PACKED!r}: train or export the model again"
    assert refusal(path) == f"format 'pocketscribe-model-99'; {line}"
    save_file({"x": torch.zeros(1)}, path)
    assert refusal(path).startswith("format None")


def test_an_altered_weight(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    line = "altered since it was written (digest); get or export it again"
    assert refusal(path) == line
    undigested(path, load_file(path))
    assert refusal(path) == line


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(path: Path, wrong: float) -> None:
    found = load_file(path)
    found["joiner.out.bias"][3] = wrong
    rewrite(path, found)
    assert refusal(path) == "joiner.out.bias holds what is no number; train or get the model again"


def test_sizes_are_refused_before_anything_is_made(path: Path) -> None:
    """4096 wide and 256 deep, 640 GB, in a file of a few kilobytes."""
    config = json.loads(header(path)["config"])
    config["encoder"] |= {"width": 4096, "layers": 256, "ffn": 16}
    config["chunks"] = {"sizes": ["full"], "left": 0}
    rewrite(path, config=json.dumps(config))
    assert refusal(path).endswith("tensors, its config wants 256 layers")
    config["encoder"]["layers"] = 2
    rewrite(path, config=json.dumps(config))
    assert refusal(path).startswith("misses encoder.blocks.1.")
    config["encoder"]["layers"] = 1
    rewrite(path, config=json.dumps(config))
    assert "its config wants float32 (4096,)" in refusal(path)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"config": None}, "key 'config' is missing"),
        ({"config": '{"head": '}, "config: not readable as JSON (Expecting value"),
        ({"config": "[" * 10**5}, "config: not readable as JSON (maximum recursion depth"),
        ({"config": '{"x":' * 900 + "1" + "}" * 900}, "invalid JSON: recursion limit exceeded"),
        ({"config": '{"haed": "ctc"}'}, "unknown key 'config.haed'; did you mean 'head'?"),
        ({"config": '{"predictor": "8"}'}, 'config.predictor = "8": input should be a valid'),
        ({"config": f'{{"predictor": 1{"0" * 30}}}'}, "config.predictor = 1000"),
        ({"config": f'{{"predictor": 1{"0" * 5000}}}'}, "config: not readable as JSON (Exceeds"),
        ({"config": '{"encoder": {"layers": 100000}}'}, "config.encoder.layers = 100000: input"),
        ({"config": '{"chunks": {"sizes": [4096]}}'}, "config.chunks: chunks.sizes: 4096 is no"),
        ({"config": '{"encoder": {"width": 4096}, "chunks": {"left": 4096}}'}, "config: a stream"),
        ({"config": "[]"}, "config = []: input should be an object"),
        ({"vocabulary": "seven"}, "vocabulary: not readable as JSON"),
        ({"vocabulary": "-7"}, "vocabulary = -7: input should be greater than 2"),
        ({"vocabulary": "1" + "0" * 30}, "vocabulary = 1000"),
        ({"card": None}, "key 'card' is missing"),
        ({"card": "{"}, "card: not readable as JSON"),
        ({"card": "3"}, "card = 3: input should be an object"),
        ({"units": None}, "key 'units' is missing"),
    ],
)
def test_a_damaged_header(path: Path, changes: dict[str, str | None], line: str) -> None:
    rewrite(path, **changes)
    assert refusal(path).startswith(f"its header is damaged: {line}")


def test_a_header_that_never_ends(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 5 * 2**20) + b" " * 6 * 2**20)
    assert refusal(path) == "not a readable model file (its header is too large)"


def test_tensors_that_do_not_fit_the_config(path: Path) -> None:
    found = load_file(path)
    name = "joiner.out.weight.stored"
    line = "; the file does not fit its config"

    rewrite(path, {n: t for n, t in found.items() if n != name})
    assert refusal(path) == f"misses {name}{line}"
    rewrite(path, {**found, "more": torch.zeros(1)})
    assert refusal(path) == f"holds the unknown more{line}"
    rewrite(path, {**found, name: found[name].T.contiguous()})
    assert refusal(path) == f"{name} is float32 (8, 7), its config wants float32 (7, 8)"
    for dtype, said in ((torch.float16, "float16"), (torch.int64, "I64"), (torch.bfloat16, "BF16")):
        undigested(path, {**found, name: found[name].to(dtype)})
        assert refusal(path).startswith(f"{name} is {said} (7, 8), its config wants float32")
    rewrite(path, {n: t for n, t in found.items() if not n.startswith("auxiliary.")})
    load_model(path)  # what training alone needs may be missing
    assert not load_model(path).model.auxiliary
    rewrite(path, found, vocabulary="9")
    assert "its config wants float32 (9," in refusal(path)


def undigested(path: Path, found: dict[str, torch.Tensor]) -> None:
    """With types that numpy, and so a digest, need not know."""
    save_file(found, path, {k: v for k, v in header(path).items() if k != "digest"})


def test_the_same_model_is_the_same_file(tmp_path: Path) -> None:
    """In another process too: nothing in it depends on the moment."""
    save_model(tmp_path / "here", Saved(recogniser(), UNITS, {"b": 1, "a": [2, {"d": 3}]}))
    code = (
        "import sys; from pathlib import Path;"
        "from pocketscribe.models.saved import load_model, save_model;"
        "save_model(Path(sys.argv[2]), load_model(Path(sys.argv[1])))"
    )
    there = [sys.executable, "-c", code, str(tmp_path / "here"), str(tmp_path / "there")]
    subprocess.run(there, check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()
