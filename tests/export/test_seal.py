"""Sealed folders: every byte is held, and what a fresh seal covers is still looked at."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from pocketscribe.errors import UserError
from pocketscribe.export.open import open_model
from pocketscribe.export.seal import BLANK_SEAL, SEAL, check_seal, seal

KEEPER = "encoder.onnx"


@pytest.fixture(params=["onnx_folder", "sherpa_folder"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return shutil.copytree(request.getfixturevalue(request.param), tmp_path / "model")


def changed(folder: Path, name: str, change: Callable[[onnx.ModelProto], object]) -> None:
    """Another graph under a seal that fits."""
    proto = onnx.load(folder / name)
    change(proto)
    onnx.save(proto, folder / name)
    data = (folder / KEEPER).read_bytes()
    (folder / KEEPER).write_bytes(SEAL.sub(BLANK_SEAL.encode(), data))
    seal(folder, KEEPER)


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        open_model(folder)
    assert str(refused.value).startswith(str(folder))
    return str(refused.value).removeprefix(str(folder))


def test_any_altered_byte_is_seen(folder: Path) -> None:
    check_seal(folder, KEEPER)
    for path in folder.iterdir():
        data = path.read_bytes()
        for place in (0, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises(UserError, match="export it again"):
                check_seal(folder, KEEPER)
        path.write_bytes(data)
    (folder / "README.md").write_text("notes are no part of it")
    check_seal(folder, KEEPER)


def describing(**changes: Any) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        [prop] = [p for p in proto.metadata_props if p.key == "pocketscribe"]
        prop.value = json.dumps({**json.loads(prop.value), **changes})

    return change


def meta(key: str, value: str) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        [prop] = [p for p in proto.metadata_props if p.key == key] or [proto.metadata_props.add()]
        prop.key, prop.value = key, value

    return change


def ballooned(proto: onnx.ModelProto) -> None:
    """Ends in an array of 40 GB that nothing needs to be that large."""
    graph, huge = proto.graph, np.array([10**10])
    graph.initializer.append(onnx.numpy_helper.from_array(huge, "huge"))
    value = onnx.numpy_helper.from_array(np.zeros(1, np.float32))
    graph.node.append(onnx.helper.make_node("ConstantOfShape", ["huge"], ["zeros"], value=value))
    graph.node.append(onnx.helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0))
    last = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["before" if name == last else name for name in node.output]
    graph.node.append(onnx.helper.make_node("Add", ["before", "sum"], [last]))


def looping(proto: onnx.ModelProto) -> None:
    body = onnx.helper.make_graph([], "body", [], [])
    proto.graph.node.append(onnx.helper.make_node("Loop", ["", ""], ["x2"], body=body))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (KEEPER, describing(frames=10**9), ": its description is damaged: frames = 1000000000"),
        (KEEPER, describing(frames=float("nan")), ": its description is damaged: frames = NaN"),
        (KEEPER, describing(frames=-1), ": its description is damaged: frames = -1"),
        (
            KEEPER,
            describing(states={"past": [-3, 80]}),
            ": its description is damaged: states.past",
        ),
        (
            KEEPER,
            describing(states={"a": [2**23, 80]}),
            ": its description is damaged: states hold",
        ),
        (KEEPER, describing(states="x"), ': its description is damaged: states = "x"'),
        (KEEPER, describing(head=None), ": its description is damaged: head = null"),
        (KEEPER, describing(units="eA=="), ": its text units are damaged"),
        (KEEPER, describing(frames=64), "/encoder.onnx: its inputs do not fit its description"),
        (KEEPER, meta("pocketscribe", f'["{BLANK_SEAL}"]'), ": not exported by this version"),
        (KEEPER, meta("pocketscribe", f'["{BLANK_SEAL}"'), "/encoder.onnx: not readable as JSON"),
        (KEEPER, lambda p: p.graph.output.pop(), "/encoder.onnx: its outputs do not fit"),
        ("joiner.onnx", lambda p: p.graph.input.pop(), "/joiner.onnx: not a readable ONNX file"),
        ("decoder.onnx", lambda p: p.graph.node.pop(), "/decoder.onnx: not a readable ONNX file"),
        ("joiner.onnx", ballooned, "/joiner.onnx: does not run"),
        ("joiner.onnx", looping, "/joiner.onnx: holds what no export writes (loops"),
    ],
)
def test_what_does_not_fit_is_refused(
    folder: Path, name: str, change: Callable[[onnx.ModelProto], object], said: str
) -> None:
    changed(folder, name, change)
    assert refusal(folder).startswith(said)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        (KEEPER, "T", "17"),
        (KEEPER, "decode_chunk_len", "sixteen"),
        (KEEPER, "left_context", "-1"),
        (KEEPER, "encoder_dim", str(10**12)),
        (KEEPER, "num_encoder_layers", ""),
        (KEEPER, "comment", "of no export"),
        ("decoder.onnx", "vocab_size", "3"),
        ("decoder.onnx", "context_size", "200"),
        ("joiner.onnx", "joiner_dim", "7"),
    ],
)
def test_what_the_wheel_would_believe(
    sherpa_folder: Path, tmp_path: Path, name: str, key: str, value: str
) -> None:
    folder = shutil.copytree(sherpa_folder, tmp_path / "model")
    changed(folder, name, meta(key, value))
    assert refusal(folder).startswith(f": {name} has the wrong {key!r}; export it again")


def test_old_exports_are_told_so(folder: Path) -> None:
    proto = onnx.load(folder / KEEPER)
    meta("pocketscribe", json.dumps({"format": "pocketscribe-onnx-1"}))(proto)
    onnx.save(proto, folder / KEEPER)
    assert "not exported by this version of Pocketscribe; export it again" in refusal(folder)
