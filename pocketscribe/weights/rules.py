"""Rules over the names of weights: the first one that matches a name says what holds for it."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from pocketscribe.config import Config
from pocketscribe.errors import UserError

C = TypeVar("C", bound=Config)


class Rule(Config):
    """What a subclass adds holds for every name that `match` fits (`*` crosses dots)."""

    match: str


def first_match(name: str, rules: Sequence[Rule]) -> Rule | None:
    """The rule that decides for `name`."""
    return next((rule for rule in rules if fnmatchcase(name, rule.match)), None)


def resolve(name: str, rules: Sequence[Rule], kind: type[C]) -> C:
    """What the first matching rule says of `name`; without one, a `kind` of defaults."""
    rule = first_match(name, rules)
    return kind() if rule is None else kind(**rule.model_dump(exclude={"match"}))


def check_rules(rules: Sequence[Rule], names: Collection[str], where: str) -> None:
    """Refuses rules that decide for no name.

    Raises:
        UserError: a rule matches no name, or only names that earlier rules match.
    """
    decisive = [first_match(name, rules) for name in names]
    for rule in rules:
        if not any(fnmatchcase(name, rule.match) for name in names):
            some = ", ".join([*names][:3])
            raise UserError(
                f"{where}: match = {rule.match!r} fits no weight (they are called {some}, …)"
            )
        if not any(found is rule for found in decisive):
            raise UserError(
                f"{where}: match = {rule.match!r} has no effect: earlier rules match all "
                "that it fits; put it before them"
            )
