"""Saved recognisers: safetensors for the tensors, JSON in its header for all the rest.

Nothing is unpickled; a stored tensor that several layers use is in the file once. Whatever a file
claims is compared with what lies in it before anything of that size is made.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from pocketscribe.config import Config
from pocketscribe.errors import UserError
from pocketscribe.files import parse_json, replacing
from pocketscribe.models import packed
from pocketscribe.models.packed import Arrays, Layout
from pocketscribe.models.plan import plan_text
from pocketscribe.models.recogniser import (
    ModelConfig,
    Recogniser,
    deployed_tensors,
    is_auxiliary,
    precise_names,
    tensors,
)

FORMAT = "pocketscribe-model-2"
LARGEST_HALF = float(np.finfo(np.float16).max)
LARGEST_HEADER = 4 * 2**20  # bytes; a thousand layers and 65,536 text units fit
EMPTY: Mapping[str, str] = MappingProxyType({})
TYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "U8": np.dtype(np.uint8)}


@dataclass
class Saved:
    """A recogniser with what it takes to use it.

    Attributes:
        units: the text units, as `Units.to_json` wrote them.
        card: what it was trained on, and how well it does: plain JSON for people.
    """

    model: Recogniser
    units: str
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def stages(self) -> list[dict[str, Any]]:
        """What the card says of each stage that made the model.

        Raises:
            UserError: not as a run says it; a card may come from anywhere.
        """
        found = self.card.get("stages", [])
        if not isinstance(found, list) or not all(isinstance(stage, dict) for stage in found):
            raise UserError("a model whose card was not written by a run: its stages are no tables")
        return found


class Header(Config):
    """The metadata of a file, but for its format and its digest; `saved_header` writes it.

    Attributes:
        vocabulary: how many text units the model writes.
    """

    config: ModelConfig
    vocabulary: int = Field(gt=2, le=2**16)
    units: str
    card: dict[str, Any]


def save_model(path: Path, saved: Saved, *, half: bool = False) -> None:
    """Writes a recogniser; `half` stores float16 and leaves out what training alone needs.

    A few tensors are float32 all the same (`precise_names`).
    """
    wanted = (deployed_tensors if half else tensors)(saved.model)
    found = {n: t.detach().cpu().numpy() for n, t in wanted.items()}
    if half:
        dtypes = packed.float_types(saved.model)
        found = {n: array.astype(dtypes[n]) for n, array in found.items()}
    _save(path, found, saved, FORMAT)


def check_numbers(model: Recogniser, source: str) -> None:
    """Raises UserError where a training has left what no file that ships can hold."""
    for name, tensor in tensors(model).items():
        if not (tensor.detach().abs() <= LARGEST_HALF).all():
            raise UserError(
                f"{source}: {name} has come to what is no number in float16: lower the learning "
                "rate, and delete this folder to train it again"
            )


def save_packed(path: Path, saved: Saved) -> None:
    """Writes a recogniser under formats as a `.pocket` file (`models.packed`)."""
    own = {"plan": plan_text(saved.model)}
    _save(path, packed.to_arrays(saved.model), saved, packed.FORMAT, own)


def _save(
    path: Path, arrays: Arrays, saved: Saved, format: str, own: Mapping[str, str] = EMPTY
) -> None:
    header = {
        "format": format,
        "config": saved.model.config.model_dump_json(),
        "vocabulary": str(saved.model.vocabulary),
        "units": saved.units,
        "card": json.dumps(saved.card),
        **own,
    }
    header["digest"] = packed.digest(arrays, header)
    with replacing(path) as beside:
        save_file({n: np.ascontiguousarray(a) for n, a in arrays.items()}, beside, header)
        _in_order(beside)


def _in_order(path: Path) -> None:
    """Sorts a safetensors file's header, which the library writes in an order of the moment."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        ordered = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        file.seek(8)
        file.write(ordered.encode().ljust(length))  # by spaces, as the format has it


def load_model(path: Path) -> Saved:
    """Reads a recogniser back, packed or not, in float32 and ready to evaluate.

    A file without training's heads gives a model without them.

    Raises:
        UserError: the file is missing, truncated, altered, not ours, of another version, does not
            fit its own config, or holds weights that are no numbers.
    """
    with _opened(path) as file:
        written = file.metadata() or {}
        header = _header(written, path)
        model = _planned(header, written["format"], file, path)
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if written.get("digest") != packed.digest(found, written):
        raise UserError(f"{path}: altered since it was written (digest); get or export it again")
    for name, array in found.items():
        if array.dtype != np.uint8 and not np.isfinite(array).all():
            raise UserError(f"{path}: {name} holds what is no number; train or get the model again")
    model.to_empty(device="cpu")
    if written["format"] == packed.FORMAT:
        packed.from_arrays(model, found, str(path))
    else:
        fill(model, {n: torch.from_numpy(a).float() for n, a in found.items()}, str(path))
    return Saved(model.eval(), header.units, header.card)


