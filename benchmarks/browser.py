"""The engine in a browser: make web; python benchmarks/browser.py [--site build/web]

The page's module and model in headless Chromium, greedy, one stream, synthetic speech in pieces of
0.1 s: with relaxed SIMD and without. Told is time on the clock for a second of audio, the best of
three rounds, in turns, so other work beside it counts; and beside it the native engine's.
"""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which

import pocketscribe_engine as native
import typer
from playwright.sync_api import Browser, sync_playwright
from streaming import ROUNDS, speech

from engine import engine_all
from pocketscribe.speech.features import SAMPLE_RATE

SITE = Path(__file__).parents[1] / "build" / "web"
PLAIN, RELAXED = "pocket-wasm.wasm", "pocket-wasm-relaxed.wasm"
HEARD = """async (samples) => {
    const { load } = await import("./pocket.js");
    const stream = (await load("model.pocket")).stream();
    for (let at = 0; at < samples.length; at += 1600)
        stream.accept(Float32Array.from(samples.slice(at, at + 1600)));
    stream.finish();
    return stream.milliseconds / 1000;
}"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


def seconds(browser: Browser, address: str, samples: list[float], module: Path) -> float:
    """What the module takes for the samples, on a page of its own."""
    page = browser.new_page()
    page.route(f"**/{RELAXED}", lambda route: route.fulfill(path=module))
    page.goto(f"{address}/index.html")
    found = page.evaluate(HEARD, samples)
    page.close()
    return float(found)


def main(site: Path = SITE, length: float = 20) -> None:
    audio = speech(length, 1)
    model = native.Model(site / "model.pocket")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    rounds: dict[str, list[float]] = {}
    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=which("chromium-headless-shell") or which("chromium"),
            args=["--no-sandbox"],
        )
        for _ in range(ROUNDS):
            for module in (RELAXED, PLAIN):
                took = seconds(browser, address, audio[0].tolist(), site / module)
                rounds.setdefault(module, []).append(took)
            rounds.setdefault("native", []).append(engine_all(native.Engine(model), audio))
        print(f"Chromium {browser.version}, {length:.0f} s of speech, one stream")
        browser.close()
    server.shutdown()
    for name, found in rounds.items():
        print(f"  {name:26} {min(found) * SAMPLE_RATE / audio.size:.5f} s a second of audio")


if __name__ == "__main__":
    typer.run(main)
