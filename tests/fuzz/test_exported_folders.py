"""ONNX folders for our loop and for sherpa-onnx, whose wheel ends the process over bad ones."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from harm import NASTY, cases, flipped, harmed, refused, to_json
from pocketscribe.export.export import export
from pocketscribe.export.open import open_model
from pocketscribe.export.seal import BLANK_SEAL, SEAL, check_seal, seal
from pocketscribe.models.saved import Saved, save_model
from talkative import characters, tiny_model

NAMES = ("encoder", "decoder", "joiner")
AUDIO = 0.1 * np.random.default_rng(0).standard_normal(8000, np.float32)


@pytest.fixture(scope="session", params=["onnx", "sherpa-onnx"])
def whole(request: pytest.FixtureRequest, made_once: Callable[..., Path]) -> Path:
    def make(folder: Path) -> None:
        units = characters()
        saved = Saved(tiny_model("transducer", units, 0), units.to_json(), {"wer": 0.25})
        save_model(folder.with_suffix(".safetensors"), saved)
        export(folder.with_suffix(".safetensors"), request.param, folder)

    return made_once(f"fuzzed-{request.param}", make)


def test_bytes(whole: Path, tmp_path: Path) -> None:
    """Whatever the seal holds is refused before any runtime sees it."""
    for case, rng in cases("folder bytes", 100):
        folder = copied(whole, tmp_path)
        path = rng.choice(sorted(folder.iterdir()))
        data = path.read_bytes()
        path.write_bytes(altered := flipped(data, rng))
        assert refused(case, check_seal, folder, "encoder.onnx") or altered == data, f"case {case}"


def test_structure(whole: Path, tmp_path: Path) -> None:
    """Under a fresh seal, as far as the wheel and no further."""
    found = 0

    def heard(folder: Path) -> None:
        open_model(folder).transcribe([AUDIO], streaming=True)

    with pytest.MonkeyPatch.context() as patch:
        if "sherpa" in whole.name:
            wheel = "pocketscribe.export.sherpa_runtime.sherpa_onnx.OnlineRecognizer"
            patch.setattr(f"{wheel}.from_transducer", lambda **_: None)
            heard = open_model  # type: ignore[assignment]
        for case, rng in cases("folder structure", 40):
            folder = copied(whole, tmp_path)
            rewrite(folder, rng)
            found += refused(case, heard, folder)
    assert found > case / 2, "most harm is seen"


@pytest.mark.parametrize("whole", ["sherpa-onnx"], indirect=True)
def test_the_wheel_lives(whole: Path, tmp_path: Path) -> None:
    """In one process of its own, which would end over the first folder that it does not like."""
    folders = []
    for case, rng in cases("wheel", 20):
        folders.append(copied(whole, tmp_path / str(case)))
        rewrite(folders[-1], rng)
    program = """
import sys
from pathlib import Path
import numpy as np
from pocketscribe.errors import UserError
from pocketscribe.export.open import open_model
for path in sys.argv[1:]:
    print(path, flush=True)
    try:
        open_model(Path(path)).transcribe([np.full(8000, 0.1, np.float32)])
    except UserError:
        pass
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, *map(str, folders)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60 + len(folders),
    )
    assert ended.returncode == 0, f"{ended.stdout[-200:]} {ended.stderr[-500:]}"
    assert ended.stderr == "", "one line is ours to say"


def copied(whole: Path, place: Path) -> Path:
    shutil.rmtree(place / "folder", ignore_errors=True)
    return shutil.copytree(whole, place / "folder")


def rewrite(folder: Path, rng: random.Random) -> None:
    """Another folder under a seal that fits, where it still has one."""
    path = folder / f"{rng.choice(NAMES)}.onnx"
    match rng.randrange(8):
        case 0:
            path.write_bytes(flipped(path.read_bytes(), rng))
        case 1:
            other = folder / f"{rng.choice(NAMES)}.onnx"
            data = path.read_bytes()
            path.write_bytes(other.read_bytes())
            other.write_bytes(data)
        case 2:
            path = rng.choice([path, folder / "tokens.txt"])
            path.unlink()
        case 3 | 4:
            proto = onnx.load(path)
            graph_harm(proto.graph, rng)
            path.write_bytes(proto.SerializeToString())
        case _:
            path = rng.choice([path, folder / "encoder.onnx", folder / "encoder.onnx"])
            proto = onnx.load(path)
            metadata_harm(proto, rng)
            path.write_bytes(proto.SerializeToString())
    keeper = folder / "encoder.onnx"
    if keeper.is_file() and len(SEAL.findall(keeper.read_bytes())) == 1:
        keeper.write_bytes(SEAL.sub(BLANK_SEAL.encode(), keeper.read_bytes()))
        seal(folder, "encoder.onnx")


def metadata_harm(proto: onnx.ModelProto, rng: random.Random) -> None:
    if not proto.metadata_props:
        return
    prop = rng.choice(list(proto.metadata_props))
    if prop.key == "pocketscribe":
        prop.value = to_json(harmed(json.loads(prop.value), rng))
    elif rng.random() < 0.2:
        proto.metadata_props.remove(prop)
    elif rng.random() < 0.2:
        prop.key = rng.choice(["comment", "model_type", "T", ""])
    else:
        prop.value = rng.choice([*map(str, NASTY[:-1])]).encode("utf-8", "replace").decode()


def graph_harm(graph: onnx.GraphProto, rng: random.Random) -> None:
    ports = [*graph.input, *graph.output]
    port, node, tensor = rng.choice(ports), rng.choice(graph.node), rng.choice(graph.initializer)
    match rng.randrange(10):
        case 0:
            graph.output.remove(rng.choice(graph.output))
        case 1:
            graph.input.remove(rng.choice(graph.input))
        case 2:
            port.name = rng.choice([rng.choice(ports).name, "other"])
        case 3:
            port.type.tensor_type.elem_type = rng.randrange(1, 17)
        case 4:
            dim = rng.choice(port.type.tensor_type.shape.dim or [onnx.TensorShapeProto.Dimension()])
            dim.dim_value = rng.choice([0, 1, 2, 80, -1, 10**9, 2**62])
        case 5:
            graph.node.remove(node)
        case 6 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(ports).name
        case 7:
            node.op_type = rng.choice(["Add", "Loop", "Expand", "Identity", "ConstantOfShape", "X"])
        case 8:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(2, 10**6), tensor.name))
        case _:
            array = onnx.numpy_helper.to_array(tensor)
            worse = rng.choice([array * 0 - 1, array * 10**6, array[:1] if array.ndim else array])
            tensor.CopyFrom(onnx.numpy_helper.from_array(worse.astype(array.dtype), tensor.name))