def sketch(path: Path) -> Saved:
    """A saved recogniser without its weights, which stay in the file: their shapes and its rest.

    Raises:
        UserError: as `load_model`, but for what only the weights themselves can show.
    """
    with _opened(path) as file:
        written = file.metadata() or {}
        header = _header(written, path)
        model = _planned(header, written["format"], file, path)
    return Saved(model, header.units, header.card)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, whose reading raises nothing but UserError."""
    if not path.is_file():
        raise UserError(f"{path}: no such model file")
    try:
        with path.open("rb") as raw:
            if int.from_bytes(raw.read(8), "little") > LARGEST_HEADER:
                raise UserError(f"{path}: not a readable model file (its header is too large)")
        with safe_open(path, "np") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable model file ({error})") from None


def _header(written: dict[str, str], path: Path) -> Header:
    """Raises UserError where the metadata is another version's, or damaged."""
    if str(written.get("format")).startswith("pocketscribe-lm"):
        raise UserError(f"{path}: a language model, which goes beside a recogniser as --lm")
    if written.get("format") not in (FORMAT, packed.FORMAT):
        raise UserError(
            f"{path}: format {written.get('format')!r}; this version reads {FORMAT!r} and "
            f"{packed.FORMAT!r}: train or export the model again"
        )
    source = f"{path}: its header is damaged"
    plain: dict[str, Any] = {key: written[key] for key in ("units",) if key in written}
    for key in ("config", "vocabulary", "card"):
        if key in written:
            plain[key] = parse_json(written[key], f"{source}: {key}")
    return Header.read(plain, source)


def _planned(header: Header, format: str, file: Any, path: Path) -> Recogniser:
    """The model of a header, without memory of its own, which the tensors of the file fit.

    Raises:
        UserError: they do not.
    """
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    found = {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
    layers = header.config.encoder.layers
    if layers > len(found):  # each has tensors of its own
        raise UserError(f"{path}: {len(found)} tensors, its config wants {layers} layers")
    with torch.device("meta"):
        model = Recogniser(header.config, header.vocabulary)
    if not any(map(is_auxiliary, found)):
        model.auxiliary = nn.ModuleDict()
    if format == packed.FORMAT:
        expected = packed.expected_layout(model)
    else:
        precise = precise_names(model)
        half = all(dtype == "F16" for name, (dtype, _) in found.items() if name not in precise)
        expected = _float_layout(model, half)
    laid = {name: (TYPES.get(dtype, dtype), shape) for name, (dtype, shape) in found.items()}
    _check_layout(laid, expected, str(path))
    return model


def fill(model: Recogniser, found: dict[str, Tensor], source: str) -> None:
    """Copies tensors into the model by name.

    Raises:
        UserError: a tensor is missing, superfluous, or has another type or shape.
    """
    laid = {name: (t.detach().cpu().numpy().dtype, tuple(t.shape)) for name, t in found.items()}
    _check_layout(laid, _float_layout(model, half=False), source)
    wanted = tensors(model)
    with torch.no_grad():
        for name, tensor in found.items():
            wanted[name].copy_(tensor)


def _float_layout(model: Recogniser, half: bool) -> Layout:
    types = packed.float_types(model) if half else {}
    float32 = np.dtype(np.float32)
    return {n: (types.get(n, float32), tuple(t.shape)) for n, t in tensors(model).items()}


def _check_layout(
    found: dict[str, tuple[Any, tuple[int, ...]]], expected: Layout, source: str
) -> None:
    """Raises UserError at the first array that is missing, superfluous or another one."""
    for name in sorted(expected.keys() ^ found.keys()):
        what = "misses" if name in expected else "holds the unknown"
        raise UserError(f"{source}: {what} {name}; the file does not fit its config")
    for name, wanted in expected.items():
        if found[name] != wanted:
            (dtype, shape), other = found[name], wanted
            raise UserError(
                f"{source}: {name} is {dtype} {shape}, its config wants {other[0]} {other[1]}"
            )
