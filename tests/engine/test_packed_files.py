"""Damaged and hostile files: the engine refuses them by one line, or hears what was written."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pocketscribe_engine as native
import pytest

from redigested import redigested
from talkative import babbling

FORMATS = [
    {"match": "*ffn*", "bits": 4, "sparsity": "2:4", "activations": 8},
    {"match": "*attention*", "bits": 4, "symmetric": False, "block": 8, "sparsity": "3:8"},
    {"match": "*", "bits": 8},
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return babbling(tmp_path_factory.mktemp("files") / "m.pocket", formats=FORMATS)


def refusal(path: Path) -> str:
    with pytest.raises(native.EngineError) as error:
        native.Model(path)
    line = str(error.value)
    assert "\n" not in line and line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


def rewritten(path: Path, out: Path, change: Callable[[dict, dict, dict], None]) -> Path:
    """`redigested`, with the plan as plain data."""

    def changed(header: dict, arrays: dict) -> None:
        plan = json.loads(header["plan"])
        change(plan, header, arrays)
        if header.get("plan"):
            header["plan"] = json.dumps(plan)

    return redigested(path, out, changed)


UP, QUERY = "encoder.blocks.0.ffn1.up", "encoder.blocks.0.attention.query"
CHANGES: dict[str, Callable[[dict, dict, dict], object]] = {
    "format 'pocketscribe-packed-9'": lambda p, h, a: h.update(format="pocketscribe-packed-9"),
    "its plan is damaged": lambda p, h, a: h.pop("plan"),
    "features with another rate": lambda p, h, a: p["features"].update(rate=8000),
    "its plan is damaged: features.mels": lambda p, h, a: p["features"].update(mels=10**9),
    "another subsampling than 4": lambda p, h, a: p.update(subsampling=8),
    "encoder family 'lstm'": lambda p, h, a: p["encoder"].update(family="lstm"),
    "its plan is damaged: encoder.layers": lambda p, h, a: p["encoder"].update(layers=1e300),
    "its plan is damaged: encoder.heads": lambda p, h, a: p["encoder"].update(heads=0),
    "its plan is damaged: encoder.width": lambda p, h, a: p["encoder"].update(width=-16),
    "its plan is damaged: head": lambda p, h, a: p.update(head="both"),
    "its plan is damaged: chunks": lambda p, h, a: p.update(chunks=[[4, 7]]),
    "it hears with full context": lambda p, h, a: p.update(chunks=[]),
    "its plan is damaged: tensors": lambda p, h, a: p["tensors"].update({UP: [16]}),
    f"{UP}.packed has another size": lambda p, h, a: p["tensors"][UP].__setitem__(0, 63),
    "its plan is damaged: a tensor's format": lambda p, h, a: p["tensors"][UP].__setitem__(2, 99),
    "its plan is damaged: formats.bits": lambda p, h, a: p["formats"][0].update(bits=3),
    "its plan is damaged: formats.keep": lambda p, h, a: p["formats"][0].update(keep=[4, 4]),
    f"misses {UP}.packed": lambda p, h, a: a.pop(f"{UP}.packed"),
    "misses mean": lambda p, h, a: a.pop("mean"),
    f"its plan misses {UP}": lambda p, h, a: p["maps"].pop(UP),
    f"{UP}: its plan names a tensor": lambda p, h, a: p["maps"][UP].update(weight="nothing"),
    f"{UP}: its tensors have another shape": lambda p, h, a: p["maps"][UP].update(transposed=True),
    f"{UP}: its tensors have another": lambda p, h, a: p["maps"][UP].update(factor=UP),
    f"{QUERY}: a pattern that is none": lambda p, h, a: a[f"{QUERY}.packed"][-32:].fill(255),
    f"{UP} holds what is no number": lambda p, h, a: a[f"{UP}.packed"][:2].fill(0x7F),
    "inverse_std holds what is no number": lambda p, h, a: a["inverse_std"].fill(np.inf),
    "its text units are damaged": lambda p, h, a: h.update(units="AAAA"),
    "its text units are damaged, ": lambda p, h, a: h.update(units="!"),
}


@pytest.mark.parametrize("line", CHANGES)
def test_refused(line: str, path: Path, tmp_path: Path) -> None:
    assert refusal(rewritten(path, tmp_path / "m.pocket", CHANGES[line])).startswith(line)


def test_no_such_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere.pocket") == "no readable model file there"
    assert refusal(tmp_path) == "no readable model file there"


def test_hundreds_of_altered_files(path: Path, tmp_path: Path) -> None:
    """Cut, flipped, overwritten, shifted; none is heard but the very file that was there."""
    whole, out = path.read_bytes(), tmp_path / "m.pocket"
    rng = random.Random(1)
    header = 8 + int.from_bytes(whole[:8], "little")
    read = 0
    for count in range(300):
        data = bytearray(whole)
        match count % 4:
            case 0:
                data = data[: rng.randrange(len(data))]
            case 1:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case 2:
                data[rng.randrange(header)] = rng.randrange(256)
            case 3:
                start = rng.randrange(len(data) - 64)
                data[start : start + 64] = data[start + rng.randrange(64) : start + 64]
        out.write_bytes(data)
        try:
            native.Model(out)
        except native.EngineError:
            continue
        read += 1
    assert read < 6  # bits that say the same in JSON, such as spaces


def test_hostile_plans_do_no_harm(path: Path, tmp_path: Path) -> None:
    """Right digests over wrong plans and arrays: what is not refused can be listened to."""
    rng = random.Random(2)
    values = (0, 1, 2, 3, -1, 17, 255, 65536, 2**40, 0.5, None, True, "", [], [4, 8], UP)
    heard = 0

    def spoil(plan: dict, header: dict, arrays: dict) -> None:
        node: object = plan
        while True:
            key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
            if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.9:
                node = node[key]
            else:
                node[key] = rng.choice(values)
                break
        name = rng.choice(sorted(arrays))
        if arrays[name].dtype == np.uint8 and rng.random() < 0.3:
            arrays[name][:] = np.frombuffer(rng.randbytes(len(arrays[name])), np.uint8)

    for _ in range(400):
        out = rewritten(path, tmp_path / "m.pocket", spoil)
        try:
            engine = native.Engine(native.Model(out))
        except native.EngineError:
            continue
        engine.transcribe([np.full(24000, 0.1, np.float32)])
        heard += 1
    assert 0 < heard < 200
