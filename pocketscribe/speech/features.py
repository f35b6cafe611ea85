"""Log-mel features: Kaldi's 80 bins at 16 kHz, as sherpa-onnx computes them.

Offline by lhotse's batched extractor, live by kaldi-native-fbank; a test holds them together.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import IOBase
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import soundfile
import soxr
from lhotse import Fbank, FbankConfig

from pocketscribe.errors import UserError
from pocketscribe.models import MELS

SAMPLE_RATE = 16000
MOST_CHANNELS = 64  # more, and an array lies the wrong way round
UNREAD = (".m4a", ".aac", ".wma", ".amr")  # often met, and not read by libsndfile
SLOWEST, FASTEST = 1000, 1_000_000  # what audio may say of its rate; else its header is damaged
HOP_SECONDS = 0.01
LOUDEST = 1e6  # of samples whose full scale is 1: the square of more is no float32
NO_SOUND = f"numbers that are not finite, or beyond {LOUDEST:g} times full scale"
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
        return float(soundfile.info(os.fsencode(path)).duration)


def read_audio(path: Path) -> np.ndarray:
    """All of `audio_blocks` at once, float32 `[N]`."""
    return np.concatenate(list(audio_blocks(path)))


def audio_blocks(source: Path | IOBase) -> Iterator[np.ndarray]:
    """Any format and rate that soundfile reads -> 16 kHz in blocks of a second, float32 `[n]`.

    Channels are averaged. An hour takes no more memory than a minute.

    Raises:
        UserError: the file is missing or is no audio.
    """
    # As bytes: a name need not be text.
    opened = os.fsencode(source) if isinstance(source, Path) else source
    with _readable(source), soundfile.SoundFile(opened) as file:
        if not SLOWEST <= file.samplerate <= FASTEST:
            raise UserError(f"{_name(source)}: says it has {file.samplerate} samples a second")
        convert = soxr.ResampleStream(file.samplerate, SAMPLE_RATE, 1, dtype="float32")
        while len(block := file.read(file.samplerate, dtype="float32", always_2d=True)):
            if not _is_sound(block):
                raise UserError(f"{_name(source)}: the audio holds {NO_SOUND}")
            yield convert.resample_chunk(mono(block))
        yield convert.resample_chunk(np.zeros(0, np.float32), last=True)


def _is_sound(samples: np.ndarray) -> bool:
    return bool((np.abs(samples) <= LOUDEST).all())


def _name(source: Path | IOBase) -> str:
    return str(source) if isinstance(source, Path) else getattr(source, "name", "standard input")


@contextmanager
def _readable(source: Path | IOBase) -> Iterator[None]:
    """Turns whatever reading an audio file raises into one line."""
    if isinstance(source, Path) and not source.is_file():
        raise UserError(f"{source}: no such audio file")
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # soundfile raises many kinds for broken audio
        reason = getattr(error, "error_string", None) or str(error) or type(error).__name__
        if isinstance(source, Path) and not os.access(source, os.R_OK):
            reason = "no permission"
        elif _name(source).lower().endswith(UNREAD):
            reason = f"libsndfile reads no {Path(_name(source)).suffix}: make it FLAC, as by ffmpeg"
        raise UserError(f"{_name(source)}: not readable as audio ({reason})") from None


def waveform(samples: np.ndarray, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Samples `[N]`, or `[N, C]` of several channels, in [-1, 1] -> 16 kHz `[N]`, float32.

    Raises:
        UserError: these are no such samples, or no such rate.
    """
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > MOST_CHANNELS):
        raise UserError(f"audio of shape {[*samples.shape]}: give samples [N], or [N, channels]")
    if not np.issubdtype(samples.dtype, np.floating):
        raise UserError(f"audio of {samples.dtype}: give floats in [-1, 1], such as x / 32768")
    if not isinstance(rate, int | float) or not SLOWEST <= rate <= FASTEST:
        raise UserError(f"audio of {rate!r} samples a second: give {SLOWEST} to {FASTEST}")
    if not _is_sound(samples):
        raise UserError(f"the audio holds {NO_SOUND}")
    samples = mono(samples)
    return samples if rate == SAMPLE_RATE else resampled(samples, rate)


def mono(samples: np.ndarray) -> np.ndarray:
    """The average `[N]` of all channels `[N, C]`, float32; one channel stays as it is."""
    samples = np.asarray(samples, dtype=np.float32)
    return samples.mean(axis=1) if samples.ndim == 2 else samples


def resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    """Samples `[N]` of any rate at 16 kHz, float32; what `audio_blocks` gives, bit for bit."""
    return soxr.resample(np.asarray(samples, dtype=np.float32), rate, SAMPLE_RATE)
