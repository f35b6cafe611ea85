"""What `call` (conftest.py) gives back of a command, and what a refusal has to look like."""

from collections.abc import Callable
from typing import NamedTuple


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Ended]


def check_refused(ended: Ended, said: str) -> None:
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.startswith("pocketscribe: ") and ended.err.count("\n") == 1
    assert "Traceback" not in ended.out + ended.err
