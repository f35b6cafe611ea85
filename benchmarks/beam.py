"""What a beam costs on the engine: python benchmarks/beam.py [--streams 1,8]

The shipped model and language model on web/example.flac, three times, in pieces of 0.1 s. Time is
processor time for a second of audio of one stream, the best of five rounds, in turns; what is to be
read is the ratio to greedy search.
"""

import time
from pathlib import Path

import numpy as np
import pocketscribe_engine as native
import soundfile
import typer

HERE = Path(__file__).parents[1]
PIECE, RATE, ROUNDS = 1600, 16000, 5


def heard(engine: native.Engine, samples: np.ndarray, streams: int) -> float:
    """Processor seconds that `streams` streams take together."""
    numbers = [engine.open() for _ in range(streams)]
    start = time.process_time()
    for first in range(0, len(samples), PIECE):
        for number in numbers:
            engine.accept(number, samples[first : first + PIECE])
        while engine.step():
            for number in numbers:
                engine.take(number)
    spent = time.process_time() - start
    for number in numbers:
        engine.close(number)
    return spent


def main(streams: str = "1,8") -> None:
    samples, _ = soundfile.read(HERE / "web" / "example.flac", dtype="float32")
    samples = np.tile(samples, 3)
    model = native.Model(HERE / "models" / "usm_lite.pocket")
    lm = native.LanguageModel(model, HERE / "models" / "english.lm")
    hotwords = [list(range(2, 10)), list(range(4, 14))]
    searches = {
        "greedy": native.Search(),
        "beam 4": native.Search(4),
        "beam 16": native.Search(16),
        "beam 16, language model": native.Search(16, lm),
        "beam 16, both guides": native.Search(16, lm, hotwords=hotwords),
    }
    for count in map(int, streams.split(",")):
        engines = {n: native.Engine(model, 0, count, search=s) for n, s in searches.items()}
        rounds = [{n: heard(e, samples, count) for n, e in engines.items()} for _ in range(ROUNDS)]
        best = {name: min(r[name] for r in rounds) for name in engines}
        for name, seconds in best.items():
            print(
                f"{count:3} x {name:24} {seconds * RATE / len(samples) / count:.5f} s "
                f"{seconds / best['greedy']:5.2f} x greedy  "
                f"{engines[name].stats().stream_bytes / 1e6:.3f} MB a stream",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
