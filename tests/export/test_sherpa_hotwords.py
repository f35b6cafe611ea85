"""Hotwords in sherpa-onnx's beam search, whatever the units; those it would end the process at."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sherpa_onnx

import talkative
from pocketscribe.decoding.searcher import DecodingConfig
from pocketscribe.decoding.streaming import stream_one
from pocketscribe.errors import UserError
from pocketscribe.export.export import export
from pocketscribe.export.sherpa_runtime import SherpaRuntime, SherpaStream
from pocketscribe.models.saved import save_model
from pocketscribe.speech.units import Units, UnitsConfig

STRONG = 50.0  # stronger than anything that the model may think,
WIDE = 30  # where the word's next unit is in the beam


@pytest.fixture(scope="module", params=["char", "bpe"])
def folder(
    request: pytest.FixtureRequest, made_once: Callable[..., Path], sherpa_folder: Path
) -> Path:
    def make(folder: Path) -> None:
        units = Units.learn([talkative.WORDS], UnitsConfig(kind="bpe", size=24))
        path = folder.with_suffix(".safetensors")
        save_model(path, talkative.talkative(units))
        export(path, "sherpa-onnx", folder)

    return sherpa_folder if request.param == "char" else made_once("sherpa-bpe", make)


@pytest.mark.parametrize("hotword", ["SEVEN", "NINE ONE"])
def test_a_hotword_is_heard(folder: Path, speech: dict[str, np.ndarray], hotword: str) -> None:
    def text(search: DecodingConfig) -> str:
        [found] = SherpaRuntime(folder, search).transcribe([speech["seconds"]])
        return found.text

    def biased(score: float) -> str:
        return text(DecodingConfig(beam=WIDE, hotwords=(hotword,), hotword_score=score))

    plain = text(DecodingConfig(beam=WIDE))
    assert hotword not in plain
    assert hotword in biased(STRONG)
    assert biased(0.0) == plain, "it is the score that biases"


def test_other_programs_spell_hotwords_by_bpe_vocab(
    folder: Path, speech: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """A file as sentencepiece's own export writes it, where units are longer than a character."""
    path = folder / "bpe.vocab"
    if folder.name != "sherpa-bpe":
        assert not path.exists()
        return
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    symbols = [line.split()[0] for line in (folder / "tokens.txt").open(encoding="utf-8")]
    assert [symbol for symbol, _ in rows] == symbols
    (tmp_path / "words").write_text("SEVEN\n")
    files = {name: str(folder / f"{name}.onnx") for name in ("encoder", "decoder", "joiner")}
    recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
        tokens=str(folder / "tokens.txt"),
        **files,
        decoding_method="modified_beam_search",
        max_active_paths=WIDE,
        hotwords_file=str(tmp_path / "words"),
        hotwords_score=STRONG,
        modeling_unit="bpe",
        bpe_vocab=str(path),
    )
    assert "SEVEN" in stream_one(SherpaStream(recognizer, talkative.CHUNK), speech["seconds"]).text


@pytest.mark.parametrize("word", ["CAFÉ", "", " "])
def test_a_word_that_cannot_be_spelt_is_refused(folder: Path, word: str) -> None:
    with pytest.raises(UserError, match=f"hotword {word!r}: this model cannot spell it"):
        SherpaRuntime(folder, DecodingConfig(hotwords=("ONE", word)))


def test_greedy_search_has_none(sherpa_folder: Path) -> None:
    with pytest.raises(UserError, match="hotwords needs a beam; give --beam 16"):
        SherpaRuntime(sherpa_folder, DecodingConfig(beam=1, hotwords=("ONE",)))
