"""The machine that trains: processes, threads, and the precision that multiplies fastest here."""

import math
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import TensorBoardLogger
from lightning_fabric.strategies import DDPStrategy
from pydantic import Field

from pocketscribe.config import Config

SMALL_MODEL = 2_000_000  # parameters
ALL_THREADS = torch.get_num_threads()
BF16_GAIN = 0.8  # of float32's time: less would be eaten up by what mixed precision costs besides
FRAMES_PER_SECOND = 25  # of an encoder


def started_processes() -> int:
    """How many there are of this process: torchrun's, or one."""
    return int(os.environ.get("WORLD_SIZE", 1))


def make_fabric(precision: str, folder: Path, device: str = "auto") -> Fabric:
    """One process, or this process' part of a torchrun job; its logger writes into `folder`.

    `device` is cpu, cuda or auto.
    """
    processes = started_processes()
    mode: Any = "bf16-mixed" if precision == "bf16" else "32-true"
    strategy: Any = "auto"
    if processes > 1:
        # One prepares, scores and searches while the others wait, for hours if need be.
        strategy = DDPStrategy(find_unused_parameters=True, timeout=timedelta(days=7))
    fabric = Fabric(
        accelerator=device,
        strategy=strategy,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        num_nodes=processes // int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        precision=mode,
        loggers=TensorBoardLogger(folder, name="", version=""),
    )
    fabric.launch()
    return fabric


def use_fitting_threads(parameters: int) -> None:
    """One thread for a small model on a CPU, unless OMP_NUM_THREADS has been set.

    Its products take microseconds: as soon as anything else runs, several threads spend their time
    waiting for each other.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1 if parameters < SMALL_MODEL else ALL_THREADS)


class MeasuredPrecision(Config):
    """What precision "auto" came to, and the times by which it was chosen."""

    precision: Literal["float32", "bf16"]
    float32_ms: float = Field(ge=0)
    bf16_ms: float = Field(ge=0)


def measured_precision(width: int, batch_seconds: float, device: str) -> MeasuredPrecision:
    """Which of float32 and bf16 multiplies faster here, and what was measured.

    Timed, on one product of the model's own shape with the casts that mixed precision makes: a CPU
    without instructions for bf16 emulates it at a quarter of float32's speed, one with them
    multiplies it at two to five times float32's.
    """
    x = torch.randn(round(min(batch_seconds, 60) * FRAMES_PER_SECOND), width, device=device)
    weight = torch.randn(4 * width, width, device=device)

    def milliseconds(bf16: bool) -> float:
        with torch.autocast(device, torch.bfloat16, enabled=bf16, cache_enabled=False):
            started = time.perf_counter()
            float(torch.nn.functional.linear(x, weight)[0, 0])  # waits for an accelerator
            return 1000 * (time.perf_counter() - started)

    # In turns, and the best of many: other processes come and go.
    taken = {"float32_ms": math.inf, "bf16_ms": math.inf}
    for _ in range(30):
        for name, bf16 in (("float32_ms", False), ("bf16_ms", True)):
            taken[name] = min(taken[name], round(milliseconds(bf16), 3))
    faster = taken["bf16_ms"] < BF16_GAIN * taken["float32_ms"]
    return MeasuredPrecision(precision="bf16" if faster else "float32", **taken)
