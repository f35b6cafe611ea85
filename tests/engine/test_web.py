"""The page of `make web` in headless Chromium: it hears what the native engine hears."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pocketscribe_engine as native
import pytest
import soundfile
from playwright.sync_api import sync_playwright

from pocketscribe.export.engine_runtime import EngineRuntime
from talkative import babbling
from test_packed_files import rewritten

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "web"
CHROMIUM = which("chromium-headless-shell") or which("chromium")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and (SITE / "pocket-wasm.wasm").is_file()), reason="make web; install chromium"
)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ],
        )
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
        page.wait_for_function("!document.getElementById('example').disabled", timeout=60000)
        yield page
        browser.close()
    server.shutdown()


def test_the_example(page: Any) -> None:
    samples, _ = soundfile.read(SITE / "example.flac", dtype="float32")
    [said] = EngineRuntime(SITE / "model.pocket").transcribe([samples])
    page.click("#example")
    wanted = f"document.getElementById('text').textContent === {said.text!r}"
    page.wait_for_function(wanted, timeout=60000)
    assert said.text and "MB of memory; real-time factor" in page.inner_text("#about")


def test_the_module_writes_the_same_bits(page: Any) -> None:
    """Both kinds of SIMD, as far as the browser has them: units, times and scores."""
    samples, _ = soundfile.read(SITE / "example.flac", dtype="float32")
    [tokens] = native.Engine(native.Model(SITE / "model.pocket")).transcribe([samples])
    found = page.evaluate(
        """async (samples) => {
            const { load } = await import("./pocket.js");
            const stream = (await load("model.pocket")).stream();
            stream.accept(Float32Array.from(samples));
            stream.finish();
            return stream.tokens.map((token) => [token.time, token.score]);
        }""",
        samples.tolist(),
    )
    assert found == [[round(0.04 * t.frame, 2), t.score] for t in tokens]


COUNTED = """() => {
    if (window.tracks) return;
    window.tracks = [];
    const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wanted) => {
        const sound = await ask(wanted);
        window.tracks.push(...sound.getTracks());
        return sound;
    };
}"""
LIVE = "window.tracks.filter((track) => track.readyState === 'live').length"


def says(page: Any, button: str) -> None:
    page.wait_for_function(f"document.getElementById('listen').textContent === {button!r}")


def test_a_microphone_is_heard(page: Any) -> None:
    """Chromium's own fake one, which beeps; however often one presses, it is given back."""
    page.evaluate(COUNTED)
    page.evaluate("for (let i = 0; i < 2; ++i) document.getElementById('listen').click()")
    says(page, "Stop")
    page.wait_for_timeout(3000)
    page.select_option("#chunk", index=1)
    page.select_option("#chunk", index=0)
    assert page.evaluate(LIVE) == 1, "another delay, the same microphone"
    page.wait_for_timeout(500)
    page.evaluate("for (let i = 0; i < 2; ++i) document.getElementById('listen').click()")
    says(page, "Listen")
    assert page.evaluate(LIVE) == 0 and page.inner_text("#wrong") == ""
    assert "real-time factor" in page.inner_text("#about")


def test_who_begins_later_is_heard_alone(page: Any) -> None:
    """The example while the microphone is on, and again while the example plays."""
    page.evaluate(COUNTED)
    page.click("#listen")
    says(page, "Stop")
    page.click("#example")
    says(page, "Listen")
    page.click("#example")
    samples, _ = soundfile.read(SITE / "example.flac", dtype="float32")
    [said] = EngineRuntime(SITE / "model.pocket").transcribe([samples])
    wanted = f"document.getElementById('text').textContent === {said.text!r}"
    page.wait_for_function(wanted, timeout=60000)
    assert page.evaluate(LIVE) == 0 and page.inner_text("#wrong") == ""


