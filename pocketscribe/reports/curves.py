"""How a run's stages learnt: the scalars that training logged for TensorBoard."""

import logging
import math
import warnings
from pathlib import Path

from pocketscribe.errors import UserHint

LOG = "events.out.tfevents.*"
MOST = 120  # points of a curve; more are no wider than a pixel or three
Curve = list[tuple[float, float]]  # steps, values


def learning_curves(run: Path) -> dict[str, dict[str, Curve]]:
    """Train losses and dev WER: a scalar's name to the stages, in the order in which they learnt.

    What cannot be read is left out with a hint.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # of restarts it would tell
    logs: list[tuple[float, str, EventAccumulator]] = []
    for folder in sorted({log.parent for log in run.glob(f"*/{LOG}")}):
        log = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        try:
            log.Reload()
            if log.Tags()["scalars"]:
                logs.append((log.FirstEventTimestamp(), folder.name, log))
        except Exception as error:  # a damaged protocol buffer may raise anything
            message = f"{folder}: its log cannot be read ({error}) and is left out"
            warnings.warn(message, UserHint, stacklevel=2)
    found: dict[str, dict[str, Curve]] = {}
    for _, stage, log in sorted(logs, key=lambda each: each[:2]):
        for name in log.Tags()["scalars"]:
            points = [(e.step, e.value) for e in log.Scalars(name) if math.isfinite(e.value)]
            if name.startswith(("train/", "dev/")) and points:
                found.setdefault(name, {})[stage] = thinned(points)
    return found


def thinned(points: list[tuple[int, float]], most: int = MOST) -> Curve:
    """At most so many points: means over as many neighbours as it takes."""
    many = math.ceil(len(points) / most)
    groups = [points[i : i + many] for i in range(0, len(points), many)]
    return [tuple(sum(v) / len(v) for v in zip(*g, strict=True)) for g in groups]
