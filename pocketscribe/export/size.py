"""Where a model's bytes are."""

from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from pocketscribe.export.open import exported_graphs, model_file, open_model
from pocketscribe.export.seal import device_files
from pocketscribe.models import (
    Recogniser,
    deployed_tensors,
    stored_parameters,
    tensors,
    virtual_parameters,
)
from pocketscribe.models.packed import expected_layout, float_types
from pocketscribe.models.saved import load_model
from pocketscribe.weights import Weight

FLOAT32_BYTES = 4  # of what a stream remembers


def size_of_file(path: Path) -> dict[str, Any]:
    """The documented keys of `size --json`: bytes, bits_per_weight, parameters_…, parts.

    `parts` maps a module, "header" or a file to its bytes; their sum is `bytes`. Of a model whose
    modules are known (not of ONNX files) there is more: "tensors" lists each stored tensor with its
    shape, bytes, effective bits per weight and the layers that it serves; "state_bytes" is what one
    stream remembers between chunks, "layers" how many layers share it.

    Raises:
        UserError: there is no model.
    """
    if exported_graphs(path):
        runtime = open_model(path)
        parts = {p.name: p.stat().st_size for p in device_files(path)}
        return _summary(parts, runtime.parameters_stored, runtime.parameters_virtual)
    return _of_tensors(model_file(path))


def size_of_model(model: Recogniser) -> dict[str, Any]:
    """The same of a model that is in no file yet, as it will ship, to the byte; without a header.

    Under formats that is packed; else in float16.
    """
    if model.config.formats:
        laid = expected_layout(model).items()
        sizes = {name: dtype.itemsize * prod(shape) for name, (dtype, shape) in laid}
    else:
        dtypes = float_types(model)
        shipped = deployed_tensors(model).items()
        sizes = {name: dtypes[name].itemsize * tensor.numel() for name, tensor in shipped}
    return _described(_by_part(sizes), sizes, model)


def _of_tensors(path: Path) -> dict[str, Any]:
    """A safetensors file by the modules of its tensors; what remains is its header."""
    model = load_model(path).model  # refuses whatever is not a whole model of ours
    with safe_open(path, "np") as file:
        sizes = {name: file.get_tensor(name).nbytes for name in file.keys()}  # noqa: SIM118
    parts = _by_part(sizes)
    parts["header"] = path.stat().st_size - sum(parts.values())
    return _described(parts, sizes, model)


def _by_part(sizes: dict[str, int]) -> dict[str, int]:
    parts: dict[str, int] = {}
    for name, count in sizes.items():
        parts[_part(name)] = parts.get(_part(name), 0) + count
    return parts


def _part(name: str) -> str:
    """Encoder blocks one by one, everything else by its first name."""
    pieces = name.split(".")
    if pieces[:2] == ["encoder", "blocks"]:
        return ".".join(pieces[:3])
    return "normalisation" if name in ("mean", "inverse_std") else pieces[0]


def _described(parts: dict[str, int], sizes: dict[str, int], model: Recogniser) -> dict[str, Any]:
    """With the table that resolves all sharing, and the memory that sharing does not save."""
    names = {id(tensor): name for name, tensor in tensors(model).items()}

    def count(weight: Weight) -> int:
        packed = f"{weight.key}.packed"
        return sizes[packed if packed in sizes else names[id(weight.stored)]]

    rows: dict[int, dict[str, Any]] = {}
    for name, use in model.weights.uses.items():
        for weight in (use.weight, use.factor):
            if weight is not None:
                rows.setdefault(id(weight), _row(weight, count(weight)))["serves"].append(name)
    left = model.config.chunks.streaming.left
    state = model.initial_state(1, left).values()
    return {
        **_summary(parts, stored_parameters(model), virtual_parameters(model)),
        "tensors": list(rows.values()),
        "layers": model.config.encoder.layers,
        "state_bytes": sum(FLOAT32_BYTES * t.numel() for t in state),
    }


def _row(weight: Weight, count: int) -> dict[str, Any]:
    """A stored tensor, which takes so many bytes."""
    out, fan_in = weight.shape
    return {
        "tensor": weight.key,
        "shape": [out, fan_in],
        "bytes": count,
        "bits_per_weight": round(8 * count / (out * fan_in), 3),
        "serves": [],
    }


def _summary(parts: dict[str, int], stored: int, virtual: int) -> dict[str, Any]:
    total = sum(parts.values())
    return {
        "bytes": total,
        "bits_per_weight": round(8 * total / stored, 3),
        "parameters_stored": stored,
        "parameters_virtual": virtual,
        "parts": parts,
    }
