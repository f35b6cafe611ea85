"""What the command line says when something fails that is not the user's input, or is stopped."""

import pytest

from called import Call


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(13, "Permission denied", "out"), "out: Permission denied"),
        (FileNotFoundError("features.lca is missing\nwhen calling x"), "features.lca is missing"),
        (EOFError("a file ended early"), "a file ended early"),
        (MemoryError("no room for 7 PiB"), "too much for this machine (no room for 7 PiB)"),
        (RecursionError("nested too deeply"), "too much for this machine (nested too deeply)"),
        (OverflowError("int too large"), "too much for this machine (int too large)"),
        (RuntimeError("can't allocate memory"), "too much for this machine (can't allocate memory"),
    ],
)
def test_whatever_a_library_says_is_one_line(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    raising(monkeypatch, error)
    ended = call("size", "quickstart")
    assert ended.code == 2 and ended.err.strip().startswith(f"pocketscribe: {line}")
    assert ended.err.strip().count("\n") == 0


def test_a_fault_of_ours_is_not_blamed_on_the_input(
    monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    raising(monkeypatch, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        call("size", "quickstart")


def test_only_a_run_promises_to_go_on(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    ended = call("size", "quickstart")
    assert ended.code == 130 and ended.err == "pocketscribe: stopped\n"
    ended = call("run", "quickstart", "--out", "nowhere")
    assert ended.code == 130
    assert ended.err == "pocketscribe: stopped; the same command goes on from here\n"


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """From now on `size` and `run` end like this."""

    def ends(*_: object) -> None:
        raise error

    monkeypatch.setattr("pocketscribe.recipes.size.size", ends)
    monkeypatch.setattr("pocketscribe.recipes.run.Run", ends)
