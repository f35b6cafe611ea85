"""Harm done to files by a seed: what a stranger, a bad disk or a hostile hand may send us.

Whatever it is, we refuse it by one line or read it; FUZZ_CASES=1000 tries more of each kind.
"""

import json
import os
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest

from pocketscribe.errors import UserError

DEEP, LONG = "nested thousands deep", "thousands of digits"  # of which json.dumps makes neither
NASTY: list[Any] = [
    None, True, False, -1, 0, 1, 2, 3, 7, 8, 255, 4096, 10**5, 10**9, 2**31, 2**63, 10**30,
    -(2**63), 0.5, -0.0, 1e-308, 1e308, float("nan"), float("inf"), float("-inf"),
    "", "x", "*", "\0", "../..", "/", "\u2581", "é", "\ud800", "[/b]", "1", "full", "NaN",
    [], {}, [[]], [1], {"x": 1}, {"": None}, ["x"] * 50, DEEP, LONG,
]  # fmt: skip


def cases(kind: str, usual: int) -> Iterator[tuple[int, random.Random]]:
    """Numbered sources of randomness, `usual` of them unless FUZZ_CASES says otherwise."""
    for case in range(int(os.environ.get("FUZZ_CASES", usual))):
        yield case, random.Random(f"{kind} {case}")


def refused(case: int, read: Callable[..., Any], *args: Any) -> bool:
    """Whether it was refused by one line; anything but reading and refusing fails the test."""
    try:
        read(*args)
    except UserError as error:
        line = str(error)  # one line by construction
        assert line, f"case {case}: nothing is said"
        return True
    except Exception as error:
        pytest.fail(f"case {case}: {type(error).__name__}: {error}"[:500])
    return False


def harmed(data: Any, rng: random.Random) -> Any:
    """Plain data with one to three places changed, lost, doubled or swapped."""
    data = {"root": deepcopy(data)}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        parent, key = rng.choice([*places(data)])
        match rng.randrange(8):
            case 0:
                del parent[key]
            case 1:
                other, place = rng.choice([*places(data)])
                parent[key] = deepcopy(other[place])
            case 2 if isinstance(parent, dict):
                parent[rng.choice(("more", "", "\0", "x" * 3000))] = parent.pop(key)
            case 3 if isinstance(parent[key], bool | int | float):
                parent[key] = rng.choice((-1, 1, 2, 1000)) * parent[key] + rng.choice((0, 1))
            case _:
                parent[key] = rng.choice(NASTY)
        if "root" not in data:
            return None
    return data["root"]


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every list or table in the data, with each of its keys."""
    for key in list(data) if isinstance(data, dict) else range(len(data)):
        yield data, key
        if isinstance(data[key], dict | list):
            yield from places(data[key])


def to_json(data: Any) -> str:
    """With what json.dumps would not write."""
    text = json.dumps(data)
    return text.replace(f'"{DEEP}"', "[" * 5000 + "]" * 5000).replace(f'"{LONG}"', "9" * 5000)


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Bits turned, bytes overwritten, cut off, taken out, or doubled."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        start = rng.randrange(len(found) + 1)
        end = min(start + rng.randrange(1, 65), len(found))
        match rng.randrange(6):
            case 0:
                found = found[:start]
            case 1:
                found[start:end] = b""
            case 2:
                found[start:start] = found[start:end]
            case 3:
                found[start:end] = rng.randbytes(end - start)
            case _ if start < len(found):
                found[start] ^= 1 << rng.randrange(8)
    return bytes(found)
