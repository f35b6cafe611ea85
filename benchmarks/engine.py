"""The engine beside other runtimes, one thread: python benchmarks/engine.py [MODEL] [--streams 1,8]

The same weights in all: the packed file; a dynamic int8 export of what it holds, the fastest that
sherpa-onnx runs, in the wheel's loop and in ours around onnxruntime; and ExecuTorch's programs,
which take one stream at a time. Synthetic speech in pieces of 0.1 s, as microphones bring it;
features, encoder and greedy search; all streams that are ready go through the network together.

Time is processor time for a second of audio of one stream, the best of three rounds, in turns; what
is to be read is the ratio of one line's to the next's. Memory is what a process of its own grows by
from opening the model on, at most (the rivals) or with all of it open (the engine, which frees
nothing before). A chunk that MODEL was not trained for is run all the same: what it says is worse,
what it costs is not. A recipe's name in the place of MODEL means its model with random weights, in
int8.
"""

import multiprocessing
import platform
import re
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pocketscribe_engine as native
import sherpa_onnx
import torch
import typer
from streaming import PIECE, ROUNDS, random_model, speech, stream_all

from pocketscribe.errors import UserError
from pocketscribe.evaluation.evaluate import peak_rss_bytes
from pocketscribe.export.export import export
from pocketscribe.export.open import model_file, open_model
from pocketscribe.models import Recogniser, decoded
from pocketscribe.models.saved import Saved, load_model, save_model, save_packed
from pocketscribe.recipes.reading import read_recipe
from pocketscribe.speech.features import SAMPLE_RATE
from pocketscribe.weights.format import FormatRule

MODEL = Path(__file__).parents[1] / "models" / "usm_lite.pocket"
RIVAL, LOOP, ALONE = "sherpa-onnx int8", "onnxruntime int8", "executorch"
AT_MOST = {ALONE: 1, LOOP: 64}  # streams: our loop bounds the memory that a graph may take


def opened(model: str) -> Saved:
    """A saved file's weights, or a recipe's model with random ones."""
    if Path(model).exists():
        return load_model(model_file(Path(model)))
    config = read_recipe(model).model
    rule = FormatRule(match="*", bits=8, activations=8)
    return random_model(config.model_copy(update={"formats": (rule,)}))


def with_chunk(saved: Saved, size: int) -> Saved:
    """The same weights, heard in chunks of `size` encoder frames."""
    config = saved.model.config
    chunks = config.chunks.model_copy(update={"sizes": (size,)})
    model = Recogniser(config.model_copy(update={"chunks": chunks}), saved.model.vocabulary)
    model.load_state_dict(saved.model.state_dict(), strict=False)
    for key, weight in saved.model.weights.stored.items():
        model.weights.stored[key].parts = weight.parts
    return Saved(model.eval(), saved.units, saved.card)


def engine_all(engine: native.Engine, audio: np.ndarray) -> float:
    """Processor seconds that all streams take together on the engine."""
    streams = [engine.open() for _ in audio]
    start = time.process_time()
    for first in range(0, audio.shape[1], PIECE):
        for stream, piece in zip(streams, audio[:, first : first + PIECE], strict=True):
            engine.accept(stream, piece)
        while engine.step():
            for stream in streams:
                engine.take(stream)
    return time.process_time() - start


def held_bytes() -> int:
    """What this process holds in memory now."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def engine_growth(path: Path, streams: np.ndarray, float16: bool) -> int:
    """Bytes by which a process grows: the file's pages, what is unpacked, engine and streams."""
    before = held_bytes()
    engine = native.Engine(native.Model(path), streams=len(streams), float16=float16)
    engine_all(engine, streams)
    return held_bytes() - before


def rival_growth(path: Path, streams: np.ndarray) -> int:
    """Bytes by which a process grows at most."""
    torch.set_num_threads(1)
    before = peak_rss_bytes() or 0
    stream_all(open_model(path), streams)
    return (peak_rss_bytes() or 0) - before


def compare(packed: Path, rivals: dict[str, Path], audio: list[np.ndarray]) -> None:
    """Lines for each number of streams: the rivals, and each kind of kernels."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sherpa_onnx", "pocketscribe.export.onnx_runtime"])
    runtimes = {name: open_model(path) for name, path in rivals.items()}
    model = native.Model(packed)
    for streams in audio:
        memory, runs = {}, {}
        for name, path in rivals.items():
            if len(streams) <= AT_MOST.get(name, len(streams)):
                try:
                    with context.Pool(1) as process:
                        memory[name] = process.apply(rival_growth, (path, streams))
                except UserError as error:  # our loop also bounds what a large graph may take
                    print(f"  {len(streams):3} x {name}: {error}", flush=True)
                    continue
                runs[name] = lambda r=runtimes[name], s=streams: stream_all(r, s)[0]
        for float16 in (False, True):
            with context.Pool(1) as process:
                grown = process.apply(engine_growth, (packed, streams, float16))
            for kernels in native.kernels()[:-1]:  # the portable ones are there to be compared with
                engine = native.Engine(
                    model, streams=ROUNDS * len(streams), kernels=kernels, float16=float16
                )
                name = f"engine {kernels}{', float16' if float16 else ''}"
                runs[name] = lambda e=engine, s=streams: engine_all(e, s)
                memory[name] = grown
        rounds = [{name: run() for name, run in runs.items()} for _ in range(ROUNDS)]
        best = {name: min(r[name] for r in rounds) for name in runs}
        for name, seconds in best.items():
            print(
                f"  {len(streams):3} x {name:26} {seconds * SAMPLE_RATE / streams.size:.5f} s "
                f"{best[RIVAL] / seconds:5.2f} x as fast as {RIVAL}  "
                f"{memory[name] / 1e6:7.1f} MB",
                flush=True,
            )


def main(
    model: Annotated[str, typer.Argument(help="a saved file, or a recipe's name")] = str(MODEL),
    chunks: str = "16,4",
    streams: str = "1,8,32",
    seconds: float = 10,
    executorch: bool = True,  # whose export takes a minute
) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"{platform.machine()}, sherpa-onnx {sherpa_onnx.__version__}, 1 thread")
    audio = [speech(seconds, n) for n in sorted(map(int, streams.split(",")))]
    saved = opened(model)
    for size in map(int, chunks.split(",")):
        with tempfile.TemporaryDirectory() as name:
            folder, changed = Path(name), with_chunk(saved, size)
            packed, plain = folder / "model.pocket", folder / "model.safetensors"
            save_packed(packed, changed)
            save_model(plain, Saved(decoded(changed.model), saved.units, saved.card))
            rivals = {RIVAL: folder / "sherpa-onnx", LOOP: folder / "onnx"}
            for out in rivals.values():
                export(plain, out.name, out, int8=True)
            if executorch:
                rivals[ALONE] = folder / "executorch"
                export(packed, "executorch", rivals[ALONE])
            stats = native.Engine(native.Model(packed)).stats()
            print(
                f"chunks of {40 * size} ms; {stats.model_bytes:,} B mapped, "
                f"{stats.unpacked_bytes + stats.engine_bytes:,} B beside it, "
                f"{stats.stream_bytes:,} B a stream"
            )
            compare(packed, rivals, audio)


if __name__ == "__main__":
    typer.run(main)
