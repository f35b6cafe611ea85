"""Recipes and --set: text that a hand, a disk or an enemy has changed."""

import json
import random
import tomllib
from pathlib import Path
from typing import Any

from harm import NASTY, cases, flipped, harmed, places, refused
from pocketscribe.recipes.reading import read_recipe, shipped
from pocketscribe.recipes.size import size

SMALL = ("quickstart", "digits", "shared_lowrank", "usm_lite")


def toml(value: Any) -> str:
    """Inline, so that anything may stand anywhere; what TOML has not is left as JSON writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value).replace("Infinity", "inf").replace("NaN", "nan")


def test_bytes(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for case, rng in cases("recipe bytes", 60):
        path.write_bytes(flipped(shipped()[rng.choice(SMALL)].read_bytes(), rng))
        refused(case, read_recipe, str(path))


def test_structure(tmp_path: Path) -> None:
    path, found = tmp_path / "mine.toml", 0
    for case, rng in cases("recipe structure", 60):
        data = harmed(tomllib.loads(shipped()[rng.choice(SMALL)].read_text("utf-8")), rng)
        data = data if isinstance(data, dict) else {"x": data}
        lines = [f"{json.dumps(k)} = {toml(v)}" for k, v in data.items()]
        path.write_text("\n".join(lines), "utf-8", "replace")
        found += refused(case, size, str(path))
    assert found > case / 5, "much harm is seen"


def test_set() -> None:
    for case, rng in cases("set", 60):
        name = rng.choice(SMALL)
        changes = [change(name, rng) for _ in range(rng.choice((1, 1, 2)))]
        refused(case, read_recipe, name, changes)


def change(name: str, rng: random.Random) -> str:
    data = tomllib.loads(shipped()[name].read_text("utf-8"))
    path: list[str] = []
    node: Any = data
    while isinstance(node, dict | list) and node and rng.random() < 0.8:
        _, key = rng.choice([(p, k) for p, k in places(node) if p is node])
        path.append(str(key))
        node = node[key]
    path += rng.choice([[], [], ["x"], ["0"], ["-1"], [""], ["x"] * 900])
    value = rng.choice([*map(toml, NASTY), "[" * 900, "{", "0x" + "f" * 1900, "9" * 1900])
    return rng.choice(["{}={}", "{}={}", "{}={}", "{}{}"]).format(".".join(path), value)
