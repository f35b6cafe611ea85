"""Runs side by side: the files of a report."""

import json
import re
import sys
from pathlib import Path

import pytest

from pocketscribe.errors import UserError, UserHint
from pocketscribe.reports.report import write_report
from pocketscribe.reports.tables import markdown
from scored import result, results, run_folder


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
        "report.html",
        "fsdd_test-bytes.png",
        "fsdd_test-parameters.png",
        "fsdd_test-rtf.png",
        "speechocean762_test_path-wav_a_b-bytes.png",
        "speechocean762_test_path-wav_a_b-parameters.png",
        "speechocean762_test_path-wav_a_b-rtf.png",
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
    for plot in paths[3:]:
        assert plot.read_bytes().startswith(b"\x89PNG") and plot.stat().st_size > 5000


def test_an_interval_beside_its_point_is_no_obstacle(tmp_path: Path) -> None:
    """A single speaker's interval is the point, and rounding may put it on the wrong side."""
    run = run_folder(tmp_path / "run", part=result(wer=0.1, ci_low=0.1 + 1e-12, ci_high=0.1))
    assert len(write_report([run], tmp_path / "out")) == 6


def test_colours_are_methods_where_results_tell_them(tmp_path: Path) -> None:
    models = {
        "small": {"methods": [], "scores": {"part": result()}},
        "bits": {"methods": ["distilled", "int4 2:4"], "scores": {"part": result(wer=0.2)}},
    }
    told = tmp_path / "told.json"
    told.write_text(json.dumps({"recipe": "mine", "command": "make it", "models": models}))
    older = run_folder(tmp_path / "older", part=result())
    write_report([told, older], tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["method"] for row in rows] == ["plain", "distilled + int4 2:4", "older"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<code>make it</code>") == 2
    for name in ("plain", "distilled + int4 2:4", "older"):
        assert re.search(rf'class="legend".*{re.escape(name)}</li>', page)


def test_what_a_run_cost_is_plotted_where_its_models_tell_it(run: Path, tmp_path: Path) -> None:
    paths = write_report([run], tmp_path / "out")
    assert "speech_test-training.png" in [path.name for path in paths]
    [row] = json.loads(paths[0].read_text())
    assert row["training_cost"] == 2.0 * 20_000_000 + 0.5 * 10_000_000


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
    with pytest.raises(
        UserError, match="in it, nor in any other of these; `pocketscribe run` writes"
    ):
        write_report([run, tmp_path], tmp_path / "out")
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


def test_results_alone_are_a_run(tmp_path: Path) -> None:
    """What is kept of a run when its folder is gone, under any name."""
    run = run_folder(tmp_path / "run", part=result())
    kept = (run / "results.json").rename(tmp_path / "kept.json")
    paths = write_report([kept], tmp_path / "out")
    assert [row["run"] for row in json.loads(paths[0].read_text())] == ["kept"]
    with pytest.raises(UserError, match=r"gone\.json: no such results"):
        write_report([tmp_path / "gone.json"], tmp_path / "out")


def test_plots_need_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = run_folder(tmp_path / "run", part=result())
    with pytest.raises(UserError, match=r"pip install 'pocketscribe\[report\]'"):
        write_report([run], tmp_path / "out")
    assert not (tmp_path / "out").exists(), "half a report is none"


def test_results_in_their_runs_go_by_the_runs_names(tmp_path: Path) -> None:
    runs = [run_folder(tmp_path / name, **{"fsdd test": result()}) for name in ("one", "two")]
    write_report([run / "results.json" for run in runs], tmp_path / "report")
    rows = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [row["run"] for row in rows] == ["one", "two"]
