"""A run with everything that the page can show, and texts that would harm it if they could."""

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
from torch.utils.tensorboard import SummaryWriter

from pocketscribe.models.saved import Saved, save_model
from pocketscribe.reports.report import write_report
from scored import result
from talkative import characters, digits, tiny_model

EVIL = "</title><script>alert(1)</script>"
TITLE = "speech test"
SIZES = {"layers": 1, "width": 16, "heads": 2, "inner": [32], "rank": 0}
SIZES |= {"predictor": 16, "joiner": 16}
POINT = {"candidate": {"sizes": SIZES, "formats": EVIL}, "rules": [], "wer": 0.2}
POINT |= {"confirmed": {"wer": 0.21, "ci_low": 0.19, "ci_high": 0.24, "words": 500}}
STAGES = [{"name": "first", "audio_hours_heard": 2.0}, {"name": "float", "audio_hours_heard": 0.5}]


def rich_run(folder: Path, speech: Path) -> Path:
    """A stage that was scored, one before it, their logs, cards with a frontier, and a recipe."""
    said = [
        {"id": "0", "reference": "ONE TWO THREE", "hypothesis": "ONE TWO THREE"},
        {"id": "1", "reference": "ONE TWO THREE", "hypothesis": "ONE SIX THREE FOUR"},
        {"id": "2", "reference": f"SEVEN EIGHT {EVIL}", "hypothesis": "EIGHT"},
        {"id": "gone", "reference": "A B C D E F", "hypothesis": ""},
    ]
    scores = {TITLE: result(hypotheses=said)}
    models = {"float": {"file": "mine.safetensors", "scores": scores}}
    folder.mkdir(parents=True)
    write = {
        "results.json": {"recipe": EVIL, "changed": ["stage.0.seed=1"], "models": models},
        "recipe.json": {"speech": {"dev": [], "test": [{"corpus": str(speech), "split": "test"}]}},
    }
    for name, data in write.items():
        (folder / name).write_text(json.dumps(data))
    for stage in ("first", "float"):
        with SummaryWriter(str(folder / stage)) as log:
            for step in range(1, 501):
                log.add_scalar("train/ctc", 5 / step, step)
            log.add_scalar("dev/wer speech dev", 0.5, 250)
            log.add_scalar("dev/wer speech dev", 0.25, 500)
            log.add_scalar("lr", 0.1, 500)
    save_card(folder / "mine.safetensors", parameters=10_000_000, stages=STAGES)
    points = [{**POINT, "bytes": 2_000_000, "milliseconds": 1.5}, {**POINT, "bytes": 3_000_000}]
    save_card(
        folder / "first" / "model.safetensors",
        parameters=20_000_000,
        stages=STAGES[:1],
        frontier=points,
    )
    return folder


def save_card(path: Path, **card: Any) -> None:
    units = characters()
    save_model(path, Saved(tiny_model("ctc", units, 0), units.to_json(), card))


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora") / "speech"
    folder.mkdir()
    lines = ["id\tpath\ttranscript\tsplit"]
    for number, samples in enumerate(digits()[:3]):
        soundfile.write(folder / f"{number}.wav", samples, 16000)
        lines.append(f"{number}\t{number}.wav\tONE TWO THREE\ttest")
    (folder / "manifest.tsv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, speech: Path) -> Path:
    return rich_run(tmp_path_factory.mktemp("runs") / "mine", speech)


@pytest.fixture(scope="session")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of that run; the three worst utterances are asked for, one of which is gone."""
    out = tmp_path_factory.mktemp("out") / "report"
    write_report([run], out, audio=3)
    return out / "report.html"
