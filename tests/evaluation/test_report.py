"""Tables and plots over results."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from pocketscribe.errors import UserError, UserHint
from pocketscribe.evaluation.report import (
    card_markdown,
    markdown,
    results_table,
    score_lines,
    size_table,
    write_report,
)

ERRORS = {
    "wer": 0.123,
    "ci_low": 0.1,
    "ci_high": 0.15,
    "substitutions": 5,
    "deletions": 4,
    "insertions": 3,
    "words": 1000,
    "utterances": 90,
}


def result(**changes: Any) -> dict[str, Any]:
    plain = {
        **ERRORS,
        "rtf": 0.0123,
        "audio_seconds": 360.4,
        "parameters_stored": 4_870_000,
        "parameters_virtual": 4_870_000,
        "bytes": 19_480_000,
        "peak_rss_bytes": 512_000_000,
        "emission_delay": 0.24,
        "unreadable": 0,
        "streaming": False,
        "groups": {"child": {**ERRORS, "wer": 0.4, "words": 300}},
        "hypotheses": [{"id": "1", "reference": "A", "hypothesis": "B"}],
    }
    return {**plain, **changes}


def run_folder(folder: Path, **scores: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results(**scores)))
    return folder


def results(**scores: dict[str, Any]) -> dict[str, Any]:
    return {"recipe": "digits", "models": {"float": {"scores": scores}}}


def shown(renderable: RenderableType) -> str:
    paper = io.StringIO()
    Console(file=paper, width=120).print(renderable)
    return paper.getvalue()


def test_results_table_has_a_row_a_part_and_a_group() -> None:
    table = results_table(results(**{"fsdd test": result(), "other": result(groups={})}))
    text = shown(table)
    assert "digits" in text and "float: 4.87M parameters, 19.48 MB" in text
    assert table.row_count == 4
    rows = [line for line in text.splitlines() if "%" in line and "WER" not in line]
    assert "fsdd test" in rows[0] and "12.30% [10.00%, 15.00%]" in rows[0] and "0.012" in rows[0]
    assert "  child" in rows[1] and "40.00%" in rows[1] and "300" in rows[1]
    assert "other" in rows[2]


def test_a_recipe_that_scores_on_nothing_still_ends_with_a_table() -> None:
    table = results_table(results())
    assert table.row_count == 0 and "digits" in shown(table)


def test_score_lines_say_everything_once() -> None:
    lines = score_lines(
        "fsdd test", result(unreadable=2, refused=[{"id": "a", "reason": "bad"}] * 2)
    )
    assert lines == [
        "fsdd test: WER 12.30% [10.00%, 15.00%]",
        "  1000 words in 90 utterances: 5 substitutions, 4 deletions, 3 insertions",
        "  360 s of audio, real-time factor 0.0123, model 19.48 MB, peak memory 512 MB",
        "  last label +0.24 s after the speech's end (median)",
        "  2 utterances were left out, the first a: bad",
        "  child: WER 40.00% [10.00%, 15.00%]",
    ]
    assert "peak memory" not in score_lines("x", result(peak_rss_bytes=None))[2]
    plain = score_lines("x", result(emission_delay=None, groups={}))
    assert len(plain) == 3


def test_size_table_adds_up() -> None:
    found = {
        "bytes": 4000,
        "bits_per_weight": 32.0,
        "parameters_stored": 1000,
        "parameters_virtual": 2000,
        "parts": {"encoder": 3000, "joiner": 1000},
    }
    text = shown(size_table(found))
    for piece in ("encoder", "3,000", "75.0%", "25.0%", "4,000", "32.0 bits", "1,000", "2,000"):
        assert piece in text


def test_markdown_is_a_table_of_as_many_cells_everywhere() -> None:
    row = {"run": "a", "model": "float", "data": "fsdd test", **result()}
    lines = markdown([row, {**row, "emission_delay": None, "groups": {}}]).splitlines()
    assert len(lines) == 5 and {line.count("|") for line in lines} == {10}
    assert lines[2] == (
        "| a | float | fsdd test | 12.30% [10.00%, 15.00%] | 1000 | 4.87M | 19,480,000 | 0.0123 "
        "| +0.24 s |"
    )
    assert lines[3].startswith("| | | child | 40.00%")
    assert lines[4].endswith("| 0.0123 |  |")


def test_report_lays_runs_side_by_side(tmp_path: Path) -> None:
    title = "speechocean762 test path=wav/a b"
    one = run_folder(tmp_path / "runs" / "one", **{"fsdd test": result(), title: result()})
    two = run_folder(tmp_path / "runs" / "two", **{"fsdd test": result(wer=0.05, bytes=10**6)})
    out = tmp_path / "report"
    paths = write_report([one, two], out)
    assert [p.name for p in paths] == [
        "report.json",
        "report.md",
        "fsdd_test.png",
        "speechocean762_test_path-wav_a_b.png",
    ]
    assert sorted(out.iterdir()) == sorted(paths)
    rows = json.loads(paths[0].read_text())
    assert [(row["run"], row["data"]) for row in rows] == [
        ("one", "fsdd test"),
        ("one", title),
        ("two", "fsdd test"),
    ]
    assert rows[2]["wer"] == 0.05 and "hypotheses" not in rows[0]
    assert paths[1].read_text() == markdown(rows)
    for plot in paths[2:]:
        assert plot.read_bytes().startswith(b"\x89PNG") and plot.stat().st_size > 5000


def test_an_interval_beside_its_point_is_no_obstacle(tmp_path: Path) -> None:
    """A single speaker's interval is the point, and rounding may put it on the wrong side."""
    run = run_folder(tmp_path / "run", part=result(wer=0.1, ci_low=0.1 + 1e-12, ci_high=0.1))
    assert len(write_report([run], tmp_path / "out")) == 3


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"models": {"a": 3}}',
        '{"models": []}',
        "{}",
        json.dumps(results(part={k: v for k, v in result().items() if k != "emission_delay"})),
    ],
)
def test_what_is_no_result(tmp_path: Path, content: str) -> None:
    fine = run_folder(tmp_path / "fine", part=result())
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(UserError, match=r"run: no results\.json in it; `pocketscribe run`"):
        write_report([run], tmp_path / "out")
    (run / "results.json").write_text(content)
    with pytest.raises(UserError, match=r"results\.json: not the results of a run"):
        write_report([fine, run], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_of_runs_may_be_named(tmp_path: Path) -> None:
    """`report runs/*`: what was prepared lies there too."""
    fine = run_folder(tmp_path / "runs" / "fine", part=result())
    (prepared := tmp_path / "runs" / "prepared").mkdir()
    with pytest.warns(UserHint, match="prepared is no finished run and was skipped"):
        paths = write_report([fine, prepared], tmp_path / "out")
    assert [row["run"] for row in json.loads(paths[0].read_text())] == ["fine"]


def test_plots_need_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = run_folder(tmp_path / "run", part=result())
    with pytest.raises(UserError, match=r"pip install 'pocketscribe\[report\]'"):
        write_report([run], tmp_path / "out")
    assert not (tmp_path / "out").exists(), "half a report is none"


def test_a_card_is_a_readme() -> None:
    stage = {
        "name": "float",
        "trained_on": [{"corpus": "fsdd", "hours": 1.4}, {"corpus": "synthetic", "hours": 4.0}],
        "audio_hours_heard": 10.0,
        "steps": 1312,
        "wall_minutes": 18.4,
        "seed": 0,
    }
    card = {"recipe": "digits", "parameters": 938226, "stages": [stage]}
    lines = card_markdown({**card, "scores": {"fsdd test": ERRORS}}).splitlines()
    assert lines[0] == lines[4] == "---" and "metrics: [wer]" in lines
    assert "# digits" in lines and "- parameters: 938226" in lines
    assert any("10.0 h heard of fsdd (1.4 h), synthetic (4.0 h)" in line for line in lines)
    assert lines[-1] == "| fsdd test | 12.30% [10.00%, 15.00%] | 1000 |"
    assert "# A recogniser" in card_markdown({})


@pytest.mark.parametrize("card", [{"stages": [1]}, {"stages": 3}, {"scores": []}, {"stages": [{}]}])
def test_a_strangers_card(card: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="not written by a run"):
        card_markdown(card)
