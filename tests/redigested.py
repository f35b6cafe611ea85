"""Files of arrays, altered as someone would who knows how to compute a digest."""

from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import save_file

from pocketscribe.models.packed import Arrays, digest

Header = dict[str, str]


def contents(path: Path) -> tuple[Header, Arrays]:
    """What lies in a file, by name: safetensors' own order is another each time."""
    with safe_open(path, "np") as file:
        arrays = {name: file.get_tensor(name).copy() for name in sorted(file.keys())}
        return dict(sorted(file.metadata().items())), arrays


def save_digested(path: Path, header: Header, arrays: Arrays) -> None:
    save_file(arrays, path, {**header, "digest": digest(arrays, header)})


def redigested(path: Path, out: Path, change: Callable[[Header, Arrays], object]) -> Path:
    """A file with its header or arrays changed, under the digest that fits; `out` may be `path`."""
    header, arrays = contents(path)
    change(header, arrays)
    save_digested(out, header, arrays)
    return out
