"""The page: complete, on its own, and unharmed by what runs say."""

import base64
import io
import json
import re
from pathlib import Path

import pytest
import soundfile

from document import Document
from pocketscribe.errors import UserError, UserHint
from pocketscribe.reports.report import write_report
from scored import result, run_folder


@pytest.fixture(scope="module")
def text(page: Path) -> str:
    return page.read_text()


@pytest.fixture(scope="module")
def document(text: str) -> Document:
    return Document(text)


def test_nothing_comes_from_outside(document: Document, text: str) -> None:
    for tag, attributes in document.elements:
        for key in ("src", "href", "srcset", "xlink:href", "data", "action"):
            assert (attributes.get(key) or "#").startswith(("#", "data:")), (tag, attributes)
        assert not any(key.startswith("on") for key in attributes)
    assert "script" not in {tag for tag, _ in document.elements}
    assert not re.search(r"@import|url\(", text)
    [policy] = [m for m in document.all("meta") if m.get("http-equiv")]
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_what_runs_say_is_text(document: Document, text: str) -> None:
    assert "<script" not in text.lower()
    shown = [said for _, said in document.texts if "<script>alert(1)</script>" in said]
    assert any(said.startswith("pocketscribe run '</title>") for said in shown)  # the recipe's name
    assert any(said.startswith("SEVEN EIGHT") for said in shown)  # a transcript
    assert any("2,000,000 bytes: 1 layers" in said for said in shown)  # a frontier's formats


def test_every_section_can_be_reached(document: Document) -> None:
    ids = [section["id"] for section in document.all("section")]
    links = [a["href"] for a in document.all("a")]
    assert links == [f"#{id}" for id in ids] and len(set(ids)) == 3
    assert document.said("h2") == [
        "speech test",
        "mine: the frontier of first",
        "mine: how it learnt",
    ]


def test_every_plot_is_there_and_says_what_it_is(document: Document) -> None:
    plots = [svg for svg in document.all("svg") if svg.get("role") == "img"]
    labels = [svg["aria-label"] or "" for svg in plots]
    assert [label.split(",")[0] for label in labels] == [
        "WER against size",
        "WER against parameters stored",
        "WER against real-time factor",
        "WER against training cost",
        "WER on one half of dev against size",
        "WER on one half of dev against milliseconds a chunk",
        "WER on speech dev",
        "training: ctc",
    ]
    titles = document.said("title")
    # 2 h by 20 million in the first stage, 0.5 h by 10 million in the second
    cost = "mine float: WER 12.30% [10.00%, 15.00%]; training cost, audio hours × million"
    assert f"{cost} parameters: 45" in titles
    assert "mine float: WER 12.30% [10.00%, 15.00%]; real-time factor: 0.0123" in titles
    assert "float, step 500: 0.25" in titles


def test_a_row_has_its_groups_and_its_command(document: Document) -> None:
    heads = [text for text in document.said("th") if text.strip()]
    assert heads[0] == "model" and heads[-1] == "child"
    cells = document.said("td")
    for cell in ("1,000", "4.87M", "19,480,000", "0.0123", "+0.24 s", "45"):
        assert cell in cells
    assert document.said("small").count(" 10.00–15.00") == 2
    assert any(
        code.endswith("--out runs/mine --set stage.0.seed=1") for code in document.said("code")
    )


def test_worst_come_first(document: Document) -> None:
    assert document.said("q") == [
        "A B C D E F",
        "ONE TWO THREE",
        "SEVEN EIGHT </title><script>alert(1)</script>",
    ]
    assert {"mine float, 6 errors", "mine float, 2 errors"} <= set(document.said("small"))


def test_the_sound_is_the_utterance(document: Document, speech: Path) -> None:
    """What can still be found, in the order of the errors, as long and as loud as it was."""
    audio = document.all("audio")
    assert len(audio) == 2, "one of the three is gone"
    for element, name in zip(audio, ("1", "2"), strict=True):
        kind, _, data = (element["src"] or "").partition(",")
        assert kind == "data:audio/ogg;base64"
        heard, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
        samples, _ = soundfile.read(speech / f"{name}.wav")
        heard = heard[:: rate // 16000][: len(samples)]
        assert len(heard) == len(samples)
        error = ((heard - samples) ** 2).mean() / (samples**2).mean()
        assert error < 0.2, "Opus keeps a waveform roughly, and at its place"


def test_without_audio_nothing_is_embedded(run: Path, tmp_path: Path) -> None:
    write_report([run], tmp_path)
    assert "<audio" not in (text := (tmp_path / "report.html").read_text())
    assert "data:audio" not in text


@pytest.mark.parametrize("recipe", [None, {"speech": {"dev": [], "test": []}}, {"speech": 3}, []])
def test_speech_that_no_recipe_knows(tmp_path: Path, recipe: object) -> None:
    run = run_folder(tmp_path / "run", part=result())
    if recipe is not None:
        (run / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(UserError, match=r"recipe\.json"):
        write_report([run], tmp_path / "out", audio=1)
    assert not (tmp_path / "out").exists()


def test_a_corpus_that_is_not_here(run: Path, tmp_path: Path) -> None:
    away = run_folder(tmp_path / "run", **{"away test": result()})
    part = {"corpus": "away", "split": "test"}
    (away / "recipe.json").write_text(json.dumps({"speech": {"test": [part]}}))
    with pytest.raises(UserError, match=r"corpus 'away': .* set POCKETSCRIBE_CORPORA or --root"):
        write_report([away, run], tmp_path / "out", 1, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_read_has_no_cost(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", part=result())
    (run / "float").mkdir()
    (run / "float" / "model.safetensors").write_bytes(b"no model")
    with pytest.warns(UserHint, match="goes without its training cost"):
        write_report([run], tmp_path / "out")
    document = Document((tmp_path / "out" / "report.html").read_text())
    assert len([svg for svg in document.all("svg") if svg.get("role") == "img"]) == 3


def test_a_file_elsewhere_is_none_of_the_runs(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", part=result())
    data = json.loads((run / "results.json").read_text())
    data["models"]["float"]["file"] = "../other.safetensors"
    (run / "results.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"models\.float\.file = \"\.\./other"):
        write_report([run], tmp_path / "out")
