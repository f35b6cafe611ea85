"""Streaming speed and memory on one thread: python benchmarks/streaming.py [MODEL] [--streams 1,8]

Synthetic speech in pieces of 0.1 s, as microphones bring it, to one stream and to many side by
side: features, encoder and greedy search in PyTorch, in our loop around onnxruntime, and in the
unmodified sherpa-onnx wheel. Each takes all streams through the network together. The two ONNX
runtimes run the same export; int8 is dynamic and leaves PyTorch out.

Time is for a second of audio of one stream: processor time, all threads together (on one thread of
a quiet machine that is the time on the clock, and a busy machine disturbs it less), the best of
three rounds, in turns. Memory is what a process of its own grows by at most, from opening the model
on.

Without MODEL (a run or a saved file) a model of --width and --layers gets random weights, with the
blank made as likely as to leave a label in every fifth frame: what it says is noise, what it costs
is not.
"""

import multiprocessing
import platform
import random
import string
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import onnxruntime
import sherpa_onnx
import torch
import typer

from pocketscribe.decoding.searcher import Searcher
from pocketscribe.decoding.streaming import StreamingModel, TorchStreaming
from pocketscribe.evaluation.evaluate import peak_rss_bytes
from pocketscribe.export.export import export
from pocketscribe.export.open import model_file, open_model
from pocketscribe.export.sherpa_runtime import SherpaRuntime
from pocketscribe.export.torch_runtime import TorchRuntime
from pocketscribe.models import Chunking, ModelConfig, Recogniser, deployed_parameters
from pocketscribe.models.predictor import START
from pocketscribe.models.saved import Saved, load_model, save_model
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.corpora import CorpusConfig, items, locate
from pocketscribe.speech.features import SAMPLE_RATE, LiveFbank, fbank
from pocketscribe.speech.units import Units, UnitsConfig

PIECE = SAMPLE_RATE // 10
LABEL_SHARE = 0.2  # of the encoder frames, as in speech
ROUNDS = 3


class Streams(Protocol):
    """Live utterances side by side, all of one length."""

    def accept(self, pieces: np.ndarray) -> None:
        """Samples of each stream, [N, samples]."""

    def tokens(self) -> list[list[str]]: ...


class OurStreams:
    """Through our loop around any `StreamingModel`."""

    def __init__(
        self, model: StreamingModel, units: Units, searcher: Searcher, streams: int
    ) -> None:
        self.model, self.units = model, units
        self.features = [LiveFbank() for _ in range(streams)]
        self.state = model.initial_state(streams)
        with torch.inference_mode():
            self.search = searcher.start(model.scorer, streams)

    def accept(self, pieces: np.ndarray) -> None:
        for features, piece in zip(self.features, pieces, strict=True):
            features.accept(piece)
        size = FACTOR * self.model.chunk
        while self.features[0].ready > size:
            chunk = torch.from_numpy(np.stack([f.take(size) for f in self.features]))
            encoded, self.state = self.model.step(chunk, self.state)
            with torch.inference_mode():
                self.search.advance(encoded, torch.full((len(pieces),), encoded.shape[1]))

    def tokens(self) -> list[list[str]]:
        return [self.units.pieces(found.labels) for found in self.search.best()]


class SherpaStreams:
    """Through the wheel's own loop."""

    def __init__(self, recognizer: sherpa_onnx.OnlineRecognizer, streams: int) -> None:
        self.recognizer = recognizer
        self.streams = [recognizer.create_stream() for _ in range(streams)]

    def accept(self, pieces: np.ndarray) -> None:
        for stream, piece in zip(self.streams, pieces, strict=True):
            stream.accept_waveform(SAMPLE_RATE, piece)
        while ready := [s for s in self.streams if self.recognizer.is_ready(s)]:
            self.recognizer.decode_streams(ready)

    def tokens(self) -> list[list[str]]:
        found = (self.recognizer.get_result_all(stream).tokens for stream in self.streams)
        return [[token.replace(" ", "\u2581") for token in tokens] for tokens in found]


def side_by_side(runtime: Any, streams: int) -> Streams:
    if isinstance(runtime, SherpaRuntime):
        return SherpaStreams(runtime.recognizer, streams)
    torch_alone = isinstance(runtime, TorchRuntime)
    model = TorchStreaming(runtime.model, runtime.chunking) if torch_alone else runtime
    return OurStreams(model, runtime.units, runtime.searcher, streams)


