"""Where and how a training runs: threads, precision, processes."""

import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric import Fabric

from pocketscribe.training import fabric as fabric_room
from pocketscribe.training.fabric import make_fabric, measured_precision, use_fitting_threads


@pytest.mark.parametrize(
    ("parameters", "said", "threads"), [(10**6, None, 1), (10**7, None, 2), (10**6, "2", 2)]
)
def test_small_models_take_one_thread(
    monkeypatch: pytest.MonkeyPatch, parameters: int, said: str | None, threads: int
) -> None:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(fabric_room, "ALL_THREADS", 2)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    try:
        torch.set_num_threads(2)
        use_fitting_threads(parameters)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_the_faster_precision_is_measured() -> None:
    started = time.perf_counter()
    found = measured_precision(64, 10.0, "cpu")
    elapsed_ms = 1000 * (time.perf_counter() - started)
    faster = found.bf16_ms < fabric_room.BF16_GAIN * found.float32_ms
    assert found.precision == ("bf16" if faster else "float32")
    assert min(found.bf16_ms, found.float32_ms) > 0
    assert found.bf16_ms + found.float32_ms <= elapsed_ms, "each is one of the products' times"


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


def test_a_small_model_takes_one_thread_and_leaves_the_others_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(fabric_room, "ALL_THREADS", 3)
    try:
        for parameters, expected in ((10**6, 1), (10**7, 3), (10**6, 1)):
            use_fitting_threads(parameters)
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(threads)
