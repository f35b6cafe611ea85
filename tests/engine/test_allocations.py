"""Nothing is allocated while an engine streams, counted in a C program by a malloc of its own."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pocketscribe_engine as native
import pytest

HERE = Path(__file__).parent
COMPILER = shutil.which("cc")


@pytest.fixture(scope="session")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, linked with the library that the wheel brought."""
    library = Path(native.__file__).parent
    made = tmp_path_factory.mktemp("counter") / "allocations"
    include = HERE.parents[1] / "engine" / "include"
    command = [str(COMPILER), "-O1", f"-I{include}", str(HERE / "allocations.c")]
    command += [str(library / "libpocket.so"), f"-Wl,-rpath,{library}", "-o", str(made)]
    subprocess.run(command, check=True)
    return made


@pytest.mark.skipif(COMPILER is None, reason="no C compiler here to build the counter with")
@pytest.mark.parametrize("beam", [1, 4])
def test_nothing_is_allocated_while_streaming(
    counter: Path, packed: Path, utterances: list[np.ndarray], beam: int, tmp_path: Path
) -> None:
    samples = tmp_path / "samples.f32"
    np.concatenate(utterances).astype(np.float32).tofile(samples)
    command = [str(counter), str(packed), str(samples), str(beam)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    before, while_streaming, labels = (int(part.split()[0]) for part in said.split(", "))
    assert before > 10, "its malloc is the one that counts"
    assert labels > 20, "it had something to write"
    assert while_streaming == 0
