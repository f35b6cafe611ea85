"""The packed artefact, `.pocket`: a recogniser in its true bits, to be multiplied from as it lies.

One safetensors file, which may be mapped into memory. It holds, each once:

    KEY.packed    a stored tensor, as `weights.panels` lays it out, to the bit
    NAME          everything else (norms, biases, scales of maps, statistics), as float16, but for
                  the few tensors that need float32 (`precise_names`)

The metadata of its header: format (with the version), plan (what is to be computed from these
arrays, `models.plan`), config (the model's, from which the plan follows), vocabulary, units, card,
and digest: the SHA-256 of all the rest, so that an altered file is refused and not misheard.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
import torch

from pocketscribe.errors import UserError
from pocketscribe.models.recogniser import Recogniser, deployed_tensors, precise_names, tensors
from pocketscribe.weights.panels import from_panels, to_panels

FORMAT = "pocketscribe-packed-2"
Arrays = dict[str, np.ndarray]
Layout = dict[str, tuple[np.dtype, tuple[int, ...]]]  # type and shape of every array by its name


def to_arrays(model: Recogniser) -> Arrays:
    """Everything that ships, by its name in the file."""
    found: Arrays = {}
    for key, weight in model.weights.stored.items():
        found[f"{key}.packed"] = to_panels(weight.packed(), weight.shape, weight.format)
    dtypes = float_types(model)
    for name, tensor in _floats(model).items():
        found[name] = tensor.detach().cpu().numpy().astype(dtypes[name])
    return found


def expected_layout(model: Recogniser) -> Layout:
    """Type and shape of every array, from shapes and formats alone."""
    found: Layout = {
        f"{key}.packed": (np.dtype(np.uint8), (weight.packed_bytes,))
        for key, weight in model.weights.stored.items()
    }
    dtypes = float_types(model)
    for name, tensor in _floats(model).items():
        found[name] = dtypes[name], tuple(tensor.shape)
    return found


@torch.no_grad()
def from_arrays(model: Recogniser, found: Arrays, source: str) -> None:
    """Fills the model with what a file held, in the model's own layout.

    Raises:
        UserError: a pattern is none, or a weight no number.
    """
    for key, weight in model.weights.stored.items():
        parts = from_panels(found[f"{key}.packed"], weight.shape, weight.format)
        try:
            weight.read(parts)
        except ValueError as error:
            raise UserError(f"{source}: {key}: {error}") from None
        if not weight.stored.isfinite().all():
            raise UserError(f"{source}: {key} holds what is no number; get the model again")
    for name, tensor in _floats(model).items():
        tensor.copy_(torch.from_numpy(found[name]))


def float_types(model: Recogniser) -> dict[str, np.dtype]:
    """The type in which each of `tensors` ships where no format says otherwise."""
    precise = precise_names(model)
    return {n: np.dtype(np.float32 if n in precise else np.float16) for n in tensors(model)}


def digest(arrays: Arrays, header: Mapping[str, str]) -> str:
    """SHA-256 over all arrays and all of the header but the digest itself."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    for key, value in sorted(header.items()):
        if key != "digest":
            found.update(f"{key} {len(value)}\n{value}\n".encode())
    return found.hexdigest()


def _floats(model: Recogniser) -> dict[str, torch.Tensor]:
    """What is not packed, each tensor once: norms, biases, scales, statistics."""
    packed = {id(weight.stored) for weight in model.weights.stored.values()}
    return {
        name: tensor for name, tensor in deployed_tensors(model).items() if id(tensor) not in packed
    }
