"""The house stands as ARCHITECTURE.md draws it: a room imports only from lower ones."""

import ast
from pathlib import Path

import pytest

import pocketscribe

ROOMS = (  # from the ground up
    ("errors",),
    ("files", "config"),
    ("weights",),
    ("models",),
    ("losses",),
    ("speech",),
    ("decoding",),
    ("evaluation",),
    ("training",),
    ("export",),
    ("search",),
    ("reports",),
    ("recipes",),
    ("fit",),
    ("api",),
    ("batch",),
    ("options",),
    ("cli",),
    ("__main__",),
)
FLOOR = {name: floor for floor, names in enumerate(ROOMS) for name in names}
PACKAGE = Path(pocketscribe.__file__).parent
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_from_lower_ones(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pocketscribe."):
            room = node.module.split(".")[1]
            assert room == own or FLOOR[room] < FLOOR[own], f"imports {node.module}"


def test_no_file_is_too_long() -> None:
    lengths = {str(p.relative_to(PACKAGE)): len(p.read_text().splitlines()) for p in FILES}
    assert {name: n for name, n in lengths.items() if n > 400} == {}
