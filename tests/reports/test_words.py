"""Aligned words, and whose errors count as the worst."""

from pathlib import Path

from document import Document
from pocketscribe.reports.runs import FinishedRun
from pocketscribe.reports.words import GAP, aligned, marked, worst
from scored import result, run_folder


def test_words_are_aligned() -> None:
    pairs = aligned("THE CAT SAT ON THE MAT", "A CAT SAT THE RED MAT")
    assert pairs == [
        ("THE", "A"),
        ("CAT", "CAT"),
        ("SAT", "SAT"),
        ("ON", GAP),
        ("THE", "THE"),
        (GAP, "RED"),
        ("MAT", "MAT"),
    ]
    assert aligned("", "A") == [(GAP, "A")] and aligned("A", "") == [("A", GAP)]


def test_errors_are_marked_by_more_than_colour() -> None:
    text = marked("THE CAT SAT ON THE MAT", "A CAT SAT THE RED MAT")
    document = Document(text)
    assert "".join(said for _, said in document.texts) == "THE→A CAT SAT −ON THE +RED MAT "
    titles = [attributes["title"] for _, attributes in document.elements if "title" in attributes]
    assert titles == ["replaced", "deleted", "inserted"]
    assert [tag for tag, _ in document.elements if tag != "i"] == [
        "span", "del", "ins", "del", "ins",
    ]  # fmt: skip


def test_the_worst_are_those_of_all_models(tmp_path: Path) -> None:
    """Ordered by mean errors; each shows first what the best model heard."""

    def said(*hypotheses: str) -> list[dict[str, str]]:
        references = ("A B C", "D E", "F")
        return [
            {"id": str(i), "reference": r, "hypothesis": h}
            for i, (r, h) in enumerate(zip(references, hypotheses, strict=True))
        ]

    bad = run_folder(tmp_path / "bad", x=result(wer=0.9, hypotheses=said("A X C", "", "F")))
    good = run_folder(tmp_path / "good", x=result(wer=0.1, hypotheses=said("A Y C", "D E", "F")))
    rows = [row for run in (bad, good) for row in FinishedRun(run).rows]
    found = worst(rows, 10)
    assert [(u.id, u.errors) for u in found] == [("0", 1.0), ("1", 1.0)], "F has no errors"
    assert [h.row.run.name for h in found[0].heard] == ["good", "bad"]
    assert [h.hypothesis for h in found[1].heard] == ["D E", ""]
    assert [u.id for u in worst(rows[:1], 1)] == ["1"], "of the bad run alone"
