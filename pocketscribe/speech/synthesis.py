"""Text to speech for the synthetic corpus: espeak-ng through its C API, and optionally flite.

Both engines give the same samples for the same voice and text, in whatever order they are asked.
Waveforms here are float32, mono, 16 kHz, in [-1, 1], of shape (T,).
"""

from __future__ import annotations

import ctypes
import io
import math
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import espeakng_loader
import numpy as np
import soundfile

from pocketscribe.errors import UserError
from pocketscribe.speech.features import resampled


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker. The three factors are relative to how the variant speaks unasked."""

    engine: str  # "espeak" or "flite"
    accent: str  # espeak: a voice such as "en-us"; flite: what its variant happens to be
    variant: str  # espeak: a file of voices/!v such as "f3"; flite: a voice such as "slt"
    rate: float = 1.0  # speed factor
    pitch: float = 1.0  # factor on the fundamental frequency; espeak reaches 0.5 to 1.97
    range: float = 1.0  # factor on the pitch excursion; espeak only, 0 to 1.98

    @property
    def speaker(self) -> str:
        """Who is heard. The rate is left out: people speak at many rates."""
        return f"{self.engine}-{self.accent}-{self.variant}-{round(100 * self.pitch):03d}"


def synthesise(voice: Voice, text: str) -> np.ndarray:
    """Speak `text` (words and spaces) as `voice`.

    Returns float32 (T,) at 16 kHz.
    Raises UserError when the engine or the voice is not to be had on this machine.
    """
    return engine(voice.engine)(voice, text)


def engine(name: str) -> Callable[[Voice, str], np.ndarray]:
    """The engine called `name`, ready to speak; raises UserError when it is missing."""
    if name == "espeak":
        return _espeak().speak
    if name == "flite":
        return Flite().speak
    raise UserError(f'no speech engine "{name}": use "espeak" or "flite"')


@cache
def _espeak() -> _Espeak:
    """The process's one engine: the library keeps its state in globals and our callback in them."""
    return _Espeak()


class _Espeak:
    """espeak-ng in this process; come by it through `engine`, for a second one would crash.

    Left to itself espeak-ng never says a thing twice alike: pitch flutter, roughness and breath
    noise run on from one utterance to the next in variables that no call resets. We therefore give
    it a private copy of its English data in which no voice asks for them, and keep its volume low
    enough that its gain control, which also outlives an utterance, stays idle.
    """

    # Constants of espeak-ng's speak_lib.h.
    _SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1
    _RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4

    _STATEFUL = re.compile(r"\s*(language|flutter|roughness|breathw?|echo)\b")
    _VOLUME_PERCENT = 30  # the loudest variants used peak near 0.6 at this

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pieces: list[bytes] = []
        self._folder = tempfile.TemporaryDirectory(prefix="pocketscribe-espeak-")
        data = Path(self._folder.name) / "espeak-ng-data"
        _copy_english(Path(espeakng_loader.get_data_path()), data, self._STATEFUL)
        self._variants = {file.name for file in (data / "voices" / "!v").iterdir()}
        try:
            self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        except OSError as error:
            raise UserError(
                f"espeak-ng does not load ({error}): reinstall espeakng-loader"
            ) from error

        callback_type = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p
        )
        self._library.espeak_Synth.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_uint,  # position
            ctypes.c_int,  # position type
            ctypes.c_uint,  # end position
            ctypes.c_uint,  # flags
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        self._native_rate = self._library.espeak_Initialize(
            self._SYNCHRONOUS, 0, str(data).encode(), self._DONT_EXIT
        )
        if self._native_rate <= 0:
            raise UserError("espeak-ng does not start on its data: reinstall espeakng-loader")
        # Kept on self: espeak holds a bare pointer, which must not outlive the Python object.
        self._callback = callback_type(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._pieces.append(ctypes.string_at(samples, 2 * count))
        return 0  # go on

    def speak(self, voice: Voice, text: str) -> np.ndarray:
        """As `synthesise`."""
        if voice.variant not in self._variants:
            raise UserError(f'espeak-ng has no variant "{voice.variant}": try "f1" or "m1"')
        encoded = text.encode() + b"\0"
        # 50 is espeak's neutral value of pitch and range; 50 steps of pitch are an octave.
        parameters = {
            self._RATE: round(175 * voice.rate),
            self._VOLUME: self._VOLUME_PERCENT,
            self._PITCH: min(max(round(50 + 50 * math.log2(voice.pitch)), 0), 99),
            self._RANGE: min(max(round(50 * voice.range), 0), 99),
        }
        with self._lock:
            self._pieces.clear()
            name = f"{voice.accent}+{voice.variant}".encode()
            if self._library.espeak_SetVoiceByName(name) != 0:
                raise UserError(f'espeak-ng has no English accent "{voice.accent}": try "en-us"')
            for parameter, value in parameters.items():
                self._library.espeak_SetParameter(parameter, value, 0)
            status = self._library.espeak_Synth(
                encoded, len(encoded), 0, 0, 0, self._UTF8, None, None
            )
            pcm = np.frombuffer(b"".join(self._pieces), dtype=np.int16)
        if status != 0 or pcm.size == 0:
            raise UserError(f'espeak-ng cannot speak "{text}" as {voice.speaker}')
        return resampled(pcm.astype(np.float32) / 32768, self._native_rate)


def _copy_english(source: Path, target: Path, unwanted: re.Pattern[str]) -> None:
    """Copy espeak's English data (1 MB), leaving out the `unwanted` lines of the variants."""
    (target / "voices" / "!v").mkdir(parents=True)
    (target / "lang" / "gmw").mkdir(parents=True)
    for name in ("en_dict", "phondata", "phonindex", "phontab", "intonations"):
        shutil.copy(source / name, target / name)
    for file in (source / "lang" / "gmw").glob("en*"):
        shutil.copy(file, target / "lang" / "gmw" / file.name)
    for file in (source / "voices" / "!v").iterdir():
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if not unwanted.match(line)]
        text = "\n".join(["language variant", *kept, "flutter 0", "roughness 0", ""])
        (target / "voices" / "!v" / file.name).write_text(text, encoding="utf-8")


class Flite:
    """The `flite` program, a process an utterance."""

    # Fundamental frequency in Hz as measured on its default speech. None: takes no other pitch.
    _PITCH_HZ: Final = {"kal16": 95.0, "awb": 127.0, "rms": None, "slt": 174.0}

    def __init__(self) -> None:
        program = shutil.which("flite")
        if program is None:
            raise UserError(
                'the program "flite" is not on PATH: install it (Debian: apt install flite) '
                'or leave "flite" out of the synthetic corpus\'s engines'
            )
        self._program = program

    def speak(self, voice: Voice, text: str) -> np.ndarray:
        """As `synthesise`."""
        if voice.variant not in self._PITCH_HZ:
            known = ", ".join(self._PITCH_HZ)
            raise UserError(f'flite has no voice "{voice.variant}": use one of {known}')
        command = [self._program, "-voice", voice.variant]
        command += ["--setf", f"duration_stretch={1 / voice.rate:.3f}"]
        natural = self._PITCH_HZ[voice.variant]
        if natural is not None:
            command += ["--setf", f"int_f0_target_mean={natural * voice.pitch:.1f}"]
        command += ["-t", text, "-o", "/dev/stdout"]
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
        try:
            samples, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
        except soundfile.LibsndfileError as error:
            raise UserError(f'flite cannot speak "{text}" as {voice.speaker}') from error
        return resampled(samples, rate)
