"""Log-mel features: Kaldi's 80 bins at 16 kHz, as sherpa-onnx computes them (deployment.md).

Offline by lhotse's batched extractor, live by kaldi-native-fbank; a test holds them together.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import soundfile
from lhotse import Fbank, FbankConfig

from pocketscribe.errors import UserError

SAMPLE_RATE = 16000
HOP_SECONDS = 0.01
MELS = 80
LOG_FLOOR = math.log(np.finfo(np.float32).eps)  # Kaldi's: digital silence


@cache
def _extractor() -> Fbank:
    return Fbank(FbankConfig(sampling_rate=SAMPLE_RATE, num_mel_bins=MELS, snip_edges=False))


def fbank(samples: np.ndarray) -> np.ndarray:
    """Samples in [-1, 1] at 16 kHz, `[N]` -> log-mel energies `[N / 160, 80]`, float32."""
    if len(samples) < HOP_SECONDS * SAMPLE_RATE:  # not one frame: lhotse would fail
        return np.zeros((0, MELS), np.float32)
    features = _extractor().extract(samples.astype(np.float32), SAMPLE_RATE)
    return np.asarray(features, dtype=np.float32)


class LiveFbank:
    """The same features, frame by frame while audio comes in."""

    def __init__(self) -> None:
        options = kaldi_native_fbank.FbankOptions()
        options.frame_opts.dither = 0
        options.frame_opts.snip_edges = False
        options.mel_opts.num_bins = MELS
        options.mel_opts.high_freq = -400
        self._fbank = kaldi_native_fbank.OnlineFbank(options)
        self._taken = 0

    def accept(self, samples: np.ndarray) -> None:
        self._fbank.accept_waveform(SAMPLE_RATE, samples.tolist())

    def finish(self) -> None:
        """No more audio comes: the last frames, which reach beyond it, become ready."""
        self._fbank.input_finished()

    @property
    def ready(self) -> int:
        """Frames that can be taken now."""
        return self._fbank.num_frames_ready - self._taken

    def take(self, count: int) -> np.ndarray:
        """The next `count` frames `[count, 80]`; count must not exceed `ready`."""
        # Copied before they are popped: the library hands out views of its own memory.
        frames = [self._fbank.get_frame(self._taken + i).copy() for i in range(count)]
        self._taken += count
        self._fbank.pop(count)
        return np.array(frames, np.float32).reshape(count, MELS)


def audio_seconds(path: Path) -> float:
    """How long an audio file says it is; nothing is decoded. Raises UserError as `read_audio`."""
    with _readable(path):
        return float(soundfile.info(path).duration)


def read_audio(path: Path) -> np.ndarray:
    """Any format and rate that soundfile reads -> first channel at 16 kHz, float32 `[N]`.

    Raises:
        UserError: the file is missing or is no audio.
    """
    with _readable(path):
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if not np.isfinite(samples).all():
        raise UserError(f"{path}: the audio holds numbers that are not finite")
    return resampled(samples[:, 0], rate)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns whatever reading an audio file raises into one line."""
    if not path.is_file():
        raise UserError(f"{path}: no such audio file")
    try:
        yield
    except Exception as error:  # soundfile raises many kinds for broken audio
        reason = getattr(error, "error_string", None) or str(error) or type(error).__name__
        raise UserError(f"{path}: not readable as audio ({reason})") from None


def resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    """Samples `[N]` of any rate at 16 kHz, float32."""
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    if rate == SAMPLE_RATE:
        return samples
    from scipy.signal import resample_poly  # here: a second of import that 16 kHz does not need

    common = math.gcd(rate, SAMPLE_RATE)
    return resample_poly(samples, SAMPLE_RATE // common, rate // common).astype(np.float32)
