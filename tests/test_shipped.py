"""The very files in models/: they load, they are as large as the results say, and they listen."""

import json
from pathlib import Path

import numpy as np
import pytest

from pocketscribe.decoding.searcher import DecodingConfig
from pocketscribe.export.open import open_model
from pocketscribe.export.size import size_of_file
from pocketscribe.models.saved import load_model
from pocketscribe.speech.corpora import CorpusConfig, items, locate

ROOT = Path(__file__).parents[1]
RESULTS = {"todm": "todm_composed"}  # whose results others than a run of its name left
FILES = {path.name: path for path in sorted((ROOT / "models").iterdir())}


def test_all_of_them_are_under_40_mb() -> None:
    assert sum(p.stat().st_size for p in (ROOT / "models").rglob("*") if p.is_file()) < 40e6


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("digits.safetensors", "float"),
        ("shared_lowrank.safetensors", "float"),
        ("english.safetensors", "robust"),
        ("todm.safetensors", "shared_search"),
        ("usm_lite.pocket", "int4_2of4"),
        ("progressive.safetensors", "student"),
        ("progressive.pocket", "int4_2of4"),
        ("progressive_digits.safetensors", "fifth"),
        ("progressive_digits.pocket", "int4_2of4"),
        ("fit_fsdd.pocket", "low_bits"),
    ],
)
def test_it_is_the_file_that_was_scored(file: str, stage: str) -> None:
    path = FILES[file]
    name = RESULTS.get(path.stem, path.stem)
    results = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
    assert load_model(path).card["recipe"] == results["recipe"]
    scores = results["models"][stage]["scores"]
    found = size_of_file(path)
    for key in ("bytes", "parameters_stored", "parameters_virtual"):
        assert {result[key] for result in scores.values()} == {found[key]}


def test_the_pocket_file_is_a_tenth() -> None:
    plain = size_of_file(FILES["english.safetensors"])["parameters_stored"]
    assert FILES["usm_lite.pocket"].stat().st_size < 0.105 * 4 * plain


@pytest.mark.parametrize(
    ("model", "lm"),
    [
        ("english.safetensors", "english.lm"),
        ("digits.safetensors", "digits.lm"),
        ("progressive_digits.pocket", "progressive_digits.lm"),
    ],
)
def test_language_models_fit_their_recognisers(model: str, lm: str) -> None:
    runtime = open_model(FILES[model], DecodingConfig(lm=FILES[lm]))
    [said] = runtime.transcribe([np.zeros(16000, np.float32)], streaming=False)
    assert said.text == ""


@pytest.mark.parametrize(
    ("file", "corpus"),
    [
        ("digits.safetensors", "fsdd"),
        ("digits-sherpa-onnx-int8", "fsdd"),
        ("shared_lowrank.safetensors", "fsdd"),
        ("english.safetensors", "speechocean762"),
        ("usm_lite.pocket", "speechocean762"),
    ],
)
def test_it_says_what_the_results_say(file: str, corpus: str, corpora: Path) -> None:
    """The first utterances of the dev part; int8 may hear some of them otherwise."""
    config = CorpusConfig(corpus=corpus, split="dev")
    name = file.removesuffix("-sherpa-onnx-int8").split(".")[0]
    results = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
    scored = list(results["models"].values())[-1]["scores"][config.title]
    expected = {row["id"]: row["hypothesis"] for row in scored["hypotheses"]}
    runtime = open_model(FILES[file])
    equal = 0
    for item, _ in zip(items(config, locate(config, corpora)), range(10), strict=False):
        [said] = runtime.transcribe([item.read()], streaming=False)
        equal += said.text == expected[item.id]
    assert equal >= (9 if file != "digits-sherpa-onnx-int8" else 5)
