"""The one exception that is the user's to mend, and the one warning that is theirs to weigh."""

from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_LINE = 1000  # characters


class UserError(Exception):
    """Bad input: the message is one line that says what is wrong, where, and what to do.

    The command line prints it and exits with code 2; a library user catches it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(message: str) -> str:
    """Fit for a terminal: of bounded length, and free of whatever a damaged file put into it."""
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(message.split()))
    return line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…"


class UserHint(UserWarning):
    """What was asked for works but looks unwise; the command line prints it as one line."""


@contextmanager
def told_of(source: str) -> Iterator[None]:
    """Around what is done for `source`, whose name then begins the line of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


@contextmanager
def needs_extra(extra: str, asked: str) -> Iterator[None]:
    """Around what imports an optional package: its absence is a UserError that names the extra."""
    try:
        yield
    except ImportError as error:
        package = (error.name or str(error)).split(".")[0]
        raise UserError(
            f"{asked}: {package} is not installed; pip install 'pocketscribe[{extra}]'"
        ) from None


@contextmanager
def needs_engine(
    asked: str = "--runtime engine", instead: str = "choose --runtime torch"
) -> Iterator[None]:
    """Around what imports the engine's package, which was asked for by `asked`."""
    try:
        yield
    except (ImportError, OSError) as error:  # not there; its library does not load
        raise UserError(
            f"{asked}: pocketscribe-engine cannot be used ({error}); pip install ./engine "
            f"from the repository, or {instead}"
        ) from None
