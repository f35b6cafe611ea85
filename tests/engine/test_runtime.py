"""Where the engine is taken, where it is not, and what it tells of a model."""

import sys
from pathlib import Path

import numpy as np
import pytest

from pocketscribe import cli, load
from pocketscribe.decoding.searcher import DecodingConfig
from pocketscribe.errors import UserError
from pocketscribe.evaluation.runtime import Runtime
from pocketscribe.export.engine_runtime import EngineRuntime
from pocketscribe.export.open import open_model
from pocketscribe.export.torch_runtime import TorchRuntime
from talkative import babbling, characters


def test_it_is_taken_where_it_can_do_what_is_wanted(packed: Path, talkative: Path) -> None:
    assert isinstance(open_model(packed, engine=None), EngineRuntime)
    assert isinstance(load(packed).runtime, EngineRuntime)
    assert isinstance(open_model(packed, engine=False), TorchRuntime)
    assert isinstance(open_model(packed, DecodingConfig(beam=2), engine=None), EngineRuntime)
    assert isinstance(open_model(packed, chunk="full", engine=None), TorchRuntime)
    assert isinstance(open_model(talkative, engine=None), TorchRuntime)


def test_what_it_refuses(packed: Path, talkative: Path, tmp_path: Path) -> None:
    for path, options, line in (
        (babbling(tmp_path / "ctc.pocket"), {"search": DecodingConfig(beam=2)}, "has a CTC head"),
        (packed, {"chunk": "full"}, "full context cannot stream"),
        (packed, {"chunk": 5}, "--chunk 5: this model was trained for chunks of full, 4, 8"),
        (talkative, {}, "reads 'pocketscribe-packed-2': export the model --to packed"),
        (tmp_path / "nowhere", {}, "no such model"),
    ):
        with pytest.raises(UserError, match=line):
            open_model(path, engine=True, **options)


def test_without_the_package(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketscribe_engine", None)
    monkeypatch.delitem(sys.modules, "pocketscribe.export.engine_runtime")
    assert isinstance(open_model(packed, engine=None), TorchRuntime)
    with pytest.raises(UserError, match=r"cannot be used \(.*; pip install \./engine"):
        open_model(packed, engine=True)


def test_what_it_tells_of_a_model(packed: Path) -> None:
    runtime, torch = open_model(packed, engine=True), open_model(packed)
    assert isinstance(runtime, Runtime)
    for key in ("bytes", "parameters_stored", "parameters_virtual", "chunk", "card"):
        assert getattr(runtime, key) == getattr(torch, key)
    assert runtime.units.symbols() == characters().symbols() == runtime.model.units


def test_the_command_line_says_so(
    packed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    for options, code, said in (
        ((), 0, "on the engine ("),
        (("--runtime", "torch"), 0, ""),
        (("--runtime", "tortoise"), 2, "--runtime tortoise: choose torch or engine"),
    ):
        arguments = ["pocketscribe", "transcribe", str(packed), str(tmp_path / "a.wav"), *options]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr().err
        assert ended.value.code == code and (said in told if said else not told)
