"""Text units: ids as sherpa-onnx wants them, and every text comes back as it went in."""

import base64
import random

import pytest

from pocketscribe.errors import UserError
from pocketscribe.speech.units import BLANK, SPACE, UNKNOWN, Units, UnitsConfig

WORDS = "please bring seven yellow chairs don't the river house by quickly jumps fox vex".upper()
KINDS = ("char", "bpe", "unigram")


def sentences(count: int = 200) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS.split(), k=rng.randint(1, 6))) for _ in range(count)]


@pytest.fixture(scope="module", params=KINDS)
def units(request: pytest.FixtureRequest) -> Units:
    return Units.learn(sentences(), UnitsConfig(kind=request.param, size=40))


def test_texts_come_back(units: Units) -> None:
    for text in [*sentences(), "A", "DON'T", "HOUSES BRINGING JUMPS"]:
        ids = units.encode(text)
        assert units.decode(ids) == text
        assert units.can_spell(text) and BLANK not in ids and UNKNOWN not in ids
    assert units.encode("") == [] and units.decode([]) == ""


def test_blank_is_0_unknown_is_1_and_words_start_with_the_mark(units: Units) -> None:
    symbols = units.symbols()
    assert (BLANK, UNKNOWN) == (0, 1) and symbols[:2] == ["<blk>", "<unk>"]
    assert len(symbols) == len(units) == len(set(symbols))
    assert units.pieces(units.encode("THE FOX"))[0].startswith(SPACE)


def test_other_letters_cannot_be_spelled(units: Units) -> None:
    for text in ("ÉCLAIR", "ПРИВЕТ", "SEVEN 7"):
        assert not units.can_spell(text)
        assert UNKNOWN in units.encode(text)


def test_sizes() -> None:
    letters = len(set(WORDS) - {" "})
    for size in (40, 500):
        assert len(Units.learn(sentences(), UnitsConfig(kind="char", size=size))) == letters + 3
    for kind in KINDS[1:]:
        assert len(Units.learn(sentences(), UnitsConfig(kind=kind, size=40))) == 40
    pieces = Units.learn(sentences(), UnitsConfig(kind="bpe", size=40)).encode(sentences()[0])
    assert len(pieces) < len(sentences()[0])


def test_json_keeps_everything(units: Units) -> None:
    for damaged in ("", "????", units.to_json()[:40]):
        with pytest.raises(UserError, match=r"^model: its text units are damaged$"):
            Units.from_json(damaged, "model")
    assert units.model.count(b"E") > 0
    for text in (units.model.replace(b"E", b"\xff"), b"\x0a\x00"):  # no UTF-8; one empty piece
        with pytest.raises(UserError, match=r"^model: its text units are damaged$"):
            Units.from_json(base64.b64encode(text).decode(), "model")
    with pytest.raises(UserError, match=rf"^model: it has {len(units)} text units, its model 7$"):
        Units.from_json(units.to_json(), "model", 7)
    again = Units.from_json(units.to_json())
    assert again.symbols() == units.symbols()
    assert [again.encode(t) for t in sentences()] == [units.encode(t) for t in sentences()]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_text_gives_the_same_units(kind: str) -> None:
    config = UnitsConfig(kind=kind, size=40)
    assert Units.learn(sentences(), config).model == Units.learn(iter(sentences()), config).model


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("size", [5, 4000])
def test_an_impossible_size_is_one_line_that_names_the_key(kind: str, size: int) -> None:
    with pytest.raises(UserError, match=rf"speech\.units\.size = {size}: .*another size"):
        Units.learn(sentences(), UnitsConfig(kind=kind, size=size))


@pytest.mark.parametrize("texts", [[], ["", " "]])
def test_no_text_is_one_line(texts: list[str]) -> None:
    with pytest.raises(UserError, match=r"speech\.units: no training text"):
        Units.learn(texts, UnitsConfig(kind="char"))
