"""What is said of results."""

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from pocketscribe.errors import UserError
from pocketscribe.evaluation.report import card_markdown, results_table, score_lines, size_table
from scored import ERRORS, result, results


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
