"""Compiles the library while the wheel is built, and puts it beside the Python that calls it."""

import platform
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TAGS = {
    "x86_64-linux": "manylinux_2_28_x86_64",
    "aarch64-linux": "manylinux_2_28_aarch64",
}


class EngineBuild(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        sys.path.insert(0, self.root)
        from build import build

        target = f"{platform.machine()}-{sys.platform}"
        if target not in TAGS:
            raise RuntimeError(f"{target}: wheels are built for {', '.join(TAGS)}")
        library = build(target, Path(self.root) / "build")
        build_data["force_include"][str(library)] = "pocketscribe_engine/libpocket.so"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{TAGS[target]}"