def speech(seconds: float, streams: int) -> np.ndarray:
    """[N, samples]: streams hear the same, each from another place on."""
    config = CorpusConfig(corpus="synthetic", split="test", count=10)
    audio = [item.read() for item in items(config, locate(config, None))]
    length = round(seconds * SAMPLE_RATE)
    found = np.resize(np.concatenate(audio), length)
    return np.stack([np.roll(found, i * length // streams) for i in range(streams)])


def stream_all(runtime: Any, audio: np.ndarray) -> tuple[float, list[list[str]]]:
    """Processor seconds that all streams take together, and what they heard."""
    streams = side_by_side(runtime, len(audio))
    start = time.process_time()
    for first in range(0, audio.shape[1], PIECE):
        streams.accept(audio[:, first : first + PIECE])
    return time.process_time() - start, streams.tokens()


def growth(path: Path, chunk: int | None, audio: list[np.ndarray]) -> list[int]:
    """Bytes by which this process has grown at most, after each of `audio`, few streams first."""
    torch.set_num_threads(1)
    before = peak_rss_bytes()
    runtime = open_model(path, chunk=chunk)
    found = []
    for streams in audio:
        stream_all(runtime, streams)
        found.append(peak_rss_bytes() - before)
    return found


def compare(paths: dict[str, Path], chunk: int | None, audio: list[np.ndarray]) -> None:
    """A line for each runtime and number of streams."""
    # Not "spawn": its processes start with the peak of the one that starts them.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sherpa_onnx", "pocketscribe.export.onnx_runtime"])
    memory: dict[str, list[int]] = {}
    for name, path in paths.items():
        with context.Pool(1) as process:
            memory[name] = process.apply(growth, (path, chunk, audio))
    runtimes = {name: open_model(path, chunk=chunk) for name, path in paths.items()}
    for i, streams in enumerate(audio):
        rounds = [{n: stream_all(x, streams) for n, x in runtimes.items()} for _ in range(ROUNDS)]
        best = {name: min(r[name][0] for r in rounds) for name in runtimes}
        heard = {name: tokens for name, (_, tokens) in rounds[0].items()}
        for name in runtimes:
            rival = f"sherpa-onnx {name.split(' ', 1)[1]}"
            same = sum(a == b for a, b in zip(heard[name], heard[rival], strict=True))
            print(
                f"  {len(streams):3} x {name:20} {best[name] * SAMPLE_RATE / streams.size:.5f} s "
                f"{best[name] / best[rival]:5.2f} x as long as {rival}  "
                f"{memory[name][i] / 1e6:4.0f} MB  {same} of {len(streams)} texts equal"
            )


def random_model(config: ModelConfig) -> Saved:
    """With random weights and 256 units that mean nothing."""
    words = ["".join(random.choices(string.ascii_uppercase, k=6)) for _ in range(2000)]
    units = Units.learn(words, UnitsConfig(kind="bpe", size=256))
    model = Recogniser(config, len(units)).eval()
    with torch.no_grad():
        features = torch.from_numpy(fbank(*speech(5, 1))).unsqueeze(0)
        model.mean.copy_(features.mean((0, 1)))
        model.inverse_std.copy_(1 / features.std((0, 1)))
        x, _ = model.encode(features, torch.tensor([features.shape[1]]), Chunking(None))
        start = model.joiner.predictor(model.predictor.step(torch.tensor([START])))
        logits = model.joiner(model.joiner.encoder(x[0]), start)
        lead = logits[:, 1:].amax(1) - logits[:, 0]
        model.joiner.out.bias[0] += lead.quantile(1 - LABEL_SHARE)
    return Saved(model, units.to_json())


def main(
    model: Annotated[Path | None, typer.Argument()] = None,
    width: int = 176,
    layers: int = 6,
    chunk: int | None = None,
    streams: str = "1,8,32",
    seconds: float = 10,
) -> None:
    torch.manual_seed(0)
    random.seed(0)
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, "
        f"sherpa-onnx {sherpa_onnx.__version__}, 1 thread"
    )
    audio = [speech(seconds, n) for n in sorted(map(int, streams.split(",")))]
    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            path = Path(folder) / "model.safetensors"
            config = {"encoder": {"width": width, "layers": layers}}
            save_model(path, random_model(ModelConfig.read(config, "the options")))
        else:
            path = model_file(model)
        found = load_model(path).model
        weights = sum(p.numel() for p in deployed_parameters(found).values()) / 1e6
        formatted = bool(found.config.formats)
        chunking = found.config.chunks.choose(chunk)
        print(f"{weights:.2f} M weights, chunks of {chunking.size}, {seconds:.0f} s a stream")
        paths = {f"PyTorch {'low bits' if formatted else 'float32'}": path}
        for kind in ["low bits"] if formatted else ["float32", "int8"]:
            for to, name in (("onnx", "onnxruntime"), ("sherpa-onnx", "sherpa-onnx")):
                out = paths[f"{name} {kind}"] = Path(folder) / f"{to} {kind}"
                export(path, to, out, int8=kind == "int8", chunk=chunk)
        compare(paths, chunk, audio)


if __name__ == "__main__":
    typer.run(main)
