"""What cannot be exported is refused before any work."""

from pathlib import Path

import pytest

from pocketscribe.errors import UserError
from pocketscribe.export.export import FOLDERS, TARGETS, export


@pytest.mark.parametrize("to", FOLDERS)
def test_a_place_that_holds_something_else(tmp_path: Path, to: str) -> None:
    (tmp_path / "home" / "letters").mkdir(parents=True)
    with pytest.raises(UserError, match="home: holds 'letters', which would be lost"):
        export(tmp_path / "no model", to, tmp_path / "home")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file: is a file already"):
        export(tmp_path / "no model", to, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("to", [to for to in TARGETS if to not in FOLDERS])
def test_a_folder_where_a_file_should_be(tmp_path: Path, to: str) -> None:
    with pytest.raises(UserError, match="is a folder already"):
        export(tmp_path / "no model", to, tmp_path)


def test_no_such_target(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--to coreml: not a target; choose packed, safetensors"):
        export(tmp_path / "no model", "coreml", tmp_path / "out")
