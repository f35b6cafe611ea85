"""What guides the engine's beam: language models from their files, and hotwords."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pocketscribe_engine as native
import pytest

from pocketscribe.decoding.searcher import DecodingConfig
from pocketscribe.errors import UserError
from pocketscribe.export.engine_runtime import EngineRuntime
from pocketscribe.export.open import open_model
from pocketscribe.export.torch_runtime import TorchRuntime
from pocketscribe.lm.ngram import Arrays, learn, load, save
from pocketscribe.models.saved import Saved, save_packed
from pocketscribe.speech.units import Units, UnitsConfig
from redigested import Header, redigested
from talkative import WORDS, characters, tiny_model

ENGLISH = Path(__file__).parents[2] / "models" / "english.lm"
TheSame = Callable[[Path, DecodingConfig, np.ndarray], str]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the words for digits in any order."""
    rng, units = np.random.default_rng(0), characters()
    sentences = [units.encode(" ".join(rng.permutation(WORDS.split()))) for _ in range(40)]
    path = tmp_path_factory.mktemp("lm") / "digits.lm"
    save(path, learn(sentences, len(units), 5, 10**6), units, {})
    return path


def test_the_shipped_language_model(lite: Path, speech: np.ndarray, the_same: TheSame) -> None:
    the_same(lite, DecodingConfig(lm=ENGLISH), speech)
    the_same(lite, DecodingConfig(lm=ENGLISH, beam=2, lm_scale=0.6, label_bonus=0.8), speech)
    search = DecodingConfig(lm=ENGLISH, hotwords=("TOO CLOSE",), hotword_score=3.0)
    assert "TOO CLOSE" in the_same(lite, search, speech)


@pytest.mark.parametrize("setting", [{}, {"beam": 2, "lm_scale": 2.0, "label_bonus": 3.0}])
def test_a_language_model(
    setting: dict, unsure: Path, lm: Path, utterances: list[np.ndarray], the_same: TheSame
) -> None:
    samples = np.concatenate(utterances[:4])
    found = the_same(unsure, DecodingConfig(lm=lm, **setting), samples)
    assert found != the_same(unsure, DecodingConfig(beam=setting.get("beam", 4)), samples)


def test_many_units_take_two_bytes(
    tmp_path: Path, utterances: list[np.ndarray], the_same: TheSame
) -> None:
    rng = np.random.default_rng(0)
    units = Units.learn(["".join(map(chr, range(0x4E00, 0x4E00 + 300)))], UnitsConfig(kind="char"))
    model = tiny_model("transducer", units, 0)
    model.joiner.out.weight.stored.data.mul_(6)
    save_packed(tmp_path / "m.pocket", Saved(model, units.to_json(), {}))
    sentences = [rng.integers(2, len(units), 20).tolist() for _ in range(300)]
    arrays = learn(sentences, len(units), 3, 10**6)
    save(tmp_path / "m.lm", arrays, units, {})
    assert arrays["labels"].dtype == np.uint16
    search = DecodingConfig(lm=tmp_path / "m.lm", hotwords=(chr(0x4E07) * 2,))
    the_same(tmp_path / "m.pocket", search, utterances[1])


@pytest.mark.parametrize("hotwords", [("SEVEN",), ("NINE", "NINETIES", "IN", "NIX NIX")])
def test_hotwords(
    hotwords: tuple[str, ...], unsure: Path, lm: Path, utterances: list[np.ndarray],
    the_same: TheSame,
) -> None:  # fmt: skip
    samples = np.concatenate(utterances[:3])
    search = DecodingConfig(hotwords=hotwords, hotword_score=2.5)
    found = the_same(unsure, search, samples)
    assert found != the_same(unsure, DecodingConfig(beam=4), samples)
    the_same(unsure, search.model_copy(update={"lm": lm}), samples)


def test_guided_streams_in_company(unsure: Path, lm: Path, utterances: list[np.ndarray]) -> None:
    model = native.Model(unsure)
    search = native.Search(4, native.LanguageModel(model, lm), hotwords=[[3, 4], [5, 6, 7]])
    alone = [native.Engine(model, search=search).transcribe([one])[0] for one in utterances[:4]]
    for kernels in native.kernels():
        engine = native.Engine(model, 0, 4, kernels, search)
        assert engine.transcribe(utterances[:4]) == alone
        assert engine.transcribe(utterances[:4]) == alone  # once more on streams that were used


def test_live(unsure: Path, lm: Path, utterances: list[np.ndarray]) -> None:
    """The text so far is PyTorch's: what hotwords were credited in advance is not counted."""
    search = DecodingConfig(lm=lm, hotwords=("SEVEN", "ZERO"), hotword_score=2.0)
    torch, ours = (kind(unsure, search).stream() for kind in (TorchRuntime, EngineRuntime))
    for block in np.array_split(np.concatenate(utterances[:3]), 23):
        torch.accept(block)
        ours.accept(block)
        assert ours.transcript() == torch.transcript()
    assert ours.finish() == torch.finish()


