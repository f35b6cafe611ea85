"""Streams that join, starve, reset and leave, for hours of audio: python benchmarks/soak.py [MODEL]

Many streams share an engine at random. Whatever happens to the others, each utterance that is heard
to its end must give what it gives alone, and the process must not grow once each stream has heard
as much as it remembers.
"""

import random
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pocketscribe_engine as native
import typer
from streaming import speech

from engine import MODEL, held_bytes
from pocketscribe.speech.features import SAMPLE_RATE

UTTERANCES = 20
PIECE = SAMPLE_RATE // 2
FULL = 10  # seconds, more than a stream remembers


def main(
    model: Annotated[Path, typer.Argument()] = MODEL, streams: int = 200, hours: float = 10
) -> None:
    rng = random.Random(0)
    heard = speech(2 * UTTERANCES, 1)[0]
    ends = sorted(rng.sample(range(SAMPLE_RATE, len(heard), SAMPLE_RATE // 4), UTTERANCES - 1))
    audio = np.split(heard, ends)
    opened = native.Model(model)
    wanted = native.Engine(opened).transcribe(audio)
    engine = native.Engine(opened, streams=streams)
    engine.transcribe([heard[: FULL * SAMPLE_RATE]] * streams)
    before = held_bytes()
    live: dict[int, tuple[int, int, list[native.Token]]] = {}
    counts = dict.fromkeys(("utterances", "resets", "left early", "different"), 0)
    seconds, start = 0.0, time.process_time()
    while seconds < 3600 * hours:
        while len(live) < streams and rng.random() < 0.9:
            live[engine.open()] = rng.randrange(UTTERANCES), 0, []
        for stream, (index, at, said) in list(live.items()):
            chance = rng.random()
            if chance < 0.2:  # nothing comes this time
                continue
            if chance < 0.21:
                engine.reset(stream)
                live[stream] = index, 0, []
                counts["resets"] += 1
            elif chance < 0.22:
                engine.close(stream)
                del live[stream]
                counts["left early"] += 1
            elif at < len(audio[index]):
                taken = engine.accept(stream, audio[index][at : at + PIECE])
                seconds += taken / SAMPLE_RATE
                if at + taken == len(audio[index]):
                    engine.finish(stream)
                live[stream] = index, at + taken, said
            else:
                result = engine.take(stream)
                said += result.tokens
                if result.finished:
                    counts["utterances"] += 1
                    counts["different"] += said != wanted[index]
                    engine.close(stream)
                    del live[stream]
        engine.step()
    print(
        f"{seconds / 3600:.2f} h of audio on {streams} streams, processor time "
        f"{(time.process_time() - start) / seconds:.5f} s a second; "
        + ", ".join(f"{count} {name}" for name, count in counts.items())
        + f"; grown by {(held_bytes() - before) / 1e6:.2f} MB"
    )


if __name__ == "__main__":
    typer.run(main)
