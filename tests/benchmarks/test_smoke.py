"""Every benchmark runs to its end, in small; what it measures is not looked at."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from pocketscribe.models.saved import Saved, save_packed
from pocketscribe.speech.corpora import CorpusConfig, items, locate
from talkative import characters, tiny_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SITE = BENCHMARKS.parent / "build" / "web"
LINES = {  # the least that each says
    "beam": 4,
    "browser": 4,
    "distillation": 9,
    "encoders": 4,
    "engine": 4,
    "features": 7,
    "joined": 1,
    "lazy_cuts": 5,
    "librispeech_steps": 5,
    "search": 10,
    "soak": 1,
    "streaming": 4,
    "supernet": 10,
    "training_step": 14,
    "transducer_loss": 5,
}


@pytest.fixture(autouse=True)
def _as_a_script_finds_things(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def options(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Small sizes for the benchmark `request.param`."""
    match request.param:
        case "beam":
            return {"streams": "1"}
        case "browser":
            if not (which("chromium-headless-shell") or which("chromium")) or not SITE.is_dir():
                pytest.skip("make web; install chromium")
            return {"length": 2}
        case "distillation":
            small = {"losses": (1, 8, 2, 8), "width": 16, "layers": 1}
            return {**small, "utterances": 1, "frames": 20}
        case "encoders":
            return {"conformer": (2, 16), "mhssm": (2, 16), "layers": 1, "utterances": 1}
        case "features":
            return {"utterances": 12}
        case "joined" | "search":
            seconds = 2 if request.param == "search" else 8
            noise = np.random.default_rng(0).standard_normal(seconds * 16000)
            corpus = tmp_path / "corpus"
            (corpus / "test").mkdir(parents=True)
            for i in range(4):
                soundfile.write(corpus / "test" / f"{i}.wav", 0.01 * noise, 16000)
                (corpus / "test" / f"{i}.txt").write_text("one")
            part = {"corpus": str(corpus), "split": "test"}
            if request.param == "search":
                return {**part, "model": BENCHMARKS.parent / "models" / "todm.safetensors"}
            return {**part, "out": tmp_path / "out"}
        case "lazy_cuts":
            return {"utterances": [60], "batches": 2}
        case "librispeech_steps":
            return {"stages": "librispeech/float", "seconds": 20, "steps": 2, "width": 16}
        case "streaming" | "engine" | "soak":
            model = tmp_path / "model.pocket"
            units = characters()
            tiny = tiny_model("transducer", units, 0, formats=[{"match": "*", "bits": 8}])
            save_packed(model, Saved(tiny, units.to_json()))
            if request.param == "soak":
                return {"model": model, "streams": 3, "hours": 0.05}
            if request.param == "engine":  # each line has a process of its own
                short = {"streams": "1", "seconds": 1, "chunks": "4"}
                return {"model": model, "executorch": False, **short}
            return {"model": model, "streams": "2", "seconds": 1}
        case "supernet":
            return {"frames": 5}
        case "training_step":
            return {"width": 16, "layers": 1, "utterances": 1}
        case "transducer_loss":
            return {"speed": (1, 4, 2, 8), "memory": (1, 4, 2, 8)}
    raise AssertionError


@pytest.mark.parametrize(
    ("name", "options"), [(name, name) for name in LINES], indirect=["options"], ids=str
)
def test_it_runs(
    name: str,
    options: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = import_module(name)
    monkeypatch.setattr(module, "ROUNDS", 1, raising=False)
    if name == "distillation":  # each form has a process of its own
        monkeypatch.setattr(module, "FORMS", dict(list(module.FORMS.items())[:2]))
    if name == "search":
        monkeypatch.setattr(module, "SHARES", (0.0, 1.0))
    module.main(**options)
    said = capsys.readouterr().out
    assert len(said.splitlines()) >= LINES[name]
    if name == "soak":
        assert " 0 different" in said
    if name == "joined":
        made = CorpusConfig(corpus=str(options["out"]), split="test")
        assert [x.text for x in items(made, locate(made, None))] == ["one one one"]


def test_none_is_forgotten() -> None:
    assert {path.stem for path in BENCHMARKS.glob("*.py")} == LINES.keys()
