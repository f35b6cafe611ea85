"""From options to searches: widths, what fits together, and that it is heard."""

from pathlib import Path

import numpy as np
import pytest

from pocketscribe.decoding.beam import BeamSearch
from pocketscribe.decoding.searcher import DecodingConfig, Searcher, read_hotwords
from pocketscribe.decoding.streaming import stream_one
from pocketscribe.errors import UserError
from pocketscribe.export.torch_runtime import TorchRuntime
from pocketscribe.lm.learn import Text, make_lm
from pocketscribe.models.saved import load_model
from pocketscribe.speech.held_out import HeldOut
from pocketscribe.speech.units import Units, UnitsConfig
from talkative import characters, digits


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    (folder / "text").write_text("ONE TWO THREE\nFOUR FIVE SIX\nSEVEN EIGHT NINE ZERO\n")
    make_lm(characters(), [Text(folder / "text")], HeldOut([]), 4, 10**5, folder / "digits.lm")
    return folder / "digits.lm"


def test_a_guide_brings_a_beam(lm: Path) -> None:
    assert DecodingConfig().width == 1 and DecodingConfig(beam=7).width == 7
    assert DecodingConfig(lm=lm).width == DecodingConfig(hotwords=("ONE",)).width == 16
    assert DecodingConfig(beam=2, lm=lm).width == 2
    for config in (DecodingConfig(beam=1, lm=lm), DecodingConfig(beam=1, hotwords=("ONE",))):
        with pytest.raises(UserError, match=r"--beam 1: .* needs a beam; give --beam 16"):
            Searcher.open(config, characters())


@pytest.mark.parametrize(
    ("idle", "line"),
    [
        ({"lm_scale": 0.5}, "lm_scale belongs to a language model: give --lm FILE too"),
        ({"label_bonus": 0.5, "hotwords": ["ONE"]}, "label_bonus belongs to a language model"),
        ({"hotwords": ("A",), "hotword_score": 1e39}, "hotword_score = 1e.39: .* 1000"),
        ({"hotword_score": 2.0}, "hotword_score belongs to hotwords: give --hotword PHRASE too"),
    ],
)
def test_a_number_for_a_guide_that_is_not_there(idle: dict[str, object], line: str) -> None:
    with pytest.raises(UserError, match=line):
        DecodingConfig.read(idle, "options of decoding")


def test_what_cannot_be_spelt_or_read_is_refused(lm: Path, tmp_path: Path) -> None:
    for word in ("QUAY", "…", ""):
        with pytest.raises(UserError, match="this model cannot spell it"):
            Searcher.open(DecodingConfig(hotwords=("ONE", word)), characters())
    other = Units.learn(["OTHER UNITS"], UnitsConfig(kind="char"))
    with pytest.raises(UserError, match="a recogniser of other units"):
        Searcher.open(DecodingConfig(lm=lm), other)
    with pytest.raises(UserError, match="not readable as text"):
        read_hotwords((), tmp_path)
    (tmp_path / "words").write_text("TWO\n\nTHREE FOUR\n")
    assert read_hotwords(["ONE"], tmp_path / "words") == ("ONE", "TWO", "THREE FOUR")
    assert read_hotwords(["ONE"], None) == ("ONE",)


@pytest.mark.parametrize("guide", ["lm", "hotwords"])
def test_it_is_heard_the_same_offline_and_streaming(talkative: Path, lm: Path, guide: str) -> None:
    said = digits()[1]
    plain = TorchRuntime(talkative, DecodingConfig(beam=4))
    options = (
        {"lm": lm, "lm_scale": 1.5}
        if guide == "lm"
        else {"hotwords": ("NINE", "SIX"), "hotword_score": 30.0}
    )
    guided = TorchRuntime(talkative, DecodingConfig(**options))
    streams = [stream_one(runtime.stream(), said) for runtime in (plain, guided)]
    assert len(streams[0].tokens) > 6 and streams[0].text != streams[1].text
    in_pieces = guided.stream()
    for block in np.split(said, range(7_777, len(said), 7_777)):
        in_pieces.accept(block)
    assert in_pieces.finish() == streams[1]
    # Offline there is silence of another length at the end, for the guide to speak into.
    [offline] = guided.transcribe([said], streaming=False)
    shorter, longer = sorted([offline.text, streams[1].text], key=len)
    assert len(shorter) > 6 and longer.startswith(shorter)


def test_hotwords_make_their_words_likelier(talkative: Path) -> None:
    said = digits()[1]
    counts = []
    for score in (0.0, 30.0):
        config = DecodingConfig(hotwords=("FIVE",), hotword_score=score)
        [found] = TorchRuntime(talkative, config).transcribe([said], streaming=False)
        counts.append(found.text.count("FIVE"))
    assert counts[0] < counts[1]


def test_the_config_reaches_the_search(talkative: Path, lm: Path) -> None:
    units = Units.from_json(load_model(talkative).units)
    searcher = Searcher.open(DecodingConfig(lm=lm, hotwords=("ONE",), beam=3), units)
    assert searcher.beam == 3 and len(searcher.guides) == 2
    search = searcher.start(TorchRuntime(talkative).stream().model.scorer, 2)
    assert isinstance(search, BeamSearch) and search.guides == searcher.guides
