"""The page of `make web` in headless Chromium: it hears what the native engine hears."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from typing import Any

import pocketscribe_engine as native
import pytest
import soundfile

from pocketscribe.export.engine_runtime import EngineRuntime

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "web"
CHROMIUM = which("chromium-headless-shell") or which("chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and (SITE / "pocket-wasm.wasm").is_file()), reason="make web; install chromium"
)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with playwright.sync_playwright() as started:
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


def test_a_microphone_is_heard(page: Any) -> None:
    """Chromium's own fake one, which beeps."""
    page.click("#listen")
    page.wait_for_function("document.getElementById('listen').textContent === 'Stop'")
    page.wait_for_timeout(3000)
    page.click("#listen")
    page.wait_for_function("document.getElementById('listen').textContent === 'Listen'")
    assert "wrong" not in (page.get_attribute("#about", "class") or "")
    assert "real-time factor" in page.inner_text("#about")


def test_what_is_no_model_is_refused(page: Any) -> None:
    page.set_input_files("#file", {"name": "a.pocket", "mimeType": "", "buffer": b"\xff" * 100})
    page.wait_for_function("document.getElementById('about').className === 'wrong'")
    assert page.inner_text("#about") == "not a whole model file: its header is too large"
