"""The house stands as ARCHITECTURE.md draws it: a room imports only from lower ones."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pocketscribe

ROOMS = (  # from the ground up
    ("errors",),
    ("files", "config", "device"),
    ("weights",),
    ("models",),
    ("losses",),
    ("speech",),
    ("lm",),
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


def imported(path: Path) -> Iterator[str]:
    """Every room that a file imports from, in whichever way; the package offers what api does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "by its whole name"
            names = [f"{node.module}.{name.name}" for name in node.names]
        else:
            continue
        ours = [f"{name}.api".split(".")[:2] for name in names]
        yield from (room if room in FLOOR else "api" for top, room in ours if top == "pocketscribe")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_from_lower_ones(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for room in imported(path):
        assert room == own or FLOOR[room] < FLOOR[own], f"imports {room}"


def test_no_file_is_too_long() -> None:
    lengths = {str(p.relative_to(PACKAGE)): len(p.read_text().splitlines()) for p in FILES}
    assert {name: n for name, n in lengths.items() if n > 400} == {}
