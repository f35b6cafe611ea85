"""The language model that sherpa-onnx reads gives the scores of our own fusion."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from pocketscribe.decoding.searcher import DecodingConfig
from pocketscribe.export.onnx_lm import export_lm
from pocketscribe.export.sherpa_runtime import SherpaRuntime
from pocketscribe.lm.kneser_ney import FIRST, START
from pocketscribe.lm.ngram import Ngram, learn, save
from talkative import characters

WORDS = ["ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"]


@pytest.fixture(scope="module")
def sentences() -> list[list[int]]:
    generator = np.random.default_rng(0)
    return [characters().encode(" ".join(generator.choice(WORDS, 4))) for _ in range(30)]


@pytest.mark.parametrize("bonus", [0.0, 1.5])
def test_every_score_along_every_sentence(
    sentences: list[list[int]], bonus: float, tmp_path: Path
) -> None:
    model = Ngram(learn(sentences, len(characters()), 5, 6000), len(characters()))
    export_lm(model, tmp_path / "lm.onnx", bonus)
    session = onnxruntime.InferenceSession(tmp_path / "lm.onnx")
    about = session.get_modelmeta().custom_metadata_map
    assert about == {"num_layers": "1", "hidden_size": "1", "sos_id": "0"}
    names, zero = [x.name for x in session.get_inputs()], np.zeros((1, 1, 1), np.float32)
    for sentence in [*sentences[:6], [3, 3, 9, 2, 2, 5]]:
        state, h, c = 0, zero, zero
        for label in [START, *sentence]:
            x = np.array([[label]])
            scores, h, c = session.run(None, dict(zip(names, (x, h, c), strict=True)))
            state = model.after(state, label)
            expected = model.log_probs_after(state)
            np.testing.assert_allclose(scores[0, 0, FIRST:], expected[FIRST:] + bonus, atol=1e-4)
            assert not scores[0, 0, :FIRST].any() and h.item() == state


def test_sherpa_onnx_listens_to_it(
    sentences: list[list[int]], sherpa_folder: Path, real_speech: np.ndarray, tmp_path: Path
) -> None:
    units = characters()
    save(tmp_path / "digits.lm", learn(sentences, len(units), 5, 6000), units, {})
    speech = real_speech[: 4 * 16000]
    lm = {"lm": tmp_path / "digits.lm", "lm_scale": 2.0}
    heard = [
        SherpaRuntime(sherpa_folder, DecodingConfig(beam=4, **more)).transcribe([speech])[0].text
        for more in ({}, {**lm, "label_bonus": 0.0}, {**lm, "label_bonus": 5.0})
    ]
    assert heard[0] != heard[1] and len(heard[1]) < len(heard[2])
