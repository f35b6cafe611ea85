"""`size`: where a model's bytes are. A recipe is sized before anything is trained."""

from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from pocketscribe.errors import UserError
from pocketscribe.export.open import model_file, open_model
from pocketscribe.models import Recogniser, deployed_parameters
from pocketscribe.models.saved import tensors
from pocketscribe.recipes.recipe import read_recipe, shipped

FLOAT32_BYTES = 4


def size(model: str) -> dict[str, Any]:
    """The documented keys of `size --json`: bytes, bits_per_weight, parameters_…, parts.

    `parts` maps a module (or "header", "file") to its bytes; their sum is `bytes`.

    Raises:
        UserError: it is neither a model nor a recipe.
    """
    path = Path(model)
    if path.suffix == ".toml" or (not path.exists() and model in shipped()):
        return _of_recipe(model)
    if not path.exists():
        raise UserError(
            f"{model}: neither a model nor a recipe (shipped recipes: {', '.join(shipped())})"
        )
    if (path / "encoder.onnx").is_file():
        runtime = open_model(path)
        assert runtime.parameters_stored is not None
        parts = {p.name: p.stat().st_size for p in sorted(path.iterdir()) if p.suffix != ".json"}
        return _summary(parts, runtime.parameters_stored)
    return _of_file(model_file(path))


def _of_file(path: Path) -> dict[str, Any]:
    """A safetensors file by the modules of its tensors; what remains is its header."""
    from pocketscribe.models.saved import load_model

    stored = sum(p.numel() for p in deployed_parameters(load_model(path).model).values())
    parts: dict[str, int] = {}
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            piece = file.get_slice(name)
            width = {"F32": 4, "F16": 2, "I64": 8}[piece.get_dtype()]
            part = _part(name)
            parts[part] = parts.get(part, 0) + width * prod(piece.get_shape())
    parts["header"] = path.stat().st_size - sum(parts.values())
    return _summary(parts, stored)


def _of_recipe(recipe: str) -> dict[str, Any]:
    """As `export --to safetensors` would store it, but in float32 and without the header."""
    read = read_recipe(recipe)
    model = Recogniser(read.model, read.speech.units.size)
    deployed = deployed_parameters(model)
    parts: dict[str, int] = {}
    for name, tensor in tensors(model).items():
        if not name.startswith("auxiliary."):
            part = _part(name)
            parts[part] = parts.get(part, 0) + FLOAT32_BYTES * tensor.numel()
    return _summary(parts, sum(p.numel() for p in deployed.values()))


def _part(name: str) -> str:
    """Encoder blocks one by one, everything else by its first name."""
    pieces = name.split(".")
    if pieces[:2] == ["encoder", "blocks"]:
        return ".".join(pieces[:3])
    return "normalisation" if name in ("mean", "inverse_std") else pieces[0]


def _summary(parts: dict[str, int], parameters: int) -> dict[str, Any]:
    total = sum(parts.values())
    return {
        "bytes": total,
        "bits_per_weight": round(8 * total / parameters, 3),
        "parameters_stored": parameters,
        "parameters_virtual": parameters,
        "parts": parts,
    }
