"""Splits that nobody named: nobody is scored on what they said in training, and it is said."""

import warnings
from pathlib import Path

import pytest

from pocketscribe.errors import UserError, UserHint
from pocketscribe.speech.items import Item, split_up

HERE = Path("here")


def parts(found: list[Item]) -> dict[str, list[Item]]:
    with pytest.warns(UserHint, match="here: nothing says which split"):
        return {split: list(split_up(found, split, HERE)) for split in ("train", "dev", "test")}


def test_speakers_are_kept_together() -> None:
    found = [Item(f"{n:03d}", "X", f"speaker{n % 25}") for n in range(200)]
    split = parts(found)
    speakers = {name: {item.speaker for item in part} for name, part in split.items()}
    assert {name: len(who) for name, who in speakers.items()} == {"train": 21, "dev": 2, "test": 2}
    together = [item for part in split.values() for item in part]
    assert sorted(together, key=lambda item: item.id) == found  # each once
    assert parts(found[::-1])["dev"] == split["dev"][::-1]  # whatever the order
    assert list(split_up(found, "all", HERE)) == found
    assert list(split_up(found, "valid", HERE)) == []


@pytest.mark.parametrize("speakers", [1, 9])
def test_where_speakers_are_few_utterances_are_set_aside(speakers: int) -> None:
    found = [Item(f"{n:03d}", "X", f"speaker{n % speakers}") for n in range(30)]
    assert {name: len(part) for name, part in parts(found).items()} == {
        "train": 24,
        "dev": 3,
        "test": 3,
    }
    nobody = [Item(item.id, "X", "") for item in found]
    assert [i.id for i in parts(nobody)["test"]] == [i.id for i in parts(found)["test"]]


def test_too_few_to_set_some_aside() -> None:
    found = [Item(str(n), "X", "") for n in range(9)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(split_up(found, "train", HERE)) == found
    for split in ("dev", "test"):
        with pytest.raises(UserError, match=f"here: 9 utterances.*which are {split}.*split 'all'"):
            split_up(found, split, HERE)
