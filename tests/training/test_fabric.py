"""Where and how a training runs: threads, precision, processes."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric import Fabric

from pocketscribe.training import fabric as fabric_room
from pocketscribe.training.fabric import (
    BF16_GAIN,
    make_fabric,
    measured_precision,
    use_fitting_threads,
)


@pytest.mark.parametrize(
    ("bf16", "precision"), [(0.5, "bf16"), (0.99 * BF16_GAIN, "bf16"), (BF16_GAIN, "float32")]
)
def test_the_faster_precision_is_measured(
    monkeypatch: pytest.MonkeyPatch, bf16: float, precision: str
) -> None:
    """The best of many times decides: others come and go, and bf16 has to be worth it."""

    def readings() -> Iterator[float]:
        now = 0.0
        for turn in count():
            for seconds in (1.0, bf16):
                yield now
                now += seconds if turn == 17 else 9.0
                yield now

    clock = readings()
    monkeypatch.setattr(fabric_room, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    found = measured_precision(8, 1.0, "cpu")
    assert found.precision == precision
    assert (found.float32_ms, found.bf16_ms) == pytest.approx((1000.0, 1000 * bf16))


def test_what_torchrun_says_reaches_fabric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Spy(Fabric):
        def __init__(self, **options: object) -> None:
            made.append(SimpleNamespace(**options))

        def launch(self) -> None: ...

    monkeypatch.setattr(fabric_room, "Fabric", Spy)
    monkeypatch.setenv("WORLD_SIZE", "6")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    make_fabric("bf16", tmp_path)
    assert (made[0].devices, made[0].num_nodes, made[0].precision) == (2, 3, "bf16-mixed")
    assert made[0].strategy._timeout > timedelta(days=1)  # others wait while one scores


def test_small_models_take_one_thread_and_leave_the_others_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(fabric_room, "ALL_THREADS", 3)
    try:
        for parameters, expected in ((10**6, 1), (10**7, 3), (10**6, 1)):
            use_fitting_threads(parameters)
            assert torch.get_num_threads() == expected
        monkeypatch.setenv("OMP_NUM_THREADS", "2")  # whoever says so decides
        torch.set_num_threads(2)
        use_fitting_threads(10**6)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