def test_searches_that_are_refused(unsure: Path, lite: Path, lm: Path, tmp_path: Path) -> None:
    for path, search, line in (
        (unsure, {"beam": 1, "lm": lm}, "--beam 1: a language model needs a beam"),
        (unsure, {"lm": ENGLISH}, "english.lm: learnt for a recogniser of other units"),
        (lite, {"lm": lm}, "digits.lm: learnt for a recogniser of other units"),
        (unsure, {"lm": tmp_path / "gone"}, "gone: no readable model file there"),
        (unsure, {"lm": unsure}, "'pocketscribe-packed-2'; this engine reads 'pocketscribe-lm-1'"),
        (unsure, {"hotwords": ("Ω",)}, "this model cannot spell it"),
        (unsure, {"beam": 65}, "beam = 65: give 1 to 64"),
    ):
        with pytest.raises(UserError, match=line):
            open_model(path, DecodingConfig(**search), engine=True)
    assert isinstance(open_model(unsure, DecodingConfig(beam=65), engine=None), TorchRuntime)
    model = native.Model(unsure)
    for options, line in (
        ({"beam": 1, "hotwords": [[2]]}, "beam = 1: what guides a search needs a beam"),
        ({"beam": 4, "hotwords": [[2, 1]]}, "hotwords: 1 is no unit"),
        ({"beam": 4, "hotwords": [[999]]}, "hotwords: 999 is no unit"),
        ({"beam": 4, "hotwords": [[2]], "hotword_score": np.nan}, "is no number"),
        ({"beam": 4, "lm": native.LanguageModel(native.Model(lite), ENGLISH)}, "other units"),
    ):
        with pytest.raises(native.EngineError, match=line):
            native.Engine(model, search=native.Search(**options))


# ---- A stranger's language model ---------------------------------------------------------------


def _gap(a: Arrays) -> None:
    """It knows 2 3 4, but not 3 4."""
    units = [0, *range(2, len(characters()))]
    nodes = len(units) + 2
    a["labels"] = np.array([*units, 3, 4], np.uint8)
    a["children"] = np.zeros(nodes, np.uint8)
    a["children"][[0, 2, nodes - 1]] = [len(units), 1, 1]
    a["log_probs"] = a["backoffs"] = np.zeros(nodes, np.uint8)


def _loop(a: Arrays) -> None:
    """A node that is its own child."""
    units = int(a["children"][0])
    a["children"][1:] = 0
    a["children"][units + 1] = 1


CHANGES: dict[str, Callable[[Arrays], object]] = {
    "other arrays than it should have": lambda a: a.update(more=a["labels"]),
    "other arrays than it": lambda a: a.update(backoffs=a["backoffs"].astype(np.float32)),
    "other arrays than": lambda a: a.update(labels=a["labels"][None]),
    "its arrays differ in length": lambda a: a.update(log_probs=a["log_probs"][1:].copy()),
    "its nodes do not add up": lambda a: a["children"].__setitem__(-1, a["children"][-1] + 1),
    "its nodes do not add": lambda a: a["children"].__setitem__(1, 255),
    "its nodes do not hang together": _loop,
    "it does not know every unit": lambda a: a["labels"].__setitem__(3, 9),
    "it does not know every": lambda a: a.update({n: v[:0].copy() for n, v in a.items()}),
    "it predicts what is no text": lambda a: a["labels"].__setitem__(-1, 0),
    "it lacks a shorter context": _gap,
    "its nodes are out of order": lambda a: a["labels"].__setitem__(-1, 200),
}


@pytest.mark.parametrize("line", CHANGES)
def test_refused(line: str, unsure: Path, lm: Path, tmp_path: Path) -> None:
    out = redigested(lm, tmp_path / "bad.lm", lambda _, arrays: CHANGES[line](arrays))
    with pytest.raises(native.EngineError) as error:
        native.LanguageModel(native.Model(unsure), out)
    assert str(error.value).startswith(f"{out}: no readable language model: {line}")


def test_hostile_arrays_do_no_harm(unsure: Path, lm: Path, tmp_path: Path) -> None:
    """Right digests over wrong numbers: refused, or followed without harm; as Python has it."""
    rng, model, units = random.Random(3), native.Model(unsure), characters()
    followed = 0

    def spoil(_: Header, arrays: Arrays) -> None:
        for _ in range(rng.randrange(1, 3)):
            name = rng.choice(sorted(arrays))
            at = rng.randrange(len(arrays[name]))
            arrays[name][at] = rng.choice([0, 1, 2, 3, 255, rng.randrange(len(units))])

    for _ in range(300):
        out = redigested(lm, tmp_path / "bad.lm", spoil)
        try:
            found = native.LanguageModel(model, out)
        except native.EngineError:
            found = None
        try:
            load(out, units)
            assert found is not None
        except UserError:
            assert found is None
        if found:
            search = native.Search(4, found)
            native.Engine(model, search=search).transcribe([np.full(9000, 0.1, np.float32)])
            followed += 1
    assert 20 < followed < 250


def test_altered_bytes_are_noticed(unsure: Path, lm: Path, tmp_path: Path) -> None:
    model, whole, rng = native.Model(unsure), lm.read_bytes(), random.Random(4)
    out, read = tmp_path / "bad.lm", 0
    for count in range(400):
        data = bytearray(whole)
        if count % 2:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            data = data[: rng.randrange(len(data))]
        out.write_bytes(data)
        try:
            native.LanguageModel(model, out)
        except native.EngineError:
            continue
        read += 1
    assert read < 10  # bits that say the same in JSON, such as spaces