@pytest.mark.parametrize("what", ["addModule", "createMediaStreamSource"])
def test_a_microphone_that_fails_is_given_back(page: Any, what: str) -> None:
    page.evaluate(COUNTED)
    page.evaluate(
        """(what) => {
            const owner = what === "addModule" ? AudioWorklet.prototype : AudioContext.prototype;
            const own = owner[what];
            owner[what] = () => { owner[what] = own; throw new Error("not today"); };
        }""",
        what,
    )
    page.click("#listen")
    page.wait_for_function("document.getElementById('wrong').textContent === 'not today'")
    assert page.inner_text("#listen") == "Listen" and page.evaluate(LIVE) == 0


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_a_microphone_of_any_rate(page: Any, rate: int) -> None:
    """A tone that 16 kHz can hold comes through as it is; one that it cannot is not folded back."""
    found = page.evaluate(
        """async (rate) => {
            const heard = async (pitch) => {
                const context = new OfflineAudioContext(1, rate, rate);
                await context.audioWorklet.addModule("microphone.js");
                const microphone = new AudioWorkletNode(context, "microphone");
                const samples = [];
                microphone.port.onmessage = ({ data }) => samples.push(...data);
                const tone = context.createOscillator();
                tone.frequency.value = pitch;
                tone.connect(microphone);
                tone.start();
                await context.startRendering();
                await new Promise((resolve) => setTimeout(resolve, 200));
                return samples;
            };
            return { heard: await heard(1000), above: await heard(7000 + rate / 8) };
        }""",
        rate,
    )
    samples, above = np.array(found["heard"]), np.array(found["above"])
    assert 14400 <= len(samples) <= 16000
    t = np.arange(2000, 12000) / 16000
    waves = np.stack([np.sin(2000 * np.pi * t), np.cos(2000 * np.pi * t)], 1)
    fit, left, *_ = np.linalg.lstsq(waves, samples[2000:12000], rcond=None)
    assert abs(np.hypot(*fit) - 1) < 0.01 and left[0] / len(t) < 1e-5
    if rate > 16000:
        assert np.abs(above[2000:12000]).max() < 0.01


def test_both_channels_are_heard(page: Any, tmp_path: Path) -> None:
    samples, rate = soundfile.read(SITE / "example.flac", dtype="float32")
    soundfile.write(tmp_path / "right.flac", np.stack([0 * samples, samples], 1), rate)
    page.set_input_files("#file", tmp_path / "right.flac")
    [said] = EngineRuntime(SITE / "model.pocket").transcribe([samples / 2])
    wanted = f"document.getElementById('text').textContent === {said.text!r}"
    page.wait_for_function(wanted, timeout=60000)


def test_what_is_no_model_is_refused(page: Any) -> None:
    page.set_input_files("#file", {"name": "a.pocket", "mimeType": "", "buffer": b"\xff" * 100})
    page.wait_for_function("document.getElementById('wrong').textContent !== ''")
    assert page.inner_text("#wrong") == "not a whole model file: its header is too large"


def test_sizes_beyond_32_bits_are_refused(page: Any, tmp_path: Path) -> None:
    """3 x 2^32 bytes of a tensor are none modulo 2^32, but no empty array."""
    key = "encoder.blocks.0.ffn1.up"

    def spoil(plan: dict, header: dict, arrays: dict) -> None:
        plan["tensors"][key] = [65536, 65536, len(plan["formats"])]
        format = {"bits": 8, "block": 1, "symmetric": True, "activations": 0, "keep": [0, 0]}
        plan["formats"].append(format)
        arrays[f"{key}.packed"] = np.zeros(0, np.uint8)

    whole = babbling(tmp_path / "whole.pocket")
    page.set_input_files("#file", rewritten(whole, tmp_path / "spoilt.pocket", spoil))
    page.wait_for_function("document.getElementById('wrong').textContent !== ''")
    wrong = page.inner_text("#wrong")
    assert wrong == f"{key}.packed has another size than its plan says"


def test_a_stream_gives_back_what_it_took(page: Any) -> None:
    found = page.evaluate(
        """async () => {
            const { load } = await import("./pocket.js");
            const model = await load("model.pocket");
            const lines = [];
            const line = (what) => { try { what(); } catch (why) { lines.push(why.message); } };
            const stream = model.stream();
            stream.close();
            stream.close();
            for (const use of ["finish", "reset"]) line(() => stream[use]());
            line(() => stream.accept(new Float32Array(1)));
            for (let i = 0; i < 3; ++i) model.stream().close();
            const before = model.bytes;
            for (let i = 0; i < 200; ++i) line(() => model.stream(5));
            return { lines, grown: model.bytes - before };
        }"""
    )
    assert found["lines"][:3] == ["the stream is closed"] * 3 and found["grown"] == 0
    assert set(found["lines"][3:]) == {"no chunks of 5 frames in this model"}
