"""Saved recognisers: safetensors for the tensors, JSON in its header for all the rest.

Nothing is unpickled; a stored tensor that several layers use is in the file once.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from torch import Tensor

from pocketscribe.errors import UserError
from pocketscribe.files import replacing
from pocketscribe.models import packed
from pocketscribe.models.recogniser import ModelConfig, Recogniser, tensors

FORMAT = "pocketscribe-model-1"


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


def save_model(path: Path, saved: Saved, *, half: bool = False) -> None:
    """Writes a recogniser; `half` stores float16 and leaves out what training alone needs."""
    names = tensors(saved.model)
    if half:
        names = {n: t.half() for n, t in names.items() if not n.startswith("auxiliary.")}
    header = _header(saved, FORMAT)
    with replacing(path) as beside:
        save_file({n: t.detach().cpu().contiguous() for n, t in names.items()}, beside, header)


def save_packed(path: Path, saved: Saved) -> None:
    """Writes a recogniser under formats as a `.pocket` file (`models.packed`)."""
    arrays = packed.to_arrays(saved.model)
    header = _header(saved, packed.FORMAT)
    header["digest"] = packed.digest(arrays, header)
    with replacing(path) as beside:
        save_arrays(arrays, beside, header)


def _header(saved: Saved, format: str) -> dict[str, str]:
    return {
        "format": format,
        "config": saved.model.config.model_dump_json(),
        "vocabulary": str(saved.model.vocabulary),
        "units": saved.units,
        "card": json.dumps(saved.card),
    }


def load_model(path: Path) -> Saved:
    """Reads a recogniser back, packed or not, in float32 and ready to evaluate.

    Raises:
        UserError: the file is missing, truncated, altered, not ours, of another version, or does
            not fit its own config.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such model file")
    try:
        with safe_open(path, "np") as file:
            header = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: numpy has no such type
        raise UserError(f"{path}: not a readable model file ({error})") from None
    if header.get("format") not in (FORMAT, packed.FORMAT):
        raise UserError(
            f"{path}: format {header.get('format')!r}; "
            f"this version reads {FORMAT!r} and {packed.FORMAT!r}"
        )
    small = header["format"] == packed.FORMAT
    if small and header.get("digest") != packed.digest(found, header):
        raise UserError(f"{path}: altered since it was written (digest); get or export it again")
    try:
        config = ModelConfig.read(json.loads(header["config"]), str(path))
        model = Recogniser(config, int(header["vocabulary"]))
        card = json.loads(header["card"])
        units = header["units"]
    except (KeyError, ValueError, RuntimeError) as error:  # torch's, for an impossible size
        raise UserError(f"{path}: its header is damaged ({error})") from None
    if small:
        packed.from_arrays(model, found, str(path))
    else:
        fill(model, {n: torch.from_numpy(a).float() for n, a in found.items()}, str(path))
    return Saved(model.eval(), units, card)


def fill(model: Recogniser, found: dict[str, Tensor], source: str) -> None:
    """Copies tensors into the model by name; only what training alone needs may be missing.

    Raises:
        UserError: a tensor is missing, superfluous, or has another shape.
    """
    wanted = tensors(model)
    missing = sorted(n for n in wanted.keys() - found.keys() if not n.startswith("auxiliary."))
    extra = sorted(found.keys() - wanted.keys())
    if missing or extra:
        what = f"misses {missing[0]}" if missing else f"holds {extra[0]}, which the model has not"
        raise UserError(f"{source}: {what}; the file does not fit its config")
    with torch.no_grad():
        for name, tensor in found.items():
            if wanted[name].shape != tensor.shape:
                raise UserError(
                    f"{source}: {name} is {tuple(tensor.shape)}, "
                    f"the model wants {tuple(wanted[name].shape)}"
                )
            wanted[name].copy_(tensor)
