"""The engine's kernels compiled from its own sources, and what tests of them share.

A row is padded to 16 numbers with zeros, and every kernel keeps them.
"""

import ctypes
import platform
import runpy
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

ENGINE = Path(__file__).parents[2] / "engine"
COMPILER = shutil.which("g++") or shutil.which("clang++")
LANES = 16
SEEDS = st.integers(0, 2**32 - 1)


def compiled(library: Path) -> None:
    """The engine's sources but for streams, with a door to every kernel (operators.cpp)."""
    build = runpy.run_path(str(ENGINE / "build.py"))
    machine = platform.machine().replace("AMD64", "x86_64")
    own = build["KERNELS"].get(machine, {})
    rooms = ("features", "file", "json", "pieces", "plan", "sha256", "tensor")
    sources = [ENGINE / "src" / f"{name}.cpp" for name in rooms]
    sources += [s for s in (ENGINE / "src" / "kernels").glob("*.cpp") if s.stem != "wasm"]
    sources.append(Path(__file__).parent / "operators.cpp")
    objects = library.with_suffix(".objects")
    objects.mkdir()

    def compiled_one(source: Path) -> Path:
        made = objects / f"{source.stem}.o"
        flags = [*build["FLAGS"], *own.get(source.stem, []), "-O1", "-fPIC", "-w"]
        flags += ["-fvisibility=default", f"-I{ENGINE}", "-c", source, "-o", made]
        subprocess.run([COMPILER, *flags], check=True)
        return made

    with ThreadPoolExecutor(2) as pool:
        linked = list(pool.map(compiled_one, sources))
    subprocess.run([COMPILER, "-shared", *linked, "-o", library], check=True)


def opened(library: Path) -> ctypes.CDLL:
    found = ctypes.CDLL(str(library))
    found.open_model.restype = ctypes.c_void_p
    found.widened_half.restype = ctypes.c_float
    found.narrowed_float.restype = ctypes.c_uint16
    found.number.restype = ctypes.c_double
    return found


def same_everywhere(operators: ctypes.CDLL, run: Callable[[int], Any]) -> Any:
    """What `run` gives with each kernel, which is the same."""
    names = (ctypes.c_char_p * 4)()
    first, *others = (run(k) for k in range(operators.kernels(names)))
    for name, other in zip(names[1:], others, strict=False):
        one, another = (x if isinstance(x, tuple) else (x,) for x in (first, other))
        assert all(map(np.array_equal, one, another)), name
    return first


def pointer(x: np.ndarray) -> ctypes.c_void_p:
    return x.ctypes.data_as(ctypes.c_void_p)  # which keeps the array


def padded(x: np.ndarray | torch.Tensor, to: int = LANES) -> np.ndarray:
    """Rows as kernels take them, in float32."""
    x = np.asarray(x, np.float32)
    wide = [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % to)]
    return np.ascontiguousarray(np.pad(x, wide))


def near(found: np.ndarray, expected: torch.Tensor, size: torch.Tensor | float = 1.0) -> None:
    """`found` is what is expected but for float32's rounding of numbers of such a size."""
    width = expected.shape[-1]
    assert not found[..., width:].any(), "padding stays zero"
    error = (torch.from_numpy(found[..., :width]).double() - expected).abs()
    allowed = 4e-6 * (expected.abs() + size) + 1e-7
    assert (error <= allowed).all(), (error / allowed).max()


def numbers(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def wide(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).double()


def rounded(operators: ctypes.CDLL, k: int, x: np.ndarray) -> tuple[np.ndarray, ...]:
    rows, width = x.shape
    own, stride = padded(x), width + -width % 64
    data = np.full((rows, stride), 99, np.int8)
    scale, total = np.zeros(rows, np.float32), np.zeros(rows, np.int32)
    into = (pointer(data), stride, pointer(scale), pointer(total))
    operators.round_rows(k, pointer(own), own.shape[1], rows, width, *into)
    return data, scale, total
