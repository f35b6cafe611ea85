"""Fixtures that several rooms' tests share."""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import settings

from called import Call, Ended
from pocketscribe import cli
from pocketscribe.models.saved import load_model, save_model, save_packed
from talkative import talkative as talkative_model
from tiny import TINY_RECIPE, run_here

torch.set_num_threads(1)  # of two, each would wait for the other: pytest runs two processes
# A busy machine is no failure; thirty examples of lattices are seconds; a failure comes again.
settings.register_profile("here", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("here")


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The real corpora; tests that need them are skipped where they are not."""
    root = os.environ.get("POCKETSCRIBE_CORPORA")
    if not root or not (Path(root) / "speechocean762").is_dir():
        pytest.skip("set POCKETSCRIBE_CORPORA to run the tests on real speech")
    return Path(root)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`made_once(name, make)`: a path that `make` fills, once for all of pytest's processes."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def path(name: str, make: Callable[[Path], object]) -> Path:
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (base / name).exists():
                try:
                    make(base / name)
                except BaseException:  # half of it would pass for all of it
                    shutil.rmtree(base / name, ignore_errors=True)
                    (base / name).unlink(missing_ok=True)
                    raise
        return base / name

    return path


@pytest.fixture(scope="session", autouse=True)
def _traces_without_shape_checks() -> Iterator[None]:
    """Checking broadcastable shapes turns them into numbers, which a trace then takes for fixed."""
    traced = torch.onnx.export

    def export(*args: object, **options: object) -> object:
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            return traced(*args, **options)
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", export)
        yield


@pytest.fixture(scope="session")
def talkative(made_once: Callable[..., Path]) -> Path:
    """A model that emits many different labels, in a file."""
    return made_once("talkative.safetensors", lambda path: save_model(path, talkative_model()))


@pytest.fixture(scope="session")
def packed(talkative: Path, made_once: Callable[..., Path]) -> Path:
    """The same as a `.pocket` file."""
    return made_once("talkative.pocket", lambda path: save_packed(path, load_model(talkative)))


@pytest.fixture(scope="session")
def tiny_run(made_once: Callable[..., Path]) -> Path:
    """The folder of a finished run; its recipe lies beside it as tiny.toml."""

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "tiny.toml").write_text(TINY_RECIPE, encoding="utf-8")
        run_here(folder / "tiny.toml", folder / "tiny")

    return made_once("runs", make) / "tiny"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs `pocketscribe ARGUMENTS` in this process."""

    def run(*arguments: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["pocketscribe", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Ended(code, *capsys.readouterr())

    return run
