"""Streaming real-time factors on one thread: python benchmarks/streaming.py [MODEL]

About a minute of synthetic speech in pieces of 0.1 s, as a microphone brings it, through PyTorch,
through our loop around onnxruntime, and through the unmodified sherpa-onnx wheel: features, encoder
and greedy search, utterance by utterance and in turns. The two ONNX runtimes run the same export;
int8 is dynamic and leaves PyTorch out. Time is the process's processor time, all threads together:
on one thread of a quiet machine that is the time on the clock, and a busy machine disturbs it less.

Without MODEL (a run or a saved file) the default model gets random weights, with the blank made as
likely as to leave a label in every fifth frame: what it says is noise, what it costs is not.
"""

import platform
import random
import string
import sys
import tempfile
import time
from collections import Counter
from itertools import takewhile
from pathlib import Path

import numpy as np
import onnxruntime
import sherpa_onnx
import torch

from pocketscribe.decoding.streaming import LiveStream
from pocketscribe.export.export import export
from pocketscribe.export.onnx_runtime import OnnxRuntime
from pocketscribe.export.open import TorchRuntime, model_file
from pocketscribe.export.sherpa_runtime import SherpaRuntime
from pocketscribe.models import Chunking, ModelConfig, Recogniser, deployed_parameters
from pocketscribe.models.predictor import START
from pocketscribe.models.saved import Saved, load_model, save_model
from pocketscribe.speech.corpora import CorpusConfig, items, locate
from pocketscribe.speech.features import SAMPLE_RATE, fbank
from pocketscribe.speech.units import Units, UnitsConfig

SECONDS = 60
PIECE = SAMPLE_RATE // 10
LABEL_SHARE = 0.2  # of the encoder frames, as in speech


def speech() -> list[np.ndarray]:
    """Utterances of about a minute in all."""
    config = CorpusConfig(corpus="synthetic", split="test", count=SECONDS)
    spoken = items(config, locate(config, None))
    found: list[np.ndarray] = []
    enough = takewhile(lambda _: sum(map(len, found)) < SECONDS * SAMPLE_RATE, spoken)
    for item in enough:
        found.append(item.read())
    return found


def random_model(audio: np.ndarray) -> Saved:
    """The default model with 256 units that mean nothing."""
    words = ["".join(random.choices(string.ascii_uppercase, k=6)) for _ in range(2000)]
    units = Units.learn(words, UnitsConfig(kind="bpe", size=256))
    model = Recogniser(ModelConfig(), len(units)).eval()
    with torch.no_grad():
        features = torch.from_numpy(fbank(audio)).unsqueeze(0)
        model.mean.copy_(features.mean((0, 1)))
        model.inverse_std.copy_(1 / features.std((0, 1)))
        x, _ = model.encode(features, torch.tensor([features.shape[1]]), Chunking(None))
        start = model.joiner.predictor(model.predictor.step(torch.tensor([START])))
        logits = model.joiner(model.joiner.encoder(x[0]), start)
        lead = logits[:, 1:].amax(1) - logits[:, 0]
        model.joiner.out.bias[0] += lead.quantile(1 - LABEL_SHARE)
    return Saved(model, units.to_json())


def stream_all(stream: LiveStream, samples: np.ndarray) -> tuple[float, str]:
    """Processor seconds that one utterance takes, and its text."""
    start = time.process_time()
    for first in range(0, len(samples), PIECE):
        stream.accept(samples[first : first + PIECE])
    text = stream.finish().text
    return time.process_time() - start, text


def main() -> None:
    torch.manual_seed(0)
    random.seed(0)
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, "
        f"sherpa-onnx {sherpa_onnx.__version__}, 1 thread"
    )
    audio = speech()
    heard = sum(map(len, audio)) / SAMPLE_RATE
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) > 1:
            path = model_file(Path(sys.argv[1]))
        else:
            path = Path(folder) / "model.safetensors"
            save_model(path, random_model(audio[0]))
        model = load_model(path).model
        weights = sum(p.numel() for p in deployed_parameters(model).values()) / 1e6
        print(
            f"{weights:.2f} M weights, chunks of {model.config.chunks.streaming}, {heard:.0f} s of "
            f"synthetic speech in {len(audio)} utterances"
        )
        runtimes: dict[str, TorchRuntime | OnnxRuntime | SherpaRuntime] = {}
        runtimes["PyTorch float32"] = TorchRuntime(path)
        for kind in ("float32", "int8"):
            for to, opened in (("onnx", OnnxRuntime), ("sherpa-onnx", SherpaRuntime)):
                out = Path(folder) / f"{to}-{kind}"
                export(path, to, out, int8=kind == "int8")
                runtimes[f"{'onnxruntime' if to == 'onnx' else to} {kind}"] = opened(out)
        for runtime in runtimes.values():
            stream_all(runtime.stream(), audio[0])

        took: Counter[str] = Counter()
        texts: dict[str, list[str]] = {name: [] for name in runtimes}
        for samples in audio:
            for name, runtime in runtimes.items():
                seconds, text = stream_all(runtime.stream(), samples)
                took[name] += seconds
                texts[name].append(text)
    for name in runtimes:
        rival = "sherpa-onnx " + name.split()[1]
        same = sum(a == b for a, b in zip(texts[name], texts[rival], strict=True))
        print(
            f"  {name:20} RTF {took[name] / heard:.4f}  {took[name] / took[rival]:5.2f} x as long "
            f"as {rival}; {same} of {len(audio)} texts equal"
        )


if __name__ == "__main__":
    main()
