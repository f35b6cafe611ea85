"""The wheel works in an environment of its own, away from the repository."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import soundfile

from talkative import digits

ROOT = Path(__file__).parents[1]


def test_the_wheel_is_all_that_is_needed(talkative: Path, tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def run(*command: str | Path) -> str:
        return subprocess.run(
            list(map(str, command)),
            cwd=tmp_path,
            env=clean | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, ROOT)
    [wheel] = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    bin = tmp_path / "venv" / "bin"
    run(*pip, "--python", bin / "python", "install", "--no-deps", "--no-index", wheel)
    # What it depends on, but for an editable Pocketscribe: .pth files there are not followed.
    [site] = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    where = run(bin / "python", "-c", "import pocketscribe; print(pocketscribe.__file__)")
    package = Path(where.strip()).parent
    assert package.parent == site and (package / "py.typed").is_file()
    assert "transcribe" in run(bin / "pocketscribe", "--help")
    assert json.loads(run(bin / "pocketscribe", "size", "quickstart", "--json"))["bytes"] > 1e5
    soundfile.write(tmp_path / "a.wav", digits()[0], 16000)
    said = json.loads(run(bin / "pocketscribe", "transcribe", talkative, "a.wav", "--json"))
    assert said["path"] == "a.wav" and said["text"]
