"""Milliseconds on a chunk: how they are measured, and what a search and an export make of them."""

import shutil
import sys
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from by_size import errors_by_size, milliseconds_by_size, wer_by_size
from called import Call, check_refused
from pocketscribe.errors import UserError
from pocketscribe.evaluation.dev import Heard
from pocketscribe.models import MELS
from pocketscribe.models.saved import Saved, load_model, save_model
from pocketscribe.models.subnets import SpaceConfig
from pocketscribe.search import latency
from pocketscribe.search import search as searching
from pocketscribe.search.frontier import Candidate, Point, within
from pocketscribe.search.latency import chunk_milliseconds
from pocketscribe.search.search import FormatsConfig, Search, SearchConfig, check_installed
from pocketscribe.speech.prepare import progress_bar
from pocketscribe.training.masks import settle
from pocketscribe.weights import FormatRule
from talkative import CHUNK, characters, tiny_model

SPACE = SpaceConfig(width=(8, 12), heads=(1,), inner=(32, 48))
FORMATS = tuple(
    FormatsConfig(name=f"int{bits}", rules=(FormatRule(match="*", bits=bits),)) for bits in (8, 4)
)


def tiny(**changes: Any) -> Saved:
    units = characters()
    return Saved(tiny_model("transducer", units, 0, **changes), units.to_json())


def packed(**changes: Any) -> Saved:
    saved = tiny(formats=[{"match": "*", "bits": 8}], **changes)
    settle(saved.model)
    return saved


def search(folder: Path, **limits: Any) -> tuple[Search, tuple[Point, ...]]:
    """One among all sub-networks of a tiny model, and what it finds."""
    dev = [Heard(str(n), torch.zeros(60, MELS), "ONE TWO", "") for n in range(3)]
    config = SearchConfig(candidates=36, generation=12, formats=FORMATS, **limits)
    with pytest.MonkeyPatch.context() as patch, progress_bar(Console(quiet=True)) as bar:
        patch.setattr(searching, "dev_errors", errors_by_size)
        patch.setattr(searching, "chunk_milliseconds", milliseconds_by_size)
        found = Search(tiny(), SPACE, config, characters(), dev, folder, seed=0)
        return found, found.run(bar)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Search, tuple[Point, ...]]:
    return search(tmp_path_factory.mktemp("measured"), latency=True)


def test_what_is_fast_stays_on_the_frontier(measured: tuple[Search, tuple[Point, ...]]) -> None:
    """Under every limit of time what brute force says, whose files are not the smallest."""
    found, points = measured

    def errors(candidate: Candidate) -> float:
        rules = found.rules[candidate.formats]
        config = found.space.sub_config(candidate.sizes).model_copy(update={"formats": rules})
        return sum(wer_by_size(config, half) for half in (False, True)) / 2

    chosen = {limit: within(points, 10**6, limit)[0] for limit in (2.0, 3.0, 4.0, 5.0, 6.0)}
    for limit, point in chosen.items():
        fast = [c for c, known in found.known.items() if (known.milliseconds or 0) <= limit]
        assert point.candidate == min(fast, key=errors)
        assert point.milliseconds == found.known[point.candidate].milliseconds
    assert [point.candidate.sizes.width for point in chosen.values()] == [8, 12, 16, 16, 16]
    assert within(points, 16_000)[0].candidate.formats == "int4"  # by bytes alone
    assert [p.bytes for p in points] == sorted(p.bytes for p in points)


def test_what_is_too_slow_is_on_no_frontier(
    measured: tuple[Search, tuple[Point, ...]], tmp_path: Path
) -> None:
    """Nor is it a parent: where all are too slow, the search ends with its first generation."""
    shutil.copy(measured[0].folder / "search.json", tmp_path)  # what is known is not scored again
    found, points = search(tmp_path, latency=True, milliseconds=3.5)
    assert {(p.candidate.formats, p.candidate.sizes.width) for p in points} == {
        ("int8", 8),
        ("int8", 12),
    }
    assert any((known.milliseconds or 0) > 3.5 for known in found.known.values())
    said = r"search\.milliseconds = 1\.9: the fastest of 12 candidates took 2\.0$"
    with pytest.raises(UserError, match=said):
        search(tmp_path, latency=True, milliseconds=1.9)


def test_export_to_what_is_fast_enough(
    measured: tuple[Search, tuple[Point, ...]], tmp_path: Path, call: Call
) -> None:
    _, points = measured
    supernet, out = tmp_path / "supernet.safetensors", tmp_path / "fast.pocket"
    saved = tiny()
    saved.card["frontier"] = [point.model_dump(mode="json") for point in points]
    save_model(supernet, saved)
    asked = ("export", supernet, "--to", "packed", "--out", out, "--budget", "1MB")
    ended = call(*asked, "--milliseconds", "3.5")
    assert ended.code == 0, ended.err
    assert "of width 12" in ended.out and "int8: WER" in ended.out
    made = load_model(out).model.config
    assert made.encoder.width == 12 and made.formats == FORMATS[0].rules
    fastest = "--milliseconds 1.5: the fastest sub-network takes 2.0"
    check_refused(call(*asked, "--milliseconds", "1.5"), fastest)
    assert load_model(out).model.config == made


def test_milliseconds_are_of_the_best_run_and_of_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 6.4 s that take 0.8 s at best, a chunk of 160 ms takes an eighth of itself."""
    runs = (2.0, 0.8, 1.0, 4.0, 0.9)
    read = accumulate(part for taken in runs for part in (0.25, taken))
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: next(read)))
    assert CHUNK * latency.FRAME_MS == 160
    chunks = {"sizes": [CHUNK, "full"], "left": 8}
    assert chunk_milliseconds(packed(chunks=chunks)) == 20.0
    with pytest.raises(UserError, match="it cannot stream"):
        chunk_milliseconds(packed(chunks={"sizes": ["full"], "left": 8}))


def test_without_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told before a stage trains, not when its search begins."""
    monkeypatch.setitem(sys.modules, "pocketscribe_engine", None)
    check_installed(SearchConfig())
    with pytest.raises(UserError, match=r"search\.latency = true: .* or set it to false"):
        check_installed(SearchConfig(latency=True))
