"""Model files, float and packed: by their bytes, and by their structure under a fresh digest."""

import base64
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from harm import cases, flipped, harmed, refused, to_json
from pocketscribe.export.torch_runtime import TorchRuntime
from pocketscribe.models import ModelConfig, Recogniser
from pocketscribe.models.saved import Saved, load_model, save_model, save_packed
from redigested import contents, save_digested
from talkative import characters

TIE = [["ffn1.up", "ffn1.down^T"]]
SHAPE = {
    "encoder": {"width": 8, "layers": 2, "heads": 2, "kernel": 3, "ffn": 1},
    "chunks": {"sizes": [4, "full"], "left": 8},
    "predictor": 8,
    "joiner": 8,
    "subsampling": 8,
    "ranks": [{"match": "*.ffn2.*", "rank": 4, "share_factor": "u", "scale": True}],
    "sharing": {"share": [{"modules": ["attention"], "across": 2}], "tie": TIE},
}
FORMATS = [
    {"match": "*.depthwise", "bits": 8},
    {"match": "encoder.*", "bits": 2, "symmetric": False, "block": 8, "sparsity": "2:4"},
    {"match": "*", "bits": 4},
]


@pytest.fixture(scope="module", params=["safetensors", "pocket"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in which everything that can be stored is stored."""
    torch.manual_seed(0)
    packed = request.param == "pocket"
    config = ModelConfig.read({**SHAPE, "formats": FORMATS if packed else []}, "test")
    units = characters()
    saved = Saved(Recogniser(config, len(units)), units.to_json(), {"wer": 0.25, "stages": [{}]})
    path = tmp_path_factory.mktemp("whole") / f"model.{request.param}"
    (save_packed if packed else save_model)(path, saved)
    return path


def test_bytes(whole: Path, tmp_path: Path) -> None:
    """No altered file is read: a digest holds all of it."""
    data, path = whole.read_bytes(), tmp_path / whole.name
    for case, rng in cases("bytes", 60):
        path.write_bytes(altered := flipped(data, rng))
        assert refused(case, load_model, path) or altered == data, f"case {case}"


def test_structure(whole: Path, tmp_path: Path) -> None:
    path, found = tmp_path / whole.name, 0
    for case, rng in cases("structure", 60):
        rewrite(whole, path, rng)
        found += refused(case, TorchRuntime, path)
    assert found > case / 3, "most harm is seen"


def test_units(whole: Path, tmp_path: Path) -> None:
    """Sentencepiece's own format, altered; what it reads is at least used."""
    path, units = tmp_path / whole.name, characters().model
    for case, rng in cases("units", 60):
        header, arrays = contents(whole)
        header["units"] = base64.b64encode(flipped(units, rng)).decode()
        save_digested(path, header, arrays)
        refused(case, lambda: TorchRuntime(path).units.decode([0, 1, 2, 3, 4]))


def rewrite(whole: Path, path: Path, rng: random.Random) -> None:
    """The file with other arrays or another header, under a digest that fits."""
    header, arrays = contents(whole)
    name = rng.choice([*arrays])
    array = arrays[name]
    match rng.randrange(12):
        case 0:
            del arrays[name]
        case 1:
            arrays[rng.choice(("more", "auxiliary.more", f"{name}.x"))] = array
        case 2:
            arrays[name] = array[:-1]
        case 3:
            arrays[name] = array.astype(rng.choice([np.float16, np.float32, np.int64, np.uint8]))
        case 4 if array.dtype != np.uint8:
            arrays[name] = np.full_like(array, rng.choice([np.nan, np.inf, -np.inf, 6e4]))
        case 5:
            arrays[name] = np.full_like(array, 255)
        case 6:
            other = rng.choice([*arrays])
            arrays[name], arrays[other] = arrays[other], array
        case 7:
            header[rng.choice([*header])] = to_json(rng.choice([None, -1, 10**30, "x", [], {}]))
        case 8:
            del header[rng.choice([*header])]
        case _:
            key = rng.choice(["config", "config", "config", "card", "vocabulary"])
            header[key] = to_json(harmed(json.loads(header[key]), rng))
    save_digested(path, header, arrays)


WORST = {
    "wide": {"encoder": {"width": 4096, "layers": 2, "ffn": 16}, "chunks": {"left": 64}},
    "deep": {"encoder": {"width": 8, "layers": 256, "heads": 2}, "chunks": {"left": 0}},
    "long memory": {"encoder": {"width": 4096, "layers": 256}, "chunks": {"left": 4096}},
    "far beyond": {"encoder": {"width": 10**30, "layers": 10**5}},
}


@pytest.mark.parametrize("whole", ["pocket"], indirect=True)
def test_the_worst_cost_little(whole: Path, tmp_path: Path) -> None:
    """In a process that may have 300 MB beyond what it starts with, and 2 s."""
    header, arrays = contents(whole)
    for name, config in WORST.items():
        changed = {**header, "config": json.dumps(config)}
        save_digested(tmp_path / f"{name}.pocket", changed, arrays)
    program = """
import resource, sys, time
from pathlib import Path
from pocketscribe.errors import UserError
from pocketscribe.export.open import open_model
rows = Path("/proc/self/status").read_text().split()
held = 1024 * int(rows[rows.index("VmSize:") + 1]) + 300_000_000
resource.setrlimit(resource.RLIMIT_AS, (held, held))
for path in sys.argv[1:]:
    started = time.process_time()
    try:
        open_model(Path(path))
    except UserError as error:
        assert time.process_time() - started < 2
        print(error)
"""
    paths = sorted(map(str, tmp_path.glob("*.pocket")))
    ended = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == len(WORST), ended.stdout
