"""Features are the same offline and live, whatever the blocks, formats and rates of the audio."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pocketscribe.errors import UserError
from pocketscribe.speech.features import (
    MELS,
    SAMPLE_RATE,
    LiveFbank,
    audio_blocks,
    audio_seconds,
    fbank,
    mono,
    read_audio,
    resampled,
)
from small_corpora import sound


def live_fbank(samples: np.ndarray, blocks: list[int]) -> np.ndarray:
    """Features of audio that comes in `blocks`, over and over; taken as soon as they are ready."""
    features, at = LiveFbank(), 0
    taken: list[np.ndarray] = []
    while at < len(samples):
        size = blocks[len(taken) % len(blocks)]
        features.accept(samples[at : at + size])
        at += size
        taken.append(features.take(features.ready))
    features.finish()
    return np.concatenate([*taken, features.take(features.ready)])


@pytest.mark.parametrize("blocks", [[10**6], [160], [1, 7, 400], [3199], [1600, 33, 8000]])
def test_live_is_offline(speech: np.ndarray, blocks: list[int]) -> None:
    offline = fbank(speech)
    live = live_fbank(speech, blocks)
    assert live.shape == offline.shape and live.dtype == offline.dtype == np.float32
    np.testing.assert_allclose(live, offline, atol=1e-2)


@pytest.mark.parametrize("length", [0, 1, 159, 160, 239, 240, 399, 400, 401, 1680, 16007])
def test_a_frame_is_ten_milliseconds_the_last_half_counts_and_less_is_nothing(length: int) -> None:
    samples = sound(1.1)[:length]
    features = fbank(samples)
    assert features.shape == ((length + 80) // 160 if length >= 160 else 0, MELS)
    assert features.dtype == np.float32
    if len(features):
        np.testing.assert_allclose(live_fbank(samples, [160]), features, atol=1e-2)


def test_louder_is_more_and_silence_is_the_floor(speech: np.ndarray) -> None:
    quiet, loud = fbank(0.1 * speech), fbank(speech)
    heard = quiet > -10
    assert heard.mean() > 0.2
    np.testing.assert_allclose((loud - quiet)[heard], 2 * np.log(10), atol=1e-2)
    silence = fbank(np.zeros(SAMPLE_RATE, np.float32))
    assert np.unique(silence).size == 1 and silence.max() < -15


def test_a_tone_is_in_its_mel_bin() -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    low, high = (1127 * np.log1p(hertz / 700) for hertz in (20, SAMPLE_RATE / 2 - 400))
    for hertz in (200, 1000, 4000, 7000):
        tone = (0.1 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)
        mel = (1127 * np.log1p(hertz / 700) - low) / (high - low) * (MELS + 1) - 1
        assert abs(fbank(tone)[50].argmax() - mel) <= 1


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        ("wav", "PCM_16", 1e-4),
        ("wav", "PCM_24", 1e-6),
        ("wav", "FLOAT", 0),
        ("flac", "PCM_16", 1e-4),
        ("aiff", "PCM_16", 1e-4),
        ("ogg", "VORBIS", 0.03),
        ("opus", "OPUS", 0.03),
        ("mp3", "MPEG_LAYER_III", 0.03),
    ],
)
def test_formats(
    tmp_path: Path, speech: np.ndarray, suffix: str, subtype: str, tolerance: float
) -> None:
    path = tmp_path / f"speech.{suffix}"
    form = "OGG" if suffix == "opus" else None
    soundfile.write(path, speech, SAMPLE_RATE, format=form, subtype=subtype)
    samples = read_audio(path)
    assert samples.dtype == np.float32 and samples.shape == speech.shape
    assert np.sqrt(np.mean((samples - speech) ** 2)) <= tolerance
    assert audio_seconds(path) == pytest.approx(len(speech) / SAMPLE_RATE)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_rates_and_channels(tmp_path: Path, rate: int) -> None:
    time = np.arange(round(1.234 * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * 440 * time)
    path = tmp_path / "tone.wav"
    channels = np.stack([tone, 0.5 * tone, 1.5 * tone], axis=1)  # their average is heard
    soundfile.write(path, channels, rate, subtype="FLOAT")
    samples = read_audio(path)
    assert samples.ndim == 1 and abs(len(samples) - 1.234 * SAMPLE_RATE) <= 1
    expected = 0.3 * np.sin(2 * np.pi * 440 * np.arange(len(samples)) / SAMPLE_RATE)
    np.testing.assert_allclose(samples[500:-500], expected[500:-500], atol=5e-3)


def test_resampling_keeps_the_band_and_nothing_above() -> None:
    time = np.arange(22_050) / 22_050
    for hertz, gain in ((100, 1.0), (3_000, 1.0), (7_200, 1.0), (8_300, 0.0), (10_000, 0.0)):
        tone = resampled((0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32), 22_050)
        assert tone.size == SAMPLE_RATE
        middle = tone[1_000:-1_000]
        assert np.sqrt(2) * middle.std() == pytest.approx(0.5 * gain, abs=2e-3)
        if gain:
            expected = 0.5 * np.sin(2 * np.pi * hertz * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
            np.testing.assert_allclose(middle, expected[1_000:-1_000], atol=5e-3)


def test_samples_and_files_are_resampled_alike(tmp_path: Path) -> None:
    samples = sound(0.7, rate=8000)
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), resampled(samples, 8000))
    np.testing.assert_array_equal(resampled(samples, SAMPLE_RATE), samples)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_blocks_of_a_second_are_the_whole(tmp_path: Path, rate: int) -> None:
    samples = np.stack([sound(2.7, rate=rate), sound(2.7, rate=rate)[::-1]], axis=1)
    path = tmp_path / "a.flac"
    soundfile.write(path, samples, rate)
    blocks = list(audio_blocks(path))
    assert max(map(len, blocks)) < 1.2 * SAMPLE_RATE
    pcm, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(np.concatenate(blocks), resampled(mono(pcm), rate))
    with path.open("rb") as file:
        np.testing.assert_array_equal(np.concatenate(list(audio_blocks(file))), read_audio(path))


def write_bad(path: Path, what: str) -> None:
    if what == "folder":
        path.mkdir()
    elif what == "nothing":
        path.write_bytes(b"")
    elif what == "text":
        path.write_text("this is no audio\n")
    elif what == "cut short":
        soundfile.write(path, sound(1.0), SAMPLE_RATE)
        path.write_bytes(path.read_bytes()[:9000])
    elif what == "1 Hz":  # 16,000 times as long once it is resampled
        soundfile.write(path, np.zeros(20_000), 1, format="WAV")
    elif what == "too loud":
        soundfile.write(path, np.full(800, 1e30), SAMPLE_RATE, format="WAV", subtype="DOUBLE")
    elif what == "not finite":
        soundfile.write(path, np.full(800, np.nan), SAMPLE_RATE, format="WAV", subtype="FLOAT")


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("missing", "no such audio file"),
        ("folder", "no such audio file"),
        ("nothing", "not readable as audio"),
        ("text", "not readable as audio .Format not recognised"),
        ("cut short", "not readable as audio"),
        ("1 Hz", "says it has 1 samples a second"),
        ("not finite", "not finite"),
        ("too loud", "beyond 1e.06 times full scale"),
    ],
)
def test_a_broken_file_is_one_line_that_names_it(tmp_path: Path, what: str, says: str) -> None:
    path = tmp_path / "bad.flac"
    write_bad(path, what)
    with pytest.raises(UserError, match=says) as caught:
        read_audio(path)
    assert str(caught.value).count(str(path)) == 1
