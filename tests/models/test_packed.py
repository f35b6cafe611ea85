"""Packed files: the same weights bit for bit, every byte accounted for, no altered file read."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pocketscribe.errors import UserError
from pocketscribe.export.size import size_of_file, size_of_model
from pocketscribe.models import ModelConfig, Recogniser, tensors
from pocketscribe.models.packed import FORMAT, digest
from pocketscribe.models.saved import Saved, load_model, save_packed
from pocketscribe.training.masks import settle
from redigested import contents, redigested

SHAPE = {
    "encoder": {"width": 16, "layers": 2, "heads": 2, "kernel": 4},
    "chunks": {"sizes": [4, "full"], "left": 8},
    "predictor": 16,
    "joiner": 16,
    "subsampling": 8,
}
REST = {"match": "*", "bits": 8}
FORMATS = {
    "int4 2:4": [{"match": "*.depthwise", "bits": 8}, {"match": "*", "bits": 4, "sparsity": "2:4"}],
    "int2 blocks": [{"match": "*", "bits": 2, "symmetric": False, "block": 8, "clip": "search"}],
    "int2 1:4 low": [
        {"match": "encoder.*", "bits": 2, "symmetric": False, "sparsity": "1:4"},
        REST,
    ],
    "float 3:8": [{"match": "*ffn*", "sparsity": "3:8"}],
    "int8 activations": [{"match": "*", "bits": 8, "activations": 8}],
}


def model(formats: str, **changes: object) -> Recogniser:
    torch.manual_seed(4)
    config = ModelConfig.read({**SHAPE, "formats": FORMATS[formats], **changes}, "test")
    made = Recogniser(config, 12).eval()
    settle(made)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    out = tmp_path / "model.pocket"
    save_packed(out, Saved(model("int4 2:4"), "dW5pdHM=", {"wer": 0.25}))
    return out


@pytest.mark.parametrize("formats", FORMATS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sharing": {"blocks": 1, "tie": [["ffn1", "ffn2"]]}},
        {"ranks": [{"match": "*attention*", "rank": 4, "share_factor": "u"}]},
    ],
    ids=["plain", "shared", "low rank"],
)
def test_unpacked_equals_fake_quantised(
    tmp_path: Path, formats: str, changes: dict[str, object]
) -> None:
    made = model(formats, **changes)
    save_packed(tmp_path / "m.pocket", Saved(made, "dW5pdHM=", {"wer": 0.25}))
    read = load_model(tmp_path / "m.pocket")
    assert read.card == {"wer": 0.25} and read.units == "dW5pdHM="
    assert read.model.config == made.config
    for key, weight in made.weights.stored.items():
        assert torch.equal(read.model.weights.stored[key](), weight()), key
    stored = {id(w.stored) for w in made.weights.stored.values() if not w.format.plain}
    for name, tensor in tensors(made).items():
        if id(tensor) not in stored and not name.startswith("auxiliary."):
            assert torch.equal(tensors(read.model)[name], tensor), name
    features = torch.randn(2, 40, 80)
    chunking = made.config.chunks.streaming
    with torch.no_grad():
        frames = torch.tensor([40, 40])
        one, _ = made.encode(features, frames, chunking)
        other, _ = read.model.encode(features, frames, chunking)
    assert torch.equal(one, other)

    again = tmp_path / "again.pocket"  # what was read is written as it was
    save_packed(again, read)
    assert safe_digest(again) == safe_digest(tmp_path / "m.pocket")


@pytest.mark.parametrize("formats", FORMATS)
def test_every_byte_is_accounted_for(tmp_path: Path, formats: str) -> None:
    made = model(formats)
    out = tmp_path / "m.pocket"
    save_packed(out, Saved(made, "dW5pdHM="))
    found, foreseen = size_of_file(out), size_of_model(made)
    assert found["bytes"] == out.stat().st_size == sum(found["parts"].values())
    header = found["parts"].pop("header")
    assert found["parts"] == foreseen["parts"]
    with out.open("rb") as file:
        assert header == 8 + int.from_bytes(file.read(8), "little")
    assert foreseen["bytes"] + header == found["bytes"]


def test_bits_are_those_that_were_asked_for() -> None:
    """By hand: 64 x 16 weights in int4 2:4 are four panels; each has 64 patterns of 3 bits."""
    made = model("int4 2:4")
    rows = {row["tensor"]: row for row in size_of_model(made)["tensors"]}
    up = rows["encoder.blocks.0.ffn1.up"]
    assert up["shape"] == [64, 16] and up["bytes"] == 64 * 2 + 4 * (16 * 8 * 4 // 8 + 64 * 3 // 8)
    assert up["bits_per_weight"] == 3.75
    depthwise = rows["encoder.blocks.0.convolution.depthwise"]
    assert depthwise["bytes"] == 16 * 4 + 16 * 2


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        load_model(path)
    line = str(error.value)
    assert line.startswith(str(path))
    return line.removeprefix(f"{path}: ")


UP = "encoder.blocks.0.ffn1.up"
PACKED = f"{UP}.packed"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda h, a: h.update(format="pocketscribe-packed-9"), "format 'pocketscribe-packed-9'"),
        (lambda h, a: h.pop("vocabulary"), "its header is damaged: key 'voc"),
        (lambda h, a: h.update(config="{"), "its header is damaged"),
        (lambda h, a: a.pop(PACKED), f"misses {PACKED}"),
        (lambda h, a: a.update(x=a[PACKED]), "holds the unknown x"),
        (lambda h, a: a.update({PACKED: a[PACKED][1:]}), f"{PACKED} is uint8 (479,)"),
        (lambda h, a: a.update({PACKED: a["mean"]}), f"{PACKED} is float16"),
        (lambda h, a: a[PACKED].fill(255), f"{UP}: patterns holds a number"),
        (lambda h, a: a[PACKED][:128].fill(0x7E), f"{UP} holds what is no number"),
    ],
)
def test_refused(path: Path, change: Callable[[dict, dict], None], line: str) -> None:
    assert refusal(redigested(path, path, change)).startswith(line)


def test_another_config_does_not_fit(path: Path) -> None:
    def widen(header: dict, arrays: dict) -> None:
        config = json.loads(header["config"])
        config["encoder"]["layers"] = 3
        header["config"] = json.dumps(config)

    assert "misses encoder.blocks.2" in refusal(redigested(path, path, widen))


def test_hundreds_of_altered_files(path: Path) -> None:
    """Cut, flipped, overwritten, swapped: refused by one line, or the very model that was there."""
    whole = path.read_bytes()
    wanted = safe_digest(path)
    rng = random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    read = 0
    for count in range(300):
        data = bytearray(whole)
        match count % 5:
            case 0:
                data = data[: rng.randrange(len(data))]
            case 1:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case 2:  # where a parser is most easily misled
                data[rng.randrange(header)] = rng.randrange(256)
            case 3:
                start, end = sorted(rng.sample(range(len(data)), 2))
                data[start : min(end, start + 64)] = rng.randbytes(min(end - start, 64))
            case 4:
                start = rng.randrange(len(data) - 64)
                data = data[:start] + data[start + rng.randrange(1, 64) :]
        path.write_bytes(data)
        try:
            load_model(path)
        except UserError:  # one line by construction, and tested so
            continue
        read += 1
        assert safe_digest(path) == wanted
    assert read < 6  # bits that say the same in JSON, such as spaces


def safe_digest(path: Path) -> str:
    header, arrays = contents(path)
    assert header["format"] == FORMAT
    return digest(arrays, header)
