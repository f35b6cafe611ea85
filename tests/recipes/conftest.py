"""A recipe of seconds, its run's prepared speech, and what is asked of runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from runs import TWO_STAGES
from tiny import TINY_RECIPE


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_RECIPE, encoding="utf-8")
    return path


@pytest.fixture
def two_stages(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(TWO_STAGES, encoding="utf-8")
    return path


@pytest.fixture
def prepared_beside(tiny_run: Path) -> Callable[[Path], Path]:
    """Shares the finished run's prepared speech with a recipe's folder."""

    def share(recipe: Path) -> Path:
        (recipe.parent / "prepared").symlink_to(tiny_run.with_name("prepared"))
        return recipe.parent

    return share
