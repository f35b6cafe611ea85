"""The seal of an exported folder: a digest of all that a device must hold, kept in one file of it.

Runtimes end the whole process over some damaged files; so each byte is checked before they see it.
A file that holds the seal is digested with the seal left blank.
"""

import hashlib
import re
from pathlib import Path

from pocketscribe.errors import UserError

BLANK_SEAL = f"pocketscribe-seal-{'0' * 64}"
SEAL = re.compile(rb"pocketscribe-seal-([0-9a-f]{64})")


def device_files(folder: Path) -> list[Path]:
    """All that a device must hold: the networks and the tokens, not a card beside them."""
    needed = (".onnx", ".pte")
    return sorted(
        p for p in folder.iterdir() if p.suffix in needed or p.name in ("tokens.txt", "model.json")
    )


def folder_bytes(folder: Path) -> int:
    """Bytes of all that a device must hold."""
    return sum(p.stat().st_size for p in device_files(folder))


def seal(folder: Path, keeper: str) -> None:
    """Fills in the blank seal that lies in the file `keeper`, once everything is written."""
    path = folder / keeper
    data = path.read_bytes()
    assert data.count(BLANK_SEAL.encode()) == 1
    found = BLANK_SEAL.replace("0" * 64, _digest(folder, keeper))
    path.write_bytes(data.replace(BLANK_SEAL.encode(), found.encode()))


def check_seal(folder: Path, keeper: str) -> None:
    """Raises UserError where a file is missing, damaged, altered, or of an earlier version."""
    path = folder / keeper
    if not path.is_file():
        raise UserError(f"{path}: no such file; the exported folder is not complete")
    written = SEAL.findall(path.read_bytes())
    if len(written) != 1:
        raise UserError(
            f"{folder}: damaged, or not exported by this version of Pocketscribe; export it again"
        )
    if written[0].decode() != _digest(folder, keeper):
        raise UserError(
            f"{folder}: a file is missing, damaged, or altered since the export; export it again"
        )


def _digest(folder: Path, keeper: str) -> str:
    """SHA-256 over the names, sizes and contents of the folder's files."""
    found = hashlib.sha256()
    for path in device_files(folder):
        data = path.read_bytes()
        if path.name == keeper:
            data = SEAL.sub(BLANK_SEAL.encode(), data)
        found.update(f"{path.name} {len(data)}\n".encode())
        found.update(data)
    return found.hexdigest()
