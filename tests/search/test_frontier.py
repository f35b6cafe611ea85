"""What is chosen of a frontier under limits of bytes and milliseconds, and what is refused."""

import pytest

from pocketscribe.errors import UserError
from pocketscribe.models.subnets import Sizes
from pocketscribe.search.frontier import (
    Candidate,
    Confirmed,
    Point,
    TakeConfig,
    frontier_of,
    within,
)


def point(
    size: int, wer: float, again: float | None = None, milliseconds: float | None = None
) -> Point:
    """`wer` on one half of dev and `again` on the other, if that says otherwise."""
    again = wer if again is None else again
    numbers = dict.fromkeys(("layers", "width", "heads", "rank", "predictor", "joiner"), size)
    return Point(
        candidate=Candidate(sizes=Sizes(inner=(size,), **numbers), formats="int8"),
        rules=(),
        bytes=size,
        wer=wer,
        confirmed=Confirmed(wer=again, ci_low=again / 2, ci_high=2 * again, words=40),
        milliseconds=milliseconds,
    )


def test_fewest_errors_first_and_of_equals_the_smallest() -> None:
    large, small, bad = point(300, 0.25), point(200, 0.25), point(100, 0.5)
    assert within([bad, large, small], 300) == [small, large, bad]
    assert within([small, large, bad], 10**9) == [small, large, bad]


def test_both_halves_of_dev_count_alike() -> None:
    lucky, unlucky = point(100, 0.1, again=0.6), point(200, 0.6, again=0.25)
    good, fair = point(300, 0.3), point(400, 0.4)
    assert within([lucky, unlucky, fair, good], 400) == [good, lucky, fair, unlucky]


def test_a_budget_is_what_a_file_may_have() -> None:
    small, large = point(200, 0.5), point(300, 0.25)
    assert within([small, large], 300) == [large, small]
    assert within([small, large], 299) == [small]
    assert within([small, large], 200) == [small]
    said = "a budget of 199 bytes: the smallest sub-network takes 200"
    with pytest.raises(UserError, match=said):
        within([large, small], 199)


def test_milliseconds_are_a_second_limit() -> None:
    fast, slow = point(300, 0.5, milliseconds=2.0), point(200, 0.25, milliseconds=4.0)
    both = [fast, slow]
    assert within(both, 300) == within(both, 300, 4.0) == [slow, fast]
    assert within(both, 300, 3.99) == within(both, 300, 2.0) == [fast]
    with pytest.raises(UserError, match=r"--milliseconds 1\.99: the fastest .* takes 2\.0$"):
        within(both, 300, 1.99)
    # The smallest of those that are fast enough, which is not the smallest of all.
    with pytest.raises(UserError, match=r"a budget of 299 bytes: the smallest .* takes 300$"):
        within(both, 299, 2.0)


def test_what_was_not_measured_is_within_no_time() -> None:
    measured, unknown = point(300, 0.5, milliseconds=2.0), point(200, 0.25)
    assert within([measured, unknown], 300) == [unknown, measured]
    assert within([measured, unknown], 300, 2.0) == [measured]
    with pytest.raises(UserError, match=r"--milliseconds 2\.0: nothing was measured"):
        within([unknown], 300, 2.0)


def test_a_frontier_on_a_card() -> None:
    points = (point(100, 0.5), point(200, 0.25, milliseconds=1.5))
    card = {"recipe": "test", "frontier": [p.model_dump(mode="json") for p in points]}
    assert frontier_of(card, "test") == points
    assert frontier_of({"recipe": "test"}, "test") == ()
    with pytest.raises(UserError, match=r"test: frontier\.0\.bytes = 0"):
        frontier_of({"frontier": [card["frontier"][0] | {"bytes": 0}]}, "test")


def test_a_point_is_described_by_what_was_confirmed() -> None:
    said = point(32, 0.25, again=0.5).described
    assert said.startswith("32 layers of width 32 (32 heads, 32 inside, rank 32), predictor 32,")
    assert said.endswith("int8: WER 50.00% [25.00%, 100.00%] on the 40 words of dev that confirm")


def test_what_a_stage_takes_names_bytes() -> None:
    with pytest.raises(UserError, match=r"take\.budget = much: write bytes"):
        TakeConfig.read({"search": "searched", "budget": "much"}, "test")
