"""Builds the engine: `python engine/build.py [--target NAME] [--out DIR]`.

The compiler is the pinned `ziglang` of PyPI (clang), which builds for every target from any
machine. One translation unit a set of instructions; everything is compiled without fused
multiply-adds, so that all of them compute the same bits.
"""

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
FLAGS = [
    "-std=c++20", "-O3", "-ffp-contract=off", "-fno-rtti", "-fno-math-errno", "-fvisibility=hidden",
    "-Wall", "-Wextra", "-Wno-psabi", "-Wno-unused-function", "-g0",
]  # fmt: skip
KERNELS = {
    "x86_64": {
        "avx2": ["-mavx2"],
        "avx512": ["-mavx2", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"],
    },
    "aarch64": {"neon": ["-mcpu=generic+dotprod"]},
}
BEAM = {"beam", "hotwords", "ngram"}  # what a greedy build does without
TARGETS = {
    "x86_64-linux": ["-target", "x86_64-linux-gnu.2.28", "-mcpu=x86_64"],
    "aarch64-linux": ["-target", "aarch64-linux-gnu.2.28", "-mcpu=generic"],
    "aarch64-linux-musl": ["-target", "aarch64-linux-musl", "-mcpu=generic", "-static"],
    "wasm": ["-target", "wasm32-wasi", "-mcpu=generic+simd128+bulk_memory"],
    "wasm-relaxed": ["-target", "wasm32-wasi", "-mcpu=generic+simd128+bulk_memory+relaxed_simd"],
}
WASM_LINK = [
    "-mexec-model=reactor", "-Wl,--export-dynamic", "-Wl,--export=malloc", "-Wl,--export=free",
    "-Wl,--gc-sections", "-Wl,-z,stack-size=131072",
]  # fmt: skip


def build(target: str, out: Path) -> Path:
    """A target's shared library in `out`, its WebAssembly module, or a static program."""
    zig = [sys.executable, "-m", "ziglang", "c++"]
    # Of an inline function that several units compiled, the linker takes the first one: that must
    # be the one with the fewest instructions, so that it runs everywhere.
    kernels = KERNELS.get(target.partition("-")[0], {})
    sources = sorted((HERE / "src").rglob("*.cpp"), key=lambda s: (s.stem in kernels, s))
    wasm = target.startswith("wasm")  # to be small, it searches greedily
    if wasm:
        sources = [source for source in sources if source.stem not in BEAM]
    objects = out / "objects" / target
    objects.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> Path:
        made = objects / f"{source.stem}.o"
        own = kernels.get(source.stem, [])
        small = ["-O2", "-fno-unroll-loops"] if source.parent.name == "kernels" else ["-Oz"]
        form = [*small, "-fno-exceptions", "-DPOCKET_GREEDY"] if wasm else ["-fPIC"]
        command = [*zig, *TARGETS[target], *FLAGS, *own, *form, "-c", source, "-o", made]
        subprocess.run(list(map(str, command)), check=True)
        return made

    with ThreadPoolExecutor(2) as pool:
        compiled = list(pool.map(compile_one, sources))
    if target.endswith("musl"):  # a program that needs nothing of the board that it runs on
        made, link = out / "hear", [HERE / "examples" / "hear.c"]
    else:
        made = out / (f"pocket-{target}.wasm" if wasm else "libpocket.so")
        link = WASM_LINK if wasm else ["-shared", "-Wl,-z,defs"]
    command = [*zig, *TARGETS[target], *link, "-s", *compiled, "-o", made]
    subprocess.run(list(map(str, command)), check=True)
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="x86_64-linux", choices=TARGETS)
    parser.add_argument("--out", type=Path, default=HERE / "build")
    arguments = parser.parse_args()
    print(build(arguments.target, arguments.out))
