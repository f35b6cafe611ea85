"""What a language model may learn from: never what is scored."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pocketscribe.config import read_bytes
from pocketscribe.errors import UserError, UserHint
from pocketscribe.lm.kneser_ney import START
from pocketscribe.lm.learn import Text, held_out, make_lm, read_part, read_text
from pocketscribe.lm.ngram import Ngram, load
from pocketscribe.speech.corpora import CorpusConfig
from pocketscribe.speech.held_out import HeldOut
from pocketscribe.speech.text import read_sentences
from pocketscribe.speech.units import Units, UnitsConfig

SCORED = {
    "dev": "MY CAT SAT DOWN",
    "test": "ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT",
    "final": "NOBODY EXPECTS THIS SENTENCE",
}
LEARNT = ["THE CAT SAT DOWN", "A DOG SAT UP", "SIX CATS"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two corpora: one with a dev, a test and a final part, one for training alone."""
    for name, rows in (("first", SCORED.items()), ("second", [("train", LEARNT[0])])):
        lines = [f"a{i}.wav\t{text}\t{split}\n" for i, (split, text) in enumerate(rows)]
        (tmp_path / "root" / name).mkdir(parents=True)
        manifest = tmp_path / "root" / name / "manifest.tsv"
        manifest.write_text("path\ttranscript\tsplit\n" + "".join(lines))
    return tmp_path / "root"


@pytest.fixture
def units() -> Units:
    return Units.learn([*SCORED.values(), *LEARNT], UnitsConfig(kind="char"))


def test_dev_and_test_of_every_corpus_are_held_out(root: Path) -> None:
    found = held_out([], root)
    assert len(found) == 2
    assert SCORED["dev"] in found and SCORED["test"] in found
    assert "x two, three four five six seven y" in found, "six words of it in a row"
    assert SCORED["final"] not in found and LEARNT[0] not in found
    more = held_out([CorpusConfig(corpus="first", split="final")], root)
    assert SCORED["final"] in more and SCORED["dev"] in more
    with pytest.raises(UserError, match="no utterance matches"):
        held_out([CorpusConfig(corpus="first", split="gone")], root)
    (root / "broken").mkdir()
    (root / "broken" / "manifest.tsv").write_text("no\tsuch\nhead\ter\n")
    with pytest.warns(UserHint, match=r"broken dev is not held out: .* no column 'path'"):
        assert len(held_out([], root)) == 2


@pytest.mark.parametrize("name", ["LibriSpeech", "librispeech"])
def test_the_scored_parts_of_librispeech_are_held_out(tmp_path: Path, name: str) -> None:
    for part in ("dev-clean", "test-other", "train-clean-100"):
        folder = tmp_path / name / part / "84" / "121"
        folder.mkdir(parents=True)
        soundfile.write(folder / "84-121-0000.flac", np.zeros(8000), 16000)
        (folder / "84-121.trans.txt").write_text(f"84-121-0000 {part.replace('-', ' OF ').upper()}")
    found = held_out([], tmp_path)
    assert [text in found for text in ("DEV OF CLEAN", "TEST OF OTHER")] == [True, True]
    assert "TRAIN OF CLEAN OF 100" not in found and len(found) == 2


def test_what_is_scored_is_not_learnt(root: Path, units: Units, tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join([*LEARNT, "my cat sat down!", "", "Œ"]))
    texts = [Text(lines), Text(root / "first" / "manifest.tsv")]
    card = make_lm(units, texts, held_out([], root), 4, 10**5, tmp_path / "some.lm")
    assert card["left_out"] == 3 and card["unspellable"] == 1
    assert card["sentences"] == len(LEARNT) + 1  # and the part named final
    model = load(tmp_path / "some.lm", units)
    # Had "MY CAT" been read, "MY" would be likely to begin a sentence.
    [word, first, second] = units.encode("MY")
    state = model.after(model.after(model.after(0, START), word), first)
    assert model.log_probs_after(state)[second] < np.log(0.1)


def test_the_scored_sentences_of_the_real_corpora_are_in_the_text_we_learn_from(
    corpora: Path,
) -> None:
    """LibriSpeech's text holds the 25 sentences of librispeech_sample's dev part."""
    scored = held_out([], corpora)
    text = corpora / "text" / "librispeech-train-clean-100.tsv"
    found = [sentence for _, sentence in read_sentences(text) if sentence in scored]
    dev = corpora / "librispeech_sample" / "manifest.tsv"
    rows = [line.split("\t") for line in dev.read_text().splitlines()]
    column = rows[0].index("transcript"), rows[0].index("split")
    sentences = {row[column[0]] for row in rows if row[column[1]] == "dev"}
    assert len(sentences) == 25 and sentences <= set(found)


def test_a_text_counts_as_often_as_is_said(units: Units, tmp_path: Path) -> None:
    """As if its lines stood there so often; nothing else is to tell the two models apart."""
    (tmp_path / "general").write_text("\n".join(LEARNT))
    (tmp_path / "own").write_text("MY DOG\n")
    (tmp_path / "both").write_text("\n".join([*LEARNT, *["MY DOG"] * 3]))
    texts = [read_text(str(tmp_path / "general")), read_text(f"{tmp_path / 'own'}:3")]
    card = make_lm(units, texts, HeldOut([]), 4, 10**5, tmp_path / "weighted")
    make_lm(units, [Text(tmp_path / "both")], HeldOut([]), 4, 10**5, tmp_path / "repeated")
    assert card["texts"] == {"general": 1, "own": 3} and card["sentences"] == len(LEARNT) + 3
    weighted, repeated = (load(tmp_path / name, units) for name in ("weighted", "repeated"))
    np.testing.assert_array_equal(weighted.log_probs, repeated.log_probs)
    assert read_text("c:/own.txt") == Text(Path("c:/own.txt"))
    for times in ("0", "1001"):
        with pytest.raises(UserError, match="a file counts once to 1000 times"):
            read_text(f"own:{times}")


def test_bad_input_is_refused(units: Units, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("MY CAT\n")
    with pytest.raises(UserError, match="no sentence to learn from"):
        make_lm(units, [Text(tmp_path / "a.txt")], HeldOut(["MY CAT"]), 3, 10**5, tmp_path / "lm")
    assert not (tmp_path / "lm").exists()
    for part in ("corpus", ":dev"):
        with pytest.raises(UserError, match="write CORPUS:SPLIT"):
            read_part(part)
    for size in ("much", "-1MB", ""):
        with pytest.raises(UserError, match="write bytes, such as 2MB"):
            read_bytes(size, "--budget")
    assert (read_bytes("2MB", ""), read_bytes("500kB", ""), read_bytes("1234", "")) == (
        2_000_000,
        500_000,
        1234,
    )
    assert read_part("a:b/c:dev").split == "dev"


def test_a_small_budget_still_knows_every_unit(units: Units, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(LEARNT))
    make_lm(units, [Text(tmp_path / "a.txt")], HeldOut([]), 4, 1500, tmp_path / "lm")
    model: Ngram = load(tmp_path / "lm", units)
    assert np.isfinite(model.log_probs_after(0)[2:]).all() and model.order == 1
    size = (tmp_path / "lm").stat().st_size
    with pytest.raises(UserError, match=f"--budget: the smallest .* takes {size:,} bytes"):
        make_lm(units, [Text(tmp_path / "a.txt")], HeldOut([]), 4, 100, tmp_path / "other")
    assert not (tmp_path / "other").exists()
