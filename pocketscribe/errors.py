"""The one exception that is the user's to mend, and the one warning that is theirs to weigh."""


class UserError(Exception):
    """Bad input: the message is one line that says what is wrong, where, and what to do.

    The command line prints it and exits with code 2; a library user catches it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class UserHint(UserWarning):
    """What was asked for works but looks unwise; the command line prints it as one line."""
